"""A run over lists that exist: it takes the cycle's own step on them, measures, and is a run for all other commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from stopping import stopped_at
from tiny_policy import tiny_llama
from transformers import AutoTokenizer
from ultrafeedback import write_ultrafeedback

from cyclealign.cli.main import main
from cyclealign.config.list_config import load_list_config
from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.cycle.agreeing import training_examples
from cyclealign.cycle.interaction import Interaction
from cyclealign.cycle.list_run import new_list_run
from cyclealign.cycle.starting import Cycle
from cyclealign.evaluation.held_out_lists import held_out_list
from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import train_row
from cyclealign.files.run_records import read_sets
from cyclealign.losses import AnyLoss
from cyclealign.models.policy_files import resolve_model
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking, UserError

SMALL = ("policy.max_prompt_tokens=64", "training.per_device_train_batch_size=4")
LOSSES = {cls().name: () for cls in get_args(AnyLoss)} | {  # type: ignore[call-arg]
    "sppo": ("loss.reference=start",),
    "listmle": ("loss.student_score=log_ratio", "loss.beta=0.1"),
}


def config_of(source: Path, folder: Path, *more: str) -> Config:
    given = (f"output_dir={folder}", "name=run", *SMALL, *more)
    return load_list_config("quickstart", str(source), given)


def with_votes(source: Path) -> tuple[Path, Path]:
    """The same lists as candidate sets, with verdicts of two passes whose orders differ in one place."""
    sets, verdicts = [], []
    for row in read_jsonl(source):
        texts = [c["response"] for c in row["completions"]]
        prompt = Prompt(({"role": "user", "content": row["instruction"]},))
        order = sorted(map(str, range(len(texts))), key=lambda i: -row["completions"][int(i)]["overall_score"])
        passes = [order, [order[1], order[0], *order[2:]]]
        wins = {i: sum(len(order) - 1 - p.index(i) for p in passes) for i in order}
        votes = {i: n / sum(wins.values()) for i, n in wins.items()}
        sets.append({"prompt": row["instruction"], "candidates": texts})
        tiers = [[i] for i in order]
        verdicts.append({"prompt_id": prompt.id, "tiers": tiers, "votes": votes, "passes": passes, "confidence": 0.9})
    paths = (source.with_name("sets.jsonl"), source.with_name("verdicts.jsonl"))
    for path, records in zip(paths, (sets, verdicts), strict=True):
        write_jsonl(path, records)
    return paths


def own_step(config: Config, run: RunDir, out: Path) -> list[Any]:
    """What a cycle does with the candidates and verdicts of its interaction; returns the logged rows."""
    files = run.interaction(0)
    prompts = tuple(s.prompt for s in read_sets(files.candidates).values())
    it = Interaction(0, 0, 0, prompts, files)
    examples = training_examples(it, "black_box", votes=config.loss.needs == "votes")
    settings = config.model_copy(update={"lists": None})
    steps = math.ceil(len(examples) / 4)
    policy = WhiteBox(settings, base=resolve_model(config.policy.model), total_steps=steps, seed=config.seed)
    return list(map(train_row, policy.fit(examples, start=None, out=out).logs))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def small_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, which tell all texts apart, behind the packaged policy's tokenizer. Its context holds every
    reply: a run over lists cuts what does not fit, where a cycle's are as short as they were sampled."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("builtin:tiny-chat"))
    folder = tmp_path_factory.mktemp("policy")
    tiny_llama(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, max_position_embeddings=512
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def step_is_the_cycles(tmp_path: Path, policy: Path, shared_data: Path, name: str, count: int) -> None:
    source = write_ultrafeedback(tmp_path / "lists.jsonl", shared_data, count)
    more = (f"loss.name={name}", *LOSSES[name], "lists.held_out=0", f"policy.model={policy}")
    if name == "sppo":
        source, verdicts = with_votes(source)
        more = (*more, f"lists.verdicts={verdicts}")
    config = config_of(source, tmp_path, *more)
    run = RunDir(new_list_run(config).run())
    rows = own_step(config, run, tmp_path / "own")
    found = [dict(row) for row in read_jsonl(run.interaction(0).train_log)]
    assert len(found) == len(rows) == math.ceil(count / 4)
    for row, own in zip(found, rows, strict=True):
        assert row["loss"] == pytest.approx(own.loss, rel=1e-5, abs=1e-7)
        assert row["grad_norm"] == pytest.approx(own.grad_norm, rel=1e-4, abs=1e-7)
    trained, expected = weights(run.best), weights(tmp_path / "own")
    assert any(t.abs().max() > 0 for n, t in expected.items() if "lora_B" in n)  # it has learned something
    for tensor_name, tensor in expected.items():
        torch.testing.assert_close(trained[tensor_name], tensor, rtol=1e-4, atol=1e-6)


# Of each kind one: of orders, of numbers, of votes, against a reference, of best and worst, of features.
KINDS = ("pro", "kl", "sppo", "listmle", "dpo", "cprd")


@pytest.mark.data
@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_the_cycles_own(tmp_path: Path, small_policy: Path, shared_data: Path, name: str) -> None:
    step_is_the_cycles(tmp_path, small_policy, shared_data, name, 8)


@pytest.mark.data
@pytest.mark.long
@pytest.mark.parametrize("name", LOSSES)
def test_five_hundred_lists_are_the_cycles_own(
    tmp_path: Path, small_policy: Path, shared_data: Path, name: str
) -> None:
    step_is_the_cycles(tmp_path, small_policy, shared_data, name, 500)


# On preference pairs of one's own


def pairs(path: Path, count: int) -> Path:
    """Pairs of the same few words, the better one polite."""
    words = ("tea", "rain", "bread", "snow", "books", "music", "trains", "cats")
    rows = [
        {"prompt": f"Tell me about {words[n % 8]} number {n}.", "chosen": f"Gladly, {words[n % 8]} it is.",
         "rejected": f"No {words[(n + 3) % 8]}."}
        for n in range(count)
    ]  # fmt: skip
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("lists")
    config = config_of(pairs(folder / "pairs.jsonl", 40), folder, "loss.name=listmle", "lists.held_out=0.3")
    return RunDir(new_list_run(config).run())


def test_the_held_out_lists_are_measured_before_and_after(finished: RunDir) -> None:
    about = finished.lists()
    assert about is not None
    assert (about.gives, about.trained + about.held_out) == ("order", 40)
    assert 4 <= about.held_out <= 20
    before, after = (finished.held_out_lists(n) for n in (0, 1))
    assert len(before) == len(after) == about.held_out
    assert all(row.kl == 0 for row in before)
    assert all(row.kl > 0 for row in after)
    assert fmean(r.pairs for r in after) > fmean(r.pairs for r in before) or fmean(r.pairs for r in before) == 1
    # What was learned on the others holds for these: the best replies have become likelier than the others.
    margins = [fmean((r.nll_others or 0) - r.nll for r in rows) for rows in (before, after)]
    assert margins[1] > margins[0] + 0.1


def test_every_command_reads_it_as_a_run(finished: RunDir, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    about = finished.lists()
    assert about is not None
    run = str(finished.path)
    assert main(["status", run]) == 0
    said = capsys.readouterr().out
    assert "stage: finished" in said
    assert f"lists: {about.trained} to train on, {about.held_out} held out" in said
    assert main(["report", run]) == 0
    said = capsys.readouterr().out
    assert "pairs in order, share" in said
    assert "kept: the model after 1 of 1 interactions; trained on all" in said
    assert "KL to the start model" in (finished.path / "report.html").read_text()
    out = tmp_path / "export"
    assert main(["export", run, "--pairs", "all", "--adapter", "--out", str(out)]) == 0
    rows = list(read_jsonl(out / "preferences.jsonl"))
    assert len(rows) == about.trained
    assert rows[0]["chosen"][0]["content"].startswith("Gladly")
    card = (out / "adapter" / "README.md").read_text()
    assert (
        f"- Lists: `pairs.jsonl` ({about.trained} trained on, {about.held_out} held out), which give an order" in card
    )
    assert "| KL to the start model, nats a token | 0.0000 |" in card
    assert main(["resume", run]) == 0  # nothing is missing
    assert main(["train", "quickstart", "x.jsonl", "name=run", f"output_dir={finished.path.parent}"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_pass_that_was_cut_short_goes_on_where_it_was(
    finished: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after six of its steps, of which the fifth was saved."""
    source = pairs(tmp_path / "pairs.jsonl", 40)
    more = ("loss.name=listmle", "lists.held_out=0.3", "lists.checkpoint_steps=5")
    begun = new_list_run(config_of(source, tmp_path, *more))
    made = WhiteBox._trainer
    monkeypatch.setattr(WhiteBox, "_trainer", stopped_at(6, made))
    with pytest.raises(KeyboardInterrupt):
        begun.run()
    work = tmp_path / "run" / "interactions" / "0000" / ".fit"
    assert [p.name for p in work.glob("checkpoint-*")] == ["checkpoint-5"]
    steps: list[int] = []

    def counted(*arguments: Any) -> Any:
        trainer = made(*arguments)
        steps.append(len(trainer.train_dataset) // 4)
        return trainer

    monkeypatch.setattr(WhiteBox, "_trainer", counted)
    run = RunDir(Cycle.resume(tmp_path / "run").run())
    whole = finished.interaction(0)
    total = len(list(read_jsonl(whole.train_log)))
    assert steps == [total - 5]
    assert list(read_jsonl(run.interaction(0).train_log)) == list(read_jsonl(whole.train_log))
    for name, tensor in weights(whole.path).items():
        assert torch.equal(weights(run.best)[name], tensor)
    assert run.held_out_lists(1) == finished.held_out_lists(1)
    assert not work.exists()
    assert not work.with_name(".rows").exists()


def test_a_held_out_list_by_hand() -> None:
    item = CandidateSet(Prompt(()), tuple(Candidate(i, i) for i in "abc"))
    teacher = Ranking(prompt_id="p", tiers=(("b",), ("a", "c")))
    own = [torch.tensor([-1.0, -3.0]), torch.tensor([-1.5]), torch.tensor([-1.0, -1.0])]  # means -2, -1.5, -1
    start = [torch.tensor([-1.0, -3.0]), torch.tensor([-2.0]), torch.tensor([-1.0, -1.0])]
    found = held_out_list(item, teacher, own, start)
    # c > b > a: of b > a and b > c one pair is in order, and c is the likeliest.
    assert (found.first, found.pairs, found.tau) == (0.0, 0.5, 0.0)
    assert (found.nll, found.nll_others) == (1.5, 1.5)
    assert found.kl == pytest.approx((math.exp(-0.5) - 1 + 0.5) / 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cycle.max_interactions=3", "cyclealign train does not read cycle; it reads name, seed"),
        ("black_box.backend=local", "does not read black_box"),
        ("loss.name=sppo", r"^loss\.reference: sppo is compared to the interaction before.* set loss\.reference=start"),
        ("lists.held_out=1", r"^lists\.held_out: expected a value < 1.0, got 1"),
        ("lists.held=1", r"lists\.held"),
    ],
)
def test_a_config_that_lists_cannot_follow_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_list_config("quickstart", "lists.jsonl", [override])


