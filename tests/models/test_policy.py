"""Tokenisation, loading and saving of the policy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_policy import TEMPLATE, WORDS, save_tiny, tiny_config, tiny_llama, tiny_tokenizer

from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.models.chat_template import check_template, render_prompt, response_ids, stop_token_id
from cyclealign.models.checkpoints import load_weights, save_policy
from cyclealign.models.dtypes import compute_dtype, saved_dtype
from cyclealign.models.policy import check_room, load_model, load_tokenizer
from cyclealign.models.policy_files import resolve_model
from cyclealign.models.saved import load_for_use
from cyclealign.types import Message, UserError

TOKENIZER = tiny_tokenizer()
END, SYSTEM, USER, ASSISTANT = 2, 3, 4, 5


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def words(ids: list[int]) -> str:
    return "".join(f" {t}" if t in WORDS else t for t in TOKENIZER.convert_ids_to_tokens(ids))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policy") / "model")


def test_a_prompt_is_the_rendered_template_and_ends_where_the_assistant_speaks() -> None:
    ids = render_prompt(TOKENIZER, [turn("user", "a b"), turn("assistant", "c"), turn("user", "d")], 64)
    assert words(ids) == "<|user|> a b<|end|><|assistant|> c<|end|><|user|> d<|end|><|assistant|>"


def test_a_long_dialogue_loses_its_oldest_turns_whole_and_keeps_the_system_message() -> None:
    chat = [turn("system", "s"), turn("user", "a b c"), turn("assistant", "d e"), turn("user", "f g")]
    whole = render_prompt(TOKENIZER, chat, 64)
    cut = render_prompt(TOKENIZER, chat, len(whole) - 1)
    # With the user's turn goes the assistant's answer to it.
    assert words(cut) == "<|system|> s<|end|><|user|> f g<|end|><|assistant|>"


def test_a_last_turn_that_is_too_long_loses_tokens_from_its_left() -> None:
    chat = [turn("system", "s"), turn("user", "a b c d e f")]
    assert words(render_prompt(TOKENIZER, chat, 9)) == "<|system|> s<|end|><|user|> d e f<|end|><|assistant|>"


@given(
    turns=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), min_size=1, max_size=6),
    system=st.booleans(),
    limit=st.integers(8, 48),
)
def test_prompts_always_fit_and_end_with_the_newest_words(turns: list[list[str]], system: bool, limit: int) -> None:
    chat = [turn("user" if i % 2 == 0 else "assistant", " ".join(t)) for i, t in enumerate(turns)]
    ids = render_prompt(TOKENIZER, [turn("system", "s"), *chat] if system else chat, limit)
    assert len(ids) <= limit
    assert ids[-2:] == [END, ASSISTANT]
    kept = [i for i in ids[:-2] if i > ASSISTANT]
    assert kept[-1] == TOKENIZER.convert_tokens_to_ids(turns[-1][-1])
    if system:
        assert ids[0] == SYSTEM
    full = render_prompt(TOKENIZER, chat, 10_000)
    if len(full) + 3 * system <= limit:
        assert ids[-len(full) :] == full


@given(text=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), stops=st.integers(0, 2))
def test_the_stop_token_is_taught_exactly_once_and_only_to_responses_that_ended(text: str, stops: int) -> None:
    ids = response_ids(TOKENIZER, text + "<|end|>" * stops, ended=True)
    assert ids == [*TOKENIZER.convert_tokens_to_ids(text.split()), END]
    assert response_ids(TOKENIZER, text, ended=False) == ids[:-1]


def test_prompt_and_response_apart_are_the_whole_dialogue_together() -> None:
    chat = [turn("user", "a b")]
    apart = render_prompt(TOKENIZER, chat, 64) + response_ids(TOKENIZER, "good c", ended=True)
    whole = TOKENIZER.apply_chat_template([*chat, turn("assistant", "good c")], tokenize=False)
    assert apart == TOKENIZER(whole, add_special_tokens=False)["input_ids"]


def test_the_template_report_names_the_stop_token() -> None:
    template = TEMPLATE.replace("{{ m['content'] }}<|end|>", "{{ m['content'] }}<eot>")
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eot>"]})
    report = check_template(tokenizer)
    assert (report.stop_token, report.prefix_preserving) == ("<eot>", True)
    assert report.stop_token_id == stop_token_id(tokenizer) != tokenizer.eos_token_id
    assert check_template(TOKENIZER).stop_token == "<|end|>"


def test_a_template_that_rewrites_the_past_is_reported() -> None:
    rewriting = "{% for m in messages %}[{{ loop.revindex }}] {{ m['content'] }}<|end|>{% endfor %}"
    report = check_template(tiny_tokenizer(rewriting))
    assert not report.prefix_preserving
    assert "not a prefix" in report.problems[0]


def test_a_template_without_a_generation_prompt_is_reported() -> None:
    silent = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    report = check_template(tiny_tokenizer(silent))
    assert report.problems[0].startswith("no generation prompt: before a reply the template writes '<|assistant|>'")


def test_a_template_without_a_stop_token_teaches_the_end_of_sequence() -> None:
    bare = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    tokenizer = tiny_tokenizer(bare + "{% if add_generation_prompt %}assistant {% endif %}")
    assert "end-of-sequence token is taught" in " ".join(check_template(tokenizer).problems)
    assert response_ids(tokenizer, "a", ended=True)[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="ends a reply"):
        stop_token_id(tokenizer)


@pytest.mark.parametrize("damage", ["cut", "of another shape", "config is a list"])
def test_a_damaged_model_is_one_line(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(resolve_model("builtin:tiny-chat"), folder)
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "of another shape":
        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
        save_file(tensors | {name: tensors[name][:-1].contiguous()}, weights, {"format": "pt"})
    else:
        (folder / "config.json").write_text("[]")
    policy = PolicyConfig(model=str(folder))
    with pytest.raises(UserError, match=r"^policy\.model: cannot load '.*policy': ") as caught:
        load_model(policy, trainable=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^cannot load a model from '.*policy': "):
        load_for_use(str(folder), dtype=torch.float32)


def test_loading_errors_name_the_key(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./nowhere", "builtin:no-such-model"):
        with pytest.raises(UserError, match=r"^policy\.model: no "):
            resolve_model(name)
    tiny_tokenizer(template=None).save_pretrained(tmp_path / "bare")
    bare = PolicyConfig(model=str(tmp_path / "bare"))
    with pytest.raises(UserError, match=r"no chat template; name a Jinja file in policy\.chat_template"):
        load_tokenizer(bare)
    with pytest.raises(UserError, match=r"^policy\.model: cannot load"):
        load_model(bare, trainable=False)
    with pytest.raises(UserError, match=r"^policy\.chat_template: no file"):
        load_tokenizer(bare.model_copy(update={"chat_template": str(tmp_path / "none.jinja")}))
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    tokenizer = load_tokenizer(bare.model_copy(update={"chat_template": str(tmp_path / "chat.jinja")}))
    (tmp_path / "marked.jinja").write_text(TEMPLATE, encoding="utf-8-sig")
    marked = load_tokenizer(bare.model_copy(update={"chat_template": str(tmp_path / "marked.jinja")}))
    assert marked.chat_template == tokenizer.chat_template
    assert render_prompt(tokenizer, [turn("user", "a")], 64)[-1] == ASSISTANT
    (tmp_path / "strict.jinja").write_text("{{ raise_exception('only users') }}")
    strict = load_tokenizer(bare.model_copy(update={"chat_template": str(tmp_path / "strict.jinja")}))
    with pytest.raises(UserError, match=r"^policy\.chat_template: cannot render .* roles user: only users"):
        render_prompt(strict, [turn("user", "a")], 64)
    for wrong in ("{{ 1 // 0 }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 2.0 ** 9999 }}"):
        with pytest.raises(UserError, match=r"^policy\.chat_template: cannot render a chat with roles user: "):
            render_prompt(tiny_tokenizer(wrong), [turn("user", "a")], 64)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"lora": {"target_modules": ("no_such_layer",)}}, r"^policy\.lora\.target_modules: "),
        ({"lora": {"target_modules": ("lm_head",)}}, r"lm_head cannot be served by vLLM"),
        ({"quantization": "4bit"}, r"^policy\.quantization: 4bit needs "),
    ],
)
def test_adapters_that_cannot_be_set_up_are_refused(model_dir: Path, policy: dict[str, Any], message: str) -> None:
    if "quantization" in policy and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UserError, match=message):
        load_model(tiny_config(model_dir, policy=policy).policy, trainable=True)


def test_prompt_and_response_must_fit_the_context() -> None:
    check_room(tiny_llama(), 200, GeneratorConfig(max_new_tokens=56))
    with pytest.raises(UserError, match=r"max_prompt_tokens=200 .*max_new_tokens=57 .* 256 tokens"):
        check_room(tiny_llama(), 200, GeneratorConfig(max_new_tokens=57))


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None])
def test_saved_weights_come_back_exactly(model_dir: Path, tmp_path: Path, lora: dict[str, int] | None) -> None:
    policy = PolicyConfig.model_validate({"model": str(model_dir), "lora": lora})
    model = load_model(policy, trainable=True)
    trainable = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trainable:
            parameter.add_(torch.randn_like(parameter))
    target = tmp_path / "weights"
    (target / "of a killed attempt").mkdir(parents=True)
    save_policy(model, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights"]
    assert not (target / "of a killed attempt").exists()
    assert (target / "adapter_config.json").exists() == (lora is not None)
    other = load_model(policy, trainable=True)
    load_weights(other, target)
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(UserError, match="no weights"):
        load_weights(other, tmp_path)


def test_full_weights_are_kept_in_float32_and_dropout_is_off(tmp_path: Path) -> None:
    tiny_llama(attention_dropout=0.5).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(PolicyConfig(model=str(tmp_path), lora=None), trainable=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.0}
    save_policy(model, tmp_path / "again")
    assert {t.dtype for t in load_file(tmp_path / "again" / "model.safetensors").values()} == {torch.float32}


def test_an_adapter_s_settings_are_the_same_in_every_process(model_dir: Path, tmp_path: Path) -> None:
    """peft keeps the names of its modules in a set, whose order is another one in each process."""
    save_policy(load_model(PolicyConfig(model=str(model_dir)), trainable=True), tmp_path / "adapter")
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 14  # of two layers
    assert targets == sorted(targets)


def test_what_a_model_computes_in() -> None:
    found = [compute_dtype(PolicyConfig(dtype=d), "cpu") for d in ("auto", "float32", "bfloat16")]
    assert found == [torch.float32, torch.float32, torch.bfloat16]
    assert [compute_dtype(PolicyConfig(dtype=d), "cuda") for d in ("auto", "float16")] == [
        torch.bfloat16,
        torch.float16,
    ]
    with pytest.raises(UserError, match=r"^policy\.dtype: float16 is for a GPU; on a CPU use bfloat16 or float32$"):
        compute_dtype(PolicyConfig(dtype="float16"), "cpu")
    assert saved_dtype(PolicyConfig()) == torch.bfloat16
