"""The trainer by value: losses, their reduction, anchors, schedule, resumption; and that it learns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import assert_below
from safetensors.torch import load_file
from tiny_policy import WORDS, examples, save_tiny, tiny_config
from transformers import TrainingArguments

from cyclealign.config.schema import AnchorConfig, Config
from cyclealign.losses import DPO, PRO, RRHF, SPPO, ListMLE, MultiLevelRanking
from cyclealign.models.encoded_lists import EncodedList
from cyclealign.training.arguments import check_arguments, optimizer_steps, training_arguments, training_order
from cyclealign.training.batches import RankingCollator, TrainingList
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.training.trainer import anchor_terms, ranked_scores
from cyclealign.types import (
    CanarySample,
    Candidate,
    CandidateSet,
    Prompt,
    RankContext,
    Ranking,
    RankingExample,
    RunStopped,
    UserError,
)

ALONE = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "lr_scheduler_type": "linear"}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policy") / "model")


def policy(config: Config, *, total_steps: int = 4, seed: int = 7) -> WhiteBox:
    return WhiteBox(config, base=config.policy.model, total_steps=total_steps, seed=seed)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next(out.glob("*/*.safetensors")))


def losses(logs: Sequence[Any], *names: str) -> list[list[float]]:
    return [[row[n] for n in names] for row in logs]


# The loss by hand
# ---------------------------------------------------------------------------------------------


def batch_of(reference: float | None = None) -> Any:
    """Two lists, one of 3 and one of 2 responses, and a filler."""
    lists = [
        TrainingList(EncodedList([5, 6], ([7], [8, 9], [10, 11, 12])), (0.0, 2.0, 1.0)),
        TrainingList(EncodedList([5], ([7, 8], [9])), (1.0, 1.0)),
    ]
    if reference is not None:
        rows = [tuple(torch.full((len(r),), reference) for r in i.encoded.responses) for i in lists]
        lists = [TrainingList(i.encoded, i.teacher, r) for i, r in zip(lists, rows, strict=True)]
    return RankingCollator(pad=0)([*lists, None])


# log-probs of the 5 rows and the filler's
LOGPROBS = torch.tensor(
    [[-1.0, 0, 0], [-2.0, -4.0, 0], [-3.0, -3.0, -6.0], [-1.0, -3.0, 0], [-5.0, 0, 0], [-9.0, 0, 0]]
)


def test_scores_are_means_over_response_tokens_and_best_nll_is_of_the_teachers_first_choice() -> None:
    scores = ranked_scores(LOGPROBS, batch_of(), RRHF())
    assert scores.student.tolist() == [[-1.0, -3.0, -4.0], [-2.0, -5.0, 0.0], [-9.0, 0.0, 0.0]]
    assert scores.valid.tolist() == [[True] * 3, [True, True, False], [False] * 3]
    assert scores.counted.tolist() == [True, True, False]
    assert scores.best_nll is not None
    assert scores.best_nll.tolist()[:2] == [3.0, 2.0]
    summed = ranked_scores(LOGPROBS, batch_of(), PRO(sft_reduction="sum")).best_nll
    assert summed is not None
    assert summed.tolist()[:2] == [6.0, 4.0]


def test_the_log_ratio_is_a_sum_over_tokens_against_the_reference() -> None:
    student = ranked_scores(LOGPROBS, batch_of(reference=-2.0), DPO()).student
    assert student.tolist()[:2] == [[1.0, -2.0, -6.0], [0.0, -3.0, 0.0]]


def test_the_log_ratio_to_the_weights_before_the_interaction() -> None:
    """The anchor's distance is to the start model all the same."""
    batch = batch_of(reference=-2.0)
    batch["previous"] = torch.full_like(batch["reference"], -1.0)
    for loss in (DPO(reference="previous"), ListMLE(student_score="log_ratio", reference="previous"), SPPO()):
        assert ranked_scores(LOGPROBS, batch, loss).student.tolist()[:2] == [[0.0, -4.0, -9.0], [-2.0, -4.0, 0.0]]
    anchor = AnchorConfig(kind="kl")
    assert torch.equal(anchor_terms(LOGPROBS, batch, anchor), anchor_terms(LOGPROBS, batch_of(reference=-2.0), anchor))


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None])
def test_previous_is_what_an_interaction_begins_with(model_dir: Path, tmp_path: Path, lora: Any) -> None:
    """In the first interaction that is the start model; in the next one no longer, and each begins at a ratio of 0."""

    def two(reference: str, anchor: float = 0.0) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
        config = tiny_config(
            model_dir,
            policy={"lora": lora},
            loss={"name": "listmle", "student_score": "log_ratio", "beta": 0.1, "reference": reference},
            anchor={"weight": anchor},
            training={"learning_rate": 1e-2, "per_device_train_batch_size": 6, "logging_steps": 1},
        )
        out = tmp_path / f"{reference}{anchor}"
        white_box = policy(config)
        first = white_box.fit(examples(), start=None, out=out / "0")
        second = white_box.fit(examples(), start=out / "0", out=out / "1")
        logs = [[row["rank_loss"] for row in report.logs] for report in (first, second)]
        return logs[0], logs[1], weights(out / "1")

    start_first, start_second, _ = two("start")
    first, second, kept = two("previous")
    untrained = sum(math.lgamma(2 + i % 3 + 1) for i in range(6)) / 6  # all K! orders are equally likely
    assert first == pytest.approx(start_first, rel=1e-6)
    assert first[0] == pytest.approx(untrained, abs=1e-4)
    assert second[0] == pytest.approx(untrained, abs=1e-4)
    assert start_second[0] < untrained - 0.01
    assert any(not torch.equal(value, two("previous", anchor=5.0)[2][name]) for name, value in list(kept.items())[:1])