def test_a_config_of_lists_alone_is_enough_and_no_cycle_runs_on_it(tmp_path: Path) -> None:
    config = load_list_config("train/listmle_7b", "lists.jsonl")
    assert config.lists is not None
    assert (config.loss.name, config.lists.source, config.lists.max_reply_tokens) == ("listmle", "lists.jsonl", 1024)
    (tmp_path / "config.yaml").write_text(json.dumps({"name": "x", "lists": {"source": "y"}}))
    with pytest.raises(UserError, match=r"^lists: read by cyclealign train CONFIG LISTS"):
        Cycle.from_config(config)


def test_replies_longer_than_the_context_are_cut_and_a_limit_beyond_it_is_refused(
    tmp_path: Path, small_policy: Path
) -> None:
    """Of 512 places the prompt may have 64."""
    rows = [{"prompt": f"q {n}", "chosen": "word " * 900, "rejected": "no"} for n in range(4)]
    write_jsonl(tmp_path / "lists.jsonl", rows)
    given = ("lists.held_out=0", f"policy.model={small_policy}")
    run = RunDir(new_list_run(config_of(tmp_path / "lists.jsonl", tmp_path, *given)).run())
    (row,) = read_jsonl(run.interaction(0).train_log)
    assert 4 * 448 < row["tokens"] < 4 * 456
    with pytest.raises(UserError, match=r"lists\.max_reply_tokens=4096 do not fit the model's context of 512"):
        new_list_run(config_of(tmp_path / "lists.jsonl", tmp_path, *given, "name=b", "lists.max_reply_tokens=4096"))


