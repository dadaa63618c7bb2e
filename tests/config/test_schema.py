"""The schema, files, overrides and their errors; every packaged config and accelerate config is read."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.config.loading import check_resume_changes, dump_config, find_config, load_config, load_sections
from cyclealign.config.schema import OWNED_TRAINING_KEYS, Config
from cyclealign.config.training_keys import check_training
from cyclealign.config.training_types import KEYS
from cyclealign.distill.cprd_config import CPRDConfig
from cyclealign.files.packaged import resource_dir
from cyclealign.files.strict_yaml import read_yaml, write_yaml
from cyclealign.losses import CPRD, PRO, RRHF, ListMLE, SimPO
from cyclealign.types import UserError

CONFIGS = resource_dir("configs")
SMALL = """\
name: small
data: {prompts: builtin:openers-train}
black_box: {backend: local}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def failure(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Files ------------------------------------------------------------------------------------------------------


def test_defaults_are_the_documented_ones(small: Path) -> None:
    config = load_config(small)
    assert (config.seed, config.output_dir, config.run_dir) == (42, Path("runs"), Path("runs/small"))
    assert (config.data.format, config.data.split, config.data.limit) == ("auto", "train", 1000)
    assert config.policy.model == "builtin:tiny-chat"
    assert config.policy.lora is not None
    assert (config.policy.lora.r, config.policy.lora.alpha, config.policy.lora.target_modules) == (16, 32, "all-linear")
    assert (config.generator.candidates, config.generator.top_p, config.generator.chunk) == (3, 0.95, 64)
    assert (config.black_box.api_key_env, config.black_box.max_unranked) == ("OPENAI_API_KEY", 0.2)
    assert (config.demonstrations.gate, config.demonstrations.token_budget) == (0.3, 2048)
    assert config.loss == RRHF()
    assert (config.anchor.weight, config.layout, config.drift.keep) == (0.0, "auto", "auto")
    assert (config.cycle.batch_size, config.cycle.max_interactions, config.cycle.target) == (256, 5, "black_box")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_packaged_config_is_read_and_written_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
    assert config.name.replace("-", "_") == path.stem


# Packaged launches, and the kind of each by accelerate's name.
LAUNCHES = {
    "single_gpu": "NO",
    "ddp": "MULTI_GPU",
    "multi_node": "MULTI_GPU",
    "fsdp2": "FSDP",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
}


def test_the_packaged_configs_are_those_of_the_interface() -> None:
    names = {"quickstart", "demo", "hh_rlhf_tiny", "hh_rlhf_rrhf_7b", "hh_rlhf_pro_7b", "hh_rlhf_simpo_7b"}
    assert {p.stem for p in CONFIGS.glob("*.yaml")} == names
    assert {p.stem for p in (CONFIGS / "accelerate").glob("*.yaml")} == set(LAUNCHES)


@pytest.mark.parametrize("name", ["rrhf", "pro"])
def test_paper_like_configs_are(name: str) -> None:
    config = load_config(CONFIGS / f"hh_rlhf_{name}_7b.yaml")
    assert (config.generator.candidates, config.cycle.max_interactions) == (3, 5)
    assert (config.demonstrations.gate, config.anchor.weight) == (0.0, 0.0)
    assert config.loss.name == name
    assert (config.policy.max_prompt_tokens, config.generator.max_new_tokens) == (384, 128)


def test_quickstart_holds_the_policy() -> None:
    config = load_config("quickstart")
    assert config.anchor.weight > 0
    assert config.black_box.backend == "local"
    assert config.generator.backend == "transformers"
    assert config.cycle.scorer is not None
    assert None not in (config.drift.max_nll_rise, config.drift.min_distinct2)


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml", "configs/quickstart"])
def test_packaged_config_by_name_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "quickstart.yaml"


def test_a_file_wins_over_a_packaged_name(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    small.rename("quickstart.yaml")
    assert load_config("quickstart.yaml").name == "small"


def test_missing_config_names_the_packaged_ones(tmp_path: Path) -> None:
    message = failure(tmp_path / "nothing.yaml")
    assert "nothing.yaml: no such file" in message
    assert "quickstart" in message


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_configs_by_accelerates_own_loader(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    loaded = load_config_from_file(str(path))
    assert isinstance(loaded, ClusterConfig)
    kind = LAUNCHES[path.stem]
    assert loaded.distributed_type.value == kind
    assert loaded.num_machines == (2 if path.stem == "multi_node" else 1)
    assert loaded.num_processes == (1 if path.stem == "single_gpu" else 8 * loaded.num_machines)
    # The launcher fills its own arguments from these sections: a key that is none of them would be ignored.
    known = set(vars(launch_command_parser().parse_args(["script.py"])))
    assert set(loaded.fsdp_config) | set(loaded.deepspeed_config) <= known
    assert (kind == "FSDP") == bool(loaded.fsdp_config)
    assert (kind == "DEEPSPEED") == bool(loaded.deepspeed_config)


def test_fsdp2_config_makes_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launcher exports must be what FSDP2 accepts: it refuses version 1's options."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = str(CONFIGS / "accelerate" / "fsdp2.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", path, "script.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == load_config_from_file(path).fsdp_config["fsdp_state_dict_type"]


# YAML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("5", 5),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("", None),
        ("~", None),
        ("2024-01-02", "2024-01-02"),
        ("1:30", "1:30"),
        ("'1e-5'", "1e-5"),
        ("e5", "e5"),
        ("[a, 1e-3]", ["a", 1e-3]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_yaml_scalars(text: str, value: Any) -> None:
    found = read_yaml(text, "x")
    assert found == value
    assert type(found) is type(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    plain | st.sampled_from(["1e5", "1e-5", "no", "yes", "1:30", "0x1f", "010", "1_000", ".5", "2001-01-01", "~", "<<"])
)
def test_yaml_round_trip(value: Any) -> None:
    assert read_yaml(write_yaml(value), "x") == value


def test_duplicate_key_names_the_line(small: Path) -> None:
    small.write_text(SMALL + "seed: 1\nname: again\n")
    assert failure(small) == f"{small}:5: not valid YAML: key 'name' is given twice"


def test_duplicate_key_below_a_section(small: Path) -> None:
    small.write_text(SMALL + "policy:\n  model: a\n  model: b\n")
    assert f"{small}:6:" in failure(small)


def test_syntax_error_names_the_line(small: Path) -> None:
    small.write_text("name: small\ndata: [1, 2\nseed: 1\n")
    assert f"{small}:3: not valid YAML" in failure(small)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "null"])
def test_top_level_must_be_sections(small: Path, text: str) -> None:
    small.write_text(text)
    assert "expected sections" in failure(small)


@pytest.mark.parametrize("text", ["a: &x [*x]", "? [a]\n: b", "? {a: 1}\n: b", "!!python/object:os.system {}", "\x00"])
def test_odd_yaml_is_one_line(small: Path, text: str) -> None:
    small.write_text(text)
    message = failure(small)
    assert str(small) in message or "nested more than" in message


def test_not_utf8(small: Path) -> None:
    small.write_bytes(b"name: \xff\xfe")
    assert "not UTF-8" in failure(small)


# Overrides --------------------------------------------------------------------------------------------------


def test_overrides_are_yaml_values(small: Path) -> None:
    config = load_config(small, ["training.learning_rate=1e-5", "seed=7", "data.limit=null", "black_box.passes=2"])
    assert config.training == {"learning_rate": 1e-5}
    assert (config.seed, config.data.limit, config.black_box.passes) == (7, None, 2)


def test_override_lists_and_sections(small: Path) -> None:
    config = load_config(
        small, ["policy.lora.target_modules=[q_proj, v_proj]", "black_box.price={input: 1, output: 2.5}"]
    )
    assert config.policy.lora is not None
    assert config.policy.lora.target_modules == ("q_proj", "v_proj")
    assert config.black_box.price is not None
    assert (config.black_box.price.input, config.black_box.price.output) == (1.0, 2.5)


def test_override_value_may_hold_an_equals_sign(small: Path) -> None:
    assert load_config(small, ["data.prompts=a=b.jsonl"]).data.prompts == "a=b.jsonl"


def test_new_loss_name_replaces_the_section(small: Path) -> None:
    small.write_text(SMALL + "loss: {name: simpo, beta: 5.0, pairs: all}\n")
    assert load_config(small).loss == SimPO(beta=5.0, pairs="all")
    assert load_config(small, ["loss.name=pro", "loss.gap_temperature=false"]).loss == PRO(gap_temperature=False)
    # The same name keeps the fields.
    assert load_config(small, ["loss.name=simpo", "loss.beta=3.0"]).loss == SimPO(beta=3.0, pairs="all")


def test_loss_name_goes_first_wherever_it_stands(small: Path) -> None:
    assert load_config(small, ["loss.beta=4.0", "loss.name=simpo"]).loss == SimPO(beta=4.0)


def test_loss_field_without_a_name_is_the_default_loss(small: Path) -> None:
    assert load_config(small, ["loss.sft_weight=0.5"]).loss == RRHF(sft_weight=0.5)


def test_a_key_below_a_null_section_makes_it(small: Path) -> None:
    assert load_config(small, ["policy.lora=null"]).policy.lora is None
    small.write_text(SMALL + "policy: {lora: null}\n")
    lora = load_config(small, ["policy.lora.r=8"]).policy.lora
    assert lora is not None
    assert (lora.r, lora.alpha) == (8, 32)
    assert load_config(small, ["cycle.warm_start.sft=x.jsonl"]).cycle.warm_start is not None


def test_free_sections_keep_what_they_are_given(small: Path) -> None:
    config = load_config(small, ["black_box.request.reasoning.effort=low", "training.lr_scheduler_kwargs={a: 1}"])
    assert config.black_box.request == {"reasoning": {"effort": "low"}}
    assert config.training == {"lr_scheduler_kwargs": {"a": 1}}


# Errors -----------------------------------------------------------------------------------------------------

WRONG = [
    (["loss.name=simpo", "loss.betaa=3"], "unknown key loss.betaa; did you mean loss.beta?"),
    (["loss.beta=3"], "unknown key loss.beta; loss rrhf has name, sft_weight"),
    (["generator.candidate=4"], "unknown key generator.candidate; did you mean generator.candidates?"),
    (["candidates=4"], "unknown key candidates; did you mean generator.candidates?"),
    (["learning_rate=1e-5"], "unknown key learning_rate; did you mean training.learning_rate?"),
    (["training.learning_rte=1e-5"], "unknown key training.learning_rte; did you mean training.learning_rate?"),
    (["black_box.price={input: 1, output: x}"], 'black_box.price.output: expected a number, got "x"'),
    (["black_box.price=cheap"], "black_box.price: expected a section (key: value) or 'auto', got \"cheap\""),
    (
        ["black_box.backend=openai", "black_box.model=m", "black_box.provider=opena"],
        "black_box.provider: expected one of auto, openai, azure, anthropic, gemini, mistral, deepseek, openrouter,"
        ' groq, together, ollama, llama_cpp, lm_studio, vllm, sglang, other, got "opena"; did you mean openai?',
    ),
    (
        ["black_box.backend=openai", "black_box.model=m", "black_box.reasoning=low", "black_box.request={thinking: 1}"],
        "black_box.request.thinking: black_box.reasoning=low says it too; remove one of them",
    ),
    (["black_box.price.inputs=1"], "unknown key black_box.price.inputs; did you mean black_box.price.input?"),
    (
        ["loss.name=simp"],
        "loss.name: expected one of rrhf, pro, listmle, pld, simpo, dpo, margin_mse, cprd, idcm, quantidce, ranknet,"
        ' lambdarank, listnet, kl, mse, sppo, python, got "simp"; did you mean simpo?',
    ),
    (["layout=pad"], 'layout: expected one of auto, cached_prefix, padded, got "pad"; did you mean padded?'),
    (["seed=abc"], 'seed: expected a whole number, got "abc"'),
    (["seed=1.5"], "seed: expected a whole number, got 1.5"),
    (["seed=true"], "seed: expected a whole number, got true"),
    (["seed=null"], "seed: expected a whole number, got null"),
    (["seed=-1"], "seed: expected a value >= 0, got -1"),
    (["generator.candidates=1"], "generator.candidates: expected a value >= 2, got 1"),
    (["generator.top_p=1.5"], "generator.top_p: expected a value <= 1.0, got 1.5"),
    (["generator.temperature=.inf"], "generator.temperature: expected a finite number, got inf"),
    (["generator.temperature=.nan"], "generator.temperature: expected a finite number, got nan"),
    (["black_box.model=4"], "black_box.model: expected text, got 4; write it in quotes"),
    (["policy.lora.target_modules=3"], "policy.lora.target_modules: expected text or a list, got 3"),
    (["policy.lora=8"], "policy.lora: expected a section (key: value), got 8"),
    (["data=x"], 'data: expected a section (key: value), got "x"'),
    (["data.prompts="], "data.prompts: expected text, got null"),
    (["data.prompts=''"], 'data.prompts: expected text that is not empty, got ""'),
    (["loss=pro"], 'loss: expected a section (key: value), got "pro"'),
    (["name=a/b"], "name: expected letters, digits, '.', '_' or '-', beginning with a letter or digit, got \"a/b\""),
    (["loss.sft_weight=high"], 'loss.sft_weight: expected a number, got "high"'),
    (["black_box.backend=openai"], "black_box.model: needed for backend openai (the name that the API knows)"),
    (["black_box.backend=replay"], "black_box.path: needed for backend replay"),
    (["black_box.backend=reward_model"], "black_box.path: needed for backend reward_model"),
    (["black_box.api_key_env=HOME"], "black_box.api_key_env: must name an environment variable that ends in _API_KEY"),
    (["black_box.base_url=localhost:8000"], "black_box.base_url: expected a URL like http://127.0.0.1:8000/v1"),
    (["black_box.base_url=http://me:pw@h/v1"], "black_box.base_url: a user name or password in it would be written"),
    (["black_box.request.api_key=x"], "black_box.request.api_key: a secret in it would be written"),
    (["black_box.request.stream=true"], "black_box.request.stream: set by the ranker for each call; remove it"),
    (["generator.backend=server"], "generator.endpoints: needed for backend server"),
    (["generator.endpoints=[here]"], "generator.endpoints: expected a URL like http://127.0.0.1:8000/v1, got 'here'"),
    (
        ["policy.quantization=4bit", "policy.lora=null"],
        "policy.quantization: 4bit weights cannot be trained themselves",
    ),
    (["training.seed=3"], "training.seed: set by the run itself (see seed, output_dir, cycle); remove it"),
    (["training.hub_token=x"], "training.hub_token: a secret would be written to the run directory"),
    (["training.learning_rate=fast"], 'training.learning_rate: expected a number, got "fast"'),
    (["training.learning_rate=-1"], "training.learning_rate: expected a value >= 0.0, got -1"),
    (["training.bf16=1"], "training.bf16: expected true or false, got 1"),
    (["training.lr_scheduler_type=cosin"], 'training.lr_scheduler_type: "cosin" is not known; did you mean cosine?'),
    (["training.per_device_train_batch_size=0"], "training.per_device_train_batch_size: expected a value >= 1, got 0"),
    (["loss.name"], "override 'loss.name': expected key=value"),
    (["=3"], "override '=3': expected key=value"),
    (["data..limit=3"], "override 'data..limit=3': expected key=value"),
    (["seed.x=1", "seed.x.y=1"], "override seed.x.y: seed.x is not a section, it is 1"),
    (["data.limit=[1"], "override data.limit:1: not valid YAML"),
    (["cycle.warm_start={}"], "cycle.warm_start: expected one of sft (data with chosen replies) and lists"),
    (["cycle.warm_start={sft: a, lists: b}"], "cycle.warm_start: expected one of sft"),
]


@pytest.mark.parametrize(("overrides", "expected"), WRONG, ids=lambda v: v[0] if isinstance(v, list) else "")
def test_wrong_overrides(small: Path, overrides: list[str], expected: str) -> None:
    assert failure(small, *overrides).startswith(expected)


def test_unknown_key_in_a_file_names_the_file(small: Path) -> None:
    small.write_text(SMALL + "los: {name: pro}\n")
    assert failure(small) == f"{small}: unknown key los; did you mean loss?"


def test_required_sections(small: Path) -> None:
    small.write_text("name: x\n")
    assert failure(small) == "data: required, but not set (and 1 more)"
    small.write_text("name: x\nblack_box: {backend: local}\ndata: {}\n")
    assert failure(small) == "data.prompts: required, but not set"


@pytest.mark.parametrize("loss", ["pro", "pld", "margin_mse", "mse", "listnet", "kl"])
def test_a_loss_that_needs_magnitudes_names_those_that_work(small: Path, loss: str) -> None:
    openai = ["black_box.backend=openai", "black_box.model=m", f"loss.name={loss}"]
    message = failure(small, *openai)
    assert message.startswith(f"loss.name: {loss} needs magnitudes")
    assert "rrhf" in message
    assert load_config(small, [*openai, "black_box.passes=2"]).loss.name == loss
    assert load_config(small, [f"loss.name={loss}"]).loss.name == loss  # the local ranker gives scores
    assert load_config(small, [*openai[:2], "loss.name=pro", "loss.gap_temperature=false"]).loss.name == "pro"


def test_sppo_needs_votes_of_several_passes(small: Path) -> None:
    openai = ["black_box.backend=openai", "black_box.model=m", "loss.name=sppo"]
    assert load_config(small, [*openai, "black_box.passes=2"]).loss.name == "sppo"
    assert failure(small, *openai).startswith(
        "loss.name: sppo needs votes of two passes or more, but one pass of backend openai gives an order alone;"
        " use black_box.passes >= 2, or rrhf, listmle,"
    )
    scores = failure(small, "loss.name=sppo")
    assert scores.startswith(
        "loss.name: sppo needs votes of two passes or more, but local gives scores without votes; use rrhf, pro,"
    )
    cascade = failure(small, *openai, "black_box.passes=2", "black_box.backend=cascade", "black_box.cascade={keep: 2}")
    assert "but a cascade gives an order alone; use rrhf, listmle," in cascade


@pytest.mark.parametrize("loss", ["rrhf", "cprd", "idcm", "quantidce", "ranknet", "lambdarank"])
def test_an_order_is_enough_for(small: Path, loss: str) -> None:
    openai = ["black_box.backend=openai", "black_box.model=m", f"loss.name={loss}"]
    assert load_config(small, openai).loss.name == loss


def test_a_threshold_on_the_teachers_score_needs_one(small: Path) -> None:
    openai = ["black_box.backend=openai", "black_box.model=m", "loss.name=cprd"]
    assert failure(small, *openai, "loss.threshold=0.5").startswith("loss.name: cprd needs magnitudes")
    assert load_config(small, [*openai, "loss.rank_cut=2"]).loss.name == "cprd"


def test_budget_needs_a_price(small: Path) -> None:
    assert failure(small, "black_box.budget_usd=1").startswith("black_box.price: needed with budget_usd")
    config = load_config(small, ["black_box.budget_usd=1", "black_box.price={input: 1, output: 2}"])
    assert config.black_box.budget_usd == 1.0


def _plain(hint: Any) -> Any:
    """A hint of transformers' as the table writes it: choices by value, what a file cannot hold left out."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    choices = [m.value for o in options if isinstance(o, type) and issubclass(o, enum.Enum) for m in o]
    if choices:
        return set(choices)
    own = {o for o in options if not (isinstance(o, type) and o.__module__.startswith("accelerate"))}
    return {str(dict[str, Any] if o is dict else o) for o in own if typing.get_origin(o) is not list or o == list[str]}


def test_the_table_of_training_keys_is_that_of_the_installed_transformers() -> None:
    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    names = {f.name for f in dataclasses.fields(TrainingArguments) if f.init}
    assert set(KEYS) == names
    for name in names:
        ours = KEYS[name]
        choices = typing.get_origin(ours) is typing.Literal
        assert (set(typing.get_args(ours)) if choices else _plain(ours)) == _plain(hints[name]), name


def test_every_training_argument_has_a_type_that_is_understood() -> None:
    """The defaults of TrainingArguments pass our own check, so the check knows every one of their types."""
    from transformers import TrainingArguments

    defaults = {
        f.name: f.default.value if hasattr(f.default, "value") else f.default
        for f in dataclasses.fields(TrainingArguments)
        if f.init and f.default is not dataclasses.MISSING and f.name not in (*OWNED_TRAINING_KEYS, "hub_token")
    }
    check_training(defaults)


# Resume -----------------------------------------------------------------------------------------------------

PAID = ["black_box.backend=openai", "black_box.model=m", "black_box.price={input: 1, output: 2}"]


@pytest.mark.parametrize(
    "change",
    [
        "black_box.budget_usd=5",
        "black_box.price.output=3",
        "black_box.price={input: 1, output: 2, thinking: 3}",
        "black_box.price=auto",
        "black_box.timeout_s=900",
        "black_box.attempts=3",
        "black_box.batch=true",
        "black_box.outage_minutes=60",
        "black_box.requests_per_minute=10",
        "black_box.tokens_per_minute=1000",
        "black_box.max_concurrency=2",
        "responses_per_pass=2",
        "training.logging_steps=5",
        "training.report_to=[wandb, tensorboard]",
        "seed=42",
    ],
)
def test_resume_accepts(small: Path, change: str) -> None:
    check_resume_changes(load_config(small, PAID), load_config(small, [*PAID, change]))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("seed=1", "seed"),
        ("black_box.model=n", "black_box.model"),
        ("black_box.base_url=http://elsewhere/v1", "black_box.base_url"),
        ("black_box.reasoning=high", "black_box.reasoning"),
        ("black_box.max_unranked=0.9", "black_box.max_unranked"),
        ("black_box.request.temperature=1", "black_box.request.temperature"),
        ("training.learning_rate=1e-3", "training.learning_rate"),
        ("policy.lora=null", "policy.lora"),
        ("loss.name=simpo", "loss.beta"),
        ("data.limit=3", "data.limit"),
        ("generator.chunk=1", "generator.chunk"),
    ],
)
def test_resume_refuses(small: Path, change: str, key: str) -> None:
    with pytest.raises(UserError, match=f"resume cannot change {key}"):
        check_resume_changes(load_config(small, PAID), load_config(small, [*PAID, change]))


def test_config_is_frozen(small: Path) -> None:
    config: Config = load_config(small)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_a_nameless_loss_section_changes_the_default_loss_of_its_own_schema(tmp_path: Path) -> None:
    file = tmp_path / "cprd.yaml"
    file.write_text("name: x\nstudent: {model: m, kind: cosine}\ndata: {scores: s.jsonl}\n")
    assert load_sections(CPRDConfig, file, ["loss.temperature=0.5"]).loss == CPRD(threshold="mean", temperature=0.5)
    file.write_text(file.read_text() + "loss: {temperature: 0.25}\n")
    assert load_sections(CPRDConfig, file, []).loss == CPRD(threshold="mean", temperature=0.25)
    assert load_sections(CPRDConfig, file, ["loss.name=listmle"]).loss == ListMLE()