def test_levels_are_the_tiers_of_the_teachers_ranking() -> None:
    scores = ranked_scores(LOGPROBS, batch_of(), MultiLevelRanking())
    assert scores.levels is not None
    assert scores.levels[0].tolist() == [2, 0, 1]
    assert scores.levels[1, :2].tolist() == [0, 0]
    assert MultiLevelRanking()(scores).loss.isfinite()
    assert ranked_scores(LOGPROBS, batch_of(), RRHF()).levels is None


def test_anchor_terms_by_hand() -> None:
    kl = anchor_terms(LOGPROBS, batch_of(reference=-2.0), AnchorConfig(kind="kl"))

    def k3(logprob: float) -> float:
        return float(torch.tensor(-2.0 - logprob, dtype=torch.float64).exp()) + 2.0 + logprob - 1

    first = (k3(-1) + (k3(-2) + k3(-4)) / 2 + (k3(-3) + k3(-3) + k3(-6)) / 3) / 3
    second = ((k3(-1) + k3(-3)) / 2 + k3(-5)) / 2
    torch.testing.assert_close(kl, torch.tensor([first, second, 0.0]), rtol=1e-6, atol=1e-6)
    nll = anchor_terms(LOGPROBS, batch_of(reference=-2.5), AnchorConfig(kind="nll"))
    assert nll.tolist()[:2] == [0.5, 0.0]  # -3 against -2.5: became worse; -2 against -2.5: did not


# One optimiser step over any cut of the batch
# -----------------------------------------------------------------


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None])
def test_accumulation_does_not_change_losses_or_weights(model_dir: Path, tmp_path: Path, lora: Any) -> None:
    """7 lists, batches of 4: the last is filled up; one list has a single candidate and does not count."""
    data = examples(6)
    data.insert(
        2,
        RankingExample(
            prompt_id="one", messages=data[0].messages, responses=("good a",), ended=(True,), teacher=(1.0,)
        ),
    )
    found = []
    for name, size, accumulation in (("a", 4, 1), ("b", 2, 2), ("c", 1, 4)):
        training = ALONE | {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        settings = {"lora": lora}
        config = tiny_config(model_dir, policy=settings, training=training, anchor={"weight": 0.2})
        report = policy(config).fit(data, start=None, out=tmp_path / name)
        assert report.global_step == len(report.logs) == 2
        names = ("loss", "rank_loss", "best_nll", "anchor", "accuracy", "tokens", "grad_norm")
        found.append((losses(report.logs, *names), weights(tmp_path / name)))
    for rows, tensors in found[1:]:
        torch.testing.assert_close(torch.tensor(rows), torch.tensor(found[0][0]), rtol=1e-4, atol=1e-5)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, found[0][1][name], rtol=1e-3, atol=1e-4)