def test_a_cycle_begins_with_what_the_lists_taught(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pairs.jsonl", 16)
    more = ("data.limit=4", "data.eval_prompts=null", "cycle.scorer=null", "cycle.max_interactions=1")
    small = ("name=c", f"output_dir={tmp_path}", "generator.candidates=2", "generator.max_new_tokens=8")
    warm = ("loss.name=listmle", f"cycle.warm_start.lists={source}")
    run = RunDir(Cycle.from_config(load_config("quickstart", [*small, *more, *warm])).run())
    taught = RunDir(run.path / "warm_start")
    assert taught.kept() is not None
    about = taught.lists()
    assert about is not None
    assert about.trained + about.held_out == 16
    merged = load_file(run.start / "model.safetensors")
    plain = load_file(Path(resolve_model("builtin:tiny-chat")) / "model.safetensors")
    adapter = weights(taught.best)
    name = next(n for n in adapter if "q_proj.lora_B" in n)
    matrix = name.removeprefix("base_model.model.").replace("lora_B.weight", "weight")
    update = adapter[name] @ adapter[name.replace("lora_B", "lora_A")] * (32 / 16)
    torch.testing.assert_close(merged[matrix], plain[matrix].float() + update, rtol=1e-4, atol=1e-5)
    kept = run.kept()
    assert kept is not None
    assert kept.start_model == str(run.start)


def test_a_cycle_does_not_begin_with_lists_that_say_too_little(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pairs.jsonl", 4)
    warm = ("loss.name=kl", f"cycle.warm_start.lists={source}", f"output_dir={tmp_path}", "name=c")
    with pytest.raises(UserError, match=r"^loss\.name: kl needs magnitudes, but .*pairs\.jsonl:1 gives an order"):
        Cycle.from_config(load_config("quickstart", list(warm)))