def test_layouts_train_alike(model_dir: Path, tmp_path: Path) -> None:
    found = []
    for layout in ("padded", "cached_prefix"):
        training = ALONE | {"gradient_checkpointing": layout == "cached_prefix"}
        config = tiny_config(model_dir, layout=layout, training=training)
        report = policy(config).fit(examples(), start=None, out=tmp_path / layout)
        found.append(torch.tensor(losses(report.logs, "loss", "grad_norm")))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_logged_loss_is_the_sum_over_lists_divided_by_their_number(model_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(model_dir, training=ALONE | {"per_device_train_batch_size": 6})
    white_box = policy(config)
    data = examples()
    rankings = rank(white_box, data)
    expected = 0.0
    for example, ranking in zip(data, rankings, strict=True):
        assert ranking.scores is not None
        score = [ranking.scores[str(i)] for i in range(len(example.responses))]
        rated = list(zip(score, example.teacher, strict=True))
        expected += sum(max(0.0, si - sj) for si, ti in rated for sj, tj in rated if ti < tj) - score[0]
    (row,) = white_box.fit(data, start=None, out=tmp_path / "i").logs
    assert row["loss"] == pytest.approx(expected / len(data), rel=1e-5)


# A run over several interactions
# ------------------------------------------------------------------------------


def rank(white_box: WhiteBox, data: Sequence[RankingExample]) -> list[Ranking]:
    sets = [
        CandidateSet(
            Prompt(e.messages),
            tuple(
                Candidate(str(i), t, "stop" if end else "length")
                for i, (t, end) in enumerate(zip(e.responses, e.ended, strict=True))
            ),
        )
        for e in data
    ]
    context = RankContext(run="r", interaction=0, seed=0, demonstrations=None)  # type: ignore[arg-type]
    found = list(white_box.rank(sets, context))
    assert all(isinstance(r, Ranking) for r in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None])
def test_a_resumed_run_is_the_uninterrupted_one(model_dir: Path, tmp_path: Path, lora: Any) -> None:
    settings = {"lora": lora}
    config = tiny_config(model_dir, policy=settings, training=ALONE, anchor={"weight": 0.1})
    data = examples(8)
    straight = policy(config)
    straight.fit(data, start=None, out=tmp_path / "0")
    ranked = rank(straight, data)
    report = straight.fit(data[2:], start=tmp_path / "0", out=tmp_path / "1")

    resumed = policy(config)
    (tmp_path / "again" / ".fit").mkdir(parents=True)  # what a killed attempt left
    resumed.restore(tmp_path / "0")
    assert rank(resumed, data) == ranked
    assert rank(resumed, data[5:]) == ranked[5:]
    again = resumed.fit(data[2:], start=tmp_path / "0", out=tmp_path / "again")
    assert again == report
    for name, tensor in weights(tmp_path / "1").items():
        assert torch.equal(tensor, weights(tmp_path / "again")[name])
    expected = {"checkpoint", "adapter" if lora else "model"}
    assert {p.name for p in (tmp_path / "again").iterdir()} == expected
    # Steps, optimiser and schedule go on: a linear schedule over 4 steps.
    assert [row["step"] for row in report.logs] == [3.0, 4.0]
    assert [row["learning_rate"] for row in report.logs] == pytest.approx([5e-3, 2.5e-3])
    first = policy(config)
    first.restore(tmp_path / "0")
    first.restore(None)
    assert rank(first, data) == rank(policy(config), data)


def test_weights_are_where_the_generator_looks(model_dir: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pairs = [(Prompt(examples()[0].messages), Candidate("0", "good a"))]
    for name, lora in (("adapter", {"r": 4, "alpha": 8}), ("model", None)):
        config = tiny_config(model_dir, policy={"lora": lora}, training=ALONE)
        white_box = policy(config)
        before = white_box.nll(pairs)
        white_box.fit(examples(), start=None, out=tmp_path / name)
        served = AutoModelForCausalLM.from_pretrained(model_dir if lora else tmp_path / name / "model")
        if lora:
            served = PeftModel.from_pretrained(served, tmp_path / name / "adapter")
        tokenizer = AutoTokenizer.from_pretrained(model_dir if lora else tmp_path / name / "model")
        rendered = tokenizer.apply_chat_template(list(pairs[0][0].messages), add_generation_prompt=True)
        prompt = rendered["input_ids"]
        reply = tokenizer("good a", add_special_tokens=False)["input_ids"]
        logits = served.eval()(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None])[:, 0].detach()
        assert white_box.nll(pairs) == pytest.approx([-float(own.mean())], rel=1e-5)
        assert white_box.nll(pairs, start_model=True) == pytest.approx(before, rel=1e-6)
        assert white_box.nll(pairs) != pytest.approx(before, rel=1e-3)
        sample = CanarySample(pairs[0][0], tuple(reply), tuple((own + 0.25).tolist()))
        assert white_box.canary_gap(sample) == pytest.approx(0.25, abs=1e-4)


def test_no_examples_carry_weights_and_state_over(model_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(model_dir, training=ALONE)
    white_box = policy(config)
    assert white_box.fit([], start=None, out=tmp_path / "0").global_step == 0
    assert white_box.fit(examples(), start=tmp_path / "0", out=tmp_path / "1").global_step == 2
    report = white_box.fit([], start=tmp_path / "1", out=tmp_path / "2")
    assert (report.global_step, report.logs) == (2, ())
    for name, tensor in weights(tmp_path / "1").items():
        assert torch.equal(tensor, weights(tmp_path / "2")[name])
    straight = policy(config)
    assert straight.fit(examples(), start=tmp_path / "2", out=tmp_path / "3").global_step == 4


# What the losses do to a model
# --------------------------------------------------------------------------------


def preferences(count: int) -> list[RankingExample]:
    """The teacher prefers by the first word, whatever the prompt is."""
    values = {"good": 3.0, "yes": 2.0, "no": 1.0, "bad": 0.0}
    found = []
    for i in range(count):
        prompt, tail = WORDS[i % 20], WORDS[(3 * i) % 20]
        names = list(values)[i % 4 :] + list(values)[: i % 4]
        found.append(
            RankingExample(
                prompt_id=str(i),
                messages=({"role": "user", "content": f"{prompt} {WORDS[(7 * i) % 20]}"},),
                responses=tuple(f"{n} {tail}" for n in names),
                ended=(True,) * 4,
                teacher=tuple(values[n] for n in names),
            )
        )
    return found


@pytest.mark.learns
@pytest.mark.parametrize("loss", ["rrhf", "listmle", "simpo", "dpo", "pro", "pld"])
def test_a_policy_learns_the_teachers_order(model_dir: Path, tmp_path: Path, loss: str) -> None:
    section: dict[str, Any] = {"name": loss}
    if loss == "pro":
        section["gap_temperature"] = False
    if loss in ("simpo", "dpo"):
        section |= {"pairs": "all", "beta": 1.0}
    config = tiny_config(
        model_dir,
        loss=section,
        anchor={"weight": 0.01},
        training={"learning_rate": 2e-2, "per_device_train_batch_size": 16, "num_train_epochs": 6},
    )
    white_box = policy(config, total_steps=24)
    data = preferences(64)
    report = white_box.fit(data, start=None, out=tmp_path / "i")
    assert report.logs[0]["accuracy"] < 0.75
    held_out = preferences(80)[64:]
    right = total = 0
    for example, ranking in zip(held_out, rank(white_box, held_out), strict=True):
        assert ranking.scores is not None
        for i in range(4):
            for j in range(4):
                if example.teacher[i] > example.teacher[j]:
                    total += 1
                    right += ranking.scores[str(i)] > ranking.scores[str(j)]
    assert_below(1 - right / total, 0.1)
    if loss == "dpo":  # no difference from the start model yet: log 2
        assert report.logs[0]["rank_loss"] == pytest.approx(0.6931472, rel=1e-5)
        assert report.logs[0]["anchor"] == pytest.approx(0.0, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(model_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(model_dir, training=ALONE)
    white_box = policy(config)
    with torch.no_grad():
        next(white_box._model.parameters()).fill_(float("nan"))
    with pytest.raises(RunStopped, match="training diverged: the loss is nan at step 1"):
        white_box.fit(examples(), start=None, out=tmp_path / "i")


def test_a_step_that_memory_does_not_hold_stops_the_run_and_says_what_would_fit(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    white_box = policy(tiny_config(model_dir, training=ALONE))
    monkeypatch.setattr("cyclealign.training.trainer.token_logprobs", too_much)
    with pytest.raises(RunStopped, match=r"^training: the GPU's memory .* resume with responses_per_pass=2, or fewer"):
        white_box.fit(examples(), start=None, out=tmp_path / "i")


@pytest.mark.parametrize("layout", ["padded", "cached_prefix"])
def test_responses_a_few_at_a_time_are_the_same_training(model_dir: Path, tmp_path: Path, layout: str) -> None:
    found = [
        policy(tiny_config(model_dir, layout=layout, training=ALONE, responses_per_pass=at_once)).fit(
            examples(), start=None, out=tmp_path / str(at_once)
        )
        for at_once in (None, 1, 3)
    ]
    for mine, theirs in zip(found[0].logs * 2, found[1].logs + found[2].logs, strict=True):
        names = ("loss", "grad_norm", "accuracy", "tokens")
        assert [mine[n] for n in names] == pytest.approx([theirs[n] for n in names], rel=1e-5)


# The training section
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"lerning_rate": 1.0}, r"^unknown key training\.lerning_rate; did you mean training\.learning_rate"),
        ({"max_steps": 3}, r"^training\.max_steps: set by the run itself"),
        ({"save_strategy": "epoch"}, r"^training\.save_strategy: set by the run itself"),
        ({"lr_scheduler_type": "greedy"}, r"^training\.lr_scheduler_type: greedy needs evaluations"),
        ({"fp16": True, "bf16": True}, r"^training\.fp16: true beside training\.bf16"),
        ({"logging_steps": 1.5}, r"^training\.logging_steps: expected a whole number or a share"),
        ({"dataloader_prefetch_factor": 2}, r"^training\.dataloader_prefetch_factor: needs training\.dataloader_num"),
        ({"torch_empty_cache_steps": 0}, r"^training\.torch_empty_cache_steps: expected a value >= 1, got 0"),
    ],
)
def test_bad_training_keys_are_refused(model_dir: Path, training: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        policy(tiny_config(model_dir, training=training))


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU these may be fine")
@pytest.mark.parametrize("training", [{"tf32": True}, {"bf16": True, "use_cpu": False}])
def test_a_precision_that_this_machine_lacks_is_refused(model_dir: Path, training: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^training\.(tf32|bf16): needs an Ampere GPU"):
        check_arguments(tiny_config(model_dir, training=training))


def test_trainers_arguments_are_made_once_a_fit(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making them sets devices and seeds: nothing but a fit does, and what it made is what the Trainer ran by."""
    made: list[TrainingArguments] = []
    real = TrainingArguments.__post_init__
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: (made.append(self), real(self)))
    training = {**ALONE, "per_device_train_batch_size": 2, "gradient_checkpointing": True, "report_to": "tensorboard"}
    white_box = policy(tiny_config(model_dir, training=training))
    rank(white_box, examples())
    assert made == []
    report = white_box.fit(examples(), start=None, out=tmp_path / "i0")
    [arguments] = made
    assert report.global_step == arguments.max_steps == len(examples()) // 2
    assert (arguments.report_to, arguments.seed) == ([], 7)
    white_box.fit([], start=tmp_path / "i0", out=tmp_path / "i1")
    assert len(made) == 1


def test_prompts_that_cannot_fit_are_refused_at_the_start(model_dir: Path) -> None:
    config = tiny_config(model_dir, generator={"max_new_tokens": 400})
    with pytest.raises(UserError, match="do not fit the model's context of 256 tokens"):
        policy(config)


def test_steps_and_order(model_dir: Path, tmp_path: Path) -> None:
    training = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 2.5}
    config = tiny_config(model_dir, training=training)
    assert [optimizer_steps(config, n) for n in (0, 1, 2, 12, 13)] == [0, 1, 1, 5, 6]
    assert optimizer_steps(config, 12, processes=2) == 3
    order = training_order(6, 2.5, seed=3)
    assert sorted(order[:6]) == sorted(order[6:12]) == list(range(6))
    assert order[:6] != order[6:12]
    assert len(set(order[12:])) == len(order[12:]) == 3
    assert order == training_order(6, 2.5, seed=3) != training_order(6, 2.5, seed=4)
    arguments = training_arguments(config, output_dir=tmp_path, seed=1, max_steps=9)
    assert (arguments.max_steps, arguments.remove_unused_columns, arguments.report_to) == (9, False, [])
    assert json.loads(arguments.to_json_string())["logging_steps"] == 1
