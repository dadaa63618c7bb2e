"""A whole run of a policy that thinks: its judge, its figures, its losses and its demonstrations know answers alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from loopback import Loopback, shown
from thinking_policy import MODES, save_thinker, thinker
from tiny_policy import WORDS

from cyclealign.config.loading import load_config
from cyclealign.cycle.drift import drift_broken
from cyclealign.cycle.export import write_merged
from cyclealign.cycle.model_card import model_card
from cyclealign.cycle.starting import Cycle
from cyclealign.evaluation.replies import reply_statistics
from cyclealign.evaluation.responses import load_responses
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Metrics
from cyclealign.files.run_records import read_rankings, read_sets, set_record
from cyclealign.models.chat_template import render_prompt
from cyclealign.models.encoded_lists import Reading, encode_set
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.saved import load_for_use
from cyclealign.reporting.page import render_report
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.types import Candidate, CandidateSet, Prompt, RankContext, Ranking, RankingExample

QUESTION = Prompt(({"role": "user", "content": "a b hello"},))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_thinker(tmp_path_factory.mktemp("thinker") / "model")


def run_of(folder: Path, model: Path, mode: str, url: str) -> RunDir:
    """Two interactions of six prompts; three prompts are held out."""
    folder.mkdir(exist_ok=True)
    prompts = [{"prompt": f"{a} {b} hello"} for a in WORDS[:3] for b in WORDS[3:6]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts[:6]))
    (folder / "held_out.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts[6:]))
    keys = {
        "name": "r", "output_dir": folder, "policy.model": model, "policy.max_prompt_tokens": 64,
        "policy.chat_template_kwargs": json.dumps(MODES[mode]), "data.prompts": folder / "prompts.jsonl",
        "data.eval_prompts": folder / "held_out.jsonl", "generator.candidates": 4, "generator.max_new_tokens": 6,
        "generator.thinking.max_tokens": 8, "cycle.max_interactions": 2, "cycle.scorer": "null",
        "black_box.backend": "openai", "black_box.model": "m", "black_box.base_url": url, "loss.name": "rrhf",
        "demonstrations.gate": -1, "drift.max_nll_rise": "null", "drift.max_length_ratio": "null",
        "drift.min_distinct2": "null", "training.per_device_train_batch_size": 2,
    }  # fmt: skip
    config = load_config("quickstart", [f"{k}={v}" for k, v in keys.items()])
    return RunDir(Cycle.from_config(config).run())


@pytest.mark.parametrize("mode", MODES)
def test_the_loop(tmp_path: Path, model_dir: Path, mode: str) -> None:
    with Loopback() as server:
        run = run_of(tmp_path / "runs", model_dir, mode, server.url)
    sets = {(n, i): s for n, it in enumerate(run.interactions()) for i, s in read_sets(it.candidates).items()}
    candidates = [c for s in sets.values() for c in s.candidates]
    assert len(candidates) > 30
    thought = [c for c in candidates if (c.thinking or "").strip()]
    assert (len(thought) == len(candidates)) if mode == "begun" else (len(thought) < len(candidates) / 2)
    # What the judge is sent, demonstrations of this run included, are answers.
    judged = [body for body in server.requests if len(body["messages"]) > 1]
    assert judged
    assert "think" not in json.dumps([m for body in judged for m in body["messages"]])
    answers = {c.text for c in candidates}
    assert {text for body in judged[-6:] for text in shown(body)} <= answers
    assert len(run.interactions()) == 2
    pool = run.interaction(0).demonstrations.read_text()
    assert '"source":"0"' in pool.replace(" ", "")
    assert "think>" not in pool
    # The figures of drift are of answers.
    held = [s for s in read_sets(run.evaluation(0) / "candidates.jsonl").values() if s.candidates]
    metrics = run.evaluations()[0]
    said = reply_statistics([c.text for s in held for c in s.candidates])
    assert (metrics.mean_words, metrics.distinct2) == (said.mean_words, said.distinct2)
    config = load_config(run.config)
    white_box = WhiteBox(config, base=str(model_dir), total_steps=1, seed=0)
    again = white_box.nll([(s.prompt, c) for s in held for c in s.candidates], start_model=True)
    assert metrics.nll_start == pytest.approx(fmean(again), rel=1e-5)
    # Everything that was sampled is on record: the likelihoods of a resume are those of the run.
    first = read_sets(run.interaction(0).candidates)
    context: Any = RankContext(run="r", interaction=0, seed=0, demonstrations=None)  # type: ignore[arg-type]
    for ranking in white_box.rank(first.values(), context):
        assert isinstance(ranking, Ranking)
        recorded = read_rankings(run.interaction(0).white_box)[ranking.prompt_id]
        assert ranking.scores == pytest.approx(recorded.scores, rel=1e-5)
    page = render_report(run)
    assert page.count("<summary>thinking</summary>") >= (6 if mode == "begun" else 0)
    if mode == "off":
        exported_as_it_was_trained(run, model_dir, tmp_path / "merged")


def exported_as_it_was_trained(run: RunDir, model_dir: Path, out: Path) -> None:
    config = load_config(run.config)
    assert "Chats rendered with `enable_thinking=false`" in model_card(config, run, adapter=True)
    write_merged(config.policy, run, out)
    _, tokenizer = load_for_use(str(out), dtype=torch.float32)
    own = load_tokenizer(config.policy)
    assert render_prompt(tokenizer, QUESTION.messages, 64) == render_prompt(own, QUESTION.messages, 64)
    plain = load_tokenizer(thinker(model_dir, "on").policy)
    assert render_prompt(tokenizer, QUESTION.messages, 64) != render_prompt(plain, QUESTION.messages, 64)


# Likelihood and loss ------------------------------------------------------------------------------------------


def by_hand(model_dir: Path, mode: str, reply: Candidate) -> float:
    """NLL a token of an answer's words, from the model's own logits over the whole text."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(thinker(model_dir, mode).policy)
    prompt = render_prompt(tokenizer, QUESTION.messages, 64)
    before = tokenizer(reply.thinking or "", add_special_tokens=False)["input_ids"]
    answer = tokenizer(reply.text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *before, *answer]])
    logprobs = AutoModelForCausalLM.from_pretrained(model_dir)(ids).logits[0].log_softmax(-1)
    first = len(prompt) + len(before)
    return -float(logprobs.detach()[first - 1 : -1].gather(1, ids[0, first:, None]).mean())


THOUGHT = {"on": "<think>\na b\n</think>\n\n", "off": "", "begun": "a b\n</think>\n\n"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("train", ["answer", "all"])
def test_nll_is_of_the_answer_given_its_thinking(model_dir: Path, mode: str, train: str) -> None:
    config = thinker(model_dir, mode, generator={"thinking": {"train": train}})
    white_box = WhiteBox(config, base=str(model_dir), total_steps=1, seed=0)
    reply = Candidate("0", "good c", thinking=THOUGHT[mode])
    assert white_box.nll([(QUESTION, reply)]) == pytest.approx([by_hand(model_dir, mode, reply)], rel=1e-4)
    other = replace(reply, thinking=THOUGHT[mode].replace("a b", "d"))
    assert (white_box.nll([(QUESTION, other)]) == white_box.nll([(QUESTION, reply)])) == (mode == "off")


@pytest.mark.parametrize(("train", "tokens"), [("answer", 3 + 2), ("all", 3 + 2 + 3 + 2)])
@pytest.mark.parametrize("layout", ["padded", "cached_prefix"])
def test_the_loss_is_of_answers_or_of_all(
    model_dir: Path, tmp_path: Path, train: str, tokens: int, layout: str
) -> None:
    """With an anchor too: the start model's log-probabilities stand where the policy's do."""
    config = thinker(
        model_dir,
        "begun",
        generator={"thinking": {"train": train}},
        layout=layout,
        anchor={"weight": 1.0},
        training={"learning_rate": 1e-2, "per_device_train_batch_size": 1, "logging_steps": 1},
    )
    white_box = WhiteBox(config, base=str(model_dir), total_steps=1, seed=0)
    candidates = (
        Candidate("0", "good c", thinking="a b\n</think>\n\n"),
        Candidate("1", "no", thinking="d\n</think>\n\n"),
    )
    ((good, bad),) = white_box.token_logprobs([CandidateSet(QUESTION, candidates)])
    assert len(good) + len(bad) == tokens
    example = RankingExample(
        prompt_id=QUESTION.id,
        messages=QUESTION.messages,
        responses=tuple(c.text for c in candidates),
        ended=(True, True),
        teacher=(1.0, 0.0),
        thinking=tuple(c.thinking for c in candidates),
    )
    report = white_box.fit([example], start=None, out=tmp_path / "0")
    row = report.logs[0]
    assert row["tokens"] == tokens
    assert row["anchor"] == pytest.approx(0.0, abs=1e-6)  # the policy is the start model yet
    expected = max(0.0, float(bad.mean() - good.mean())) - float(good.mean())
    assert row["loss"] == pytest.approx(expected, rel=1e-4)


def test_labels_are_read_after_thinking_with_nothing_in_it(model_dir: Path) -> None:
    tokenizer = load_tokenizer(thinker(model_dir, "on").policy)
    item = CandidateSet(QUESTION, (Candidate("chosen", "good"), Candidate("rejected", "bad")))
    for row, read in encode_set(tokenizer, item, Reading(64)).rows:
        assert tokenizer.convert_ids_to_tokens(row)[:read] == ["<think>", "</think>"]
        assert len(row) == read + 2


# Records ------------------------------------------------------------------------------------------------------


def test_thinking_survives_a_file_and_a_recorded_reply_is_told_apart(tmp_path: Path) -> None:
    item = CandidateSet(
        QUESTION, (Candidate("0", "good", thinking="a</think> "), Candidate("1", "no")), drawn=6, unfinished=3
    )
    write_jsonl(tmp_path / "candidates.jsonl", [set_record(item)])
    assert read_sets(tmp_path / "candidates.jsonl")[QUESTION.id] == item
    rows = [
        {"messages": list(QUESTION.messages), "response": "<think>\na\n</think>\n\ngood"},
        {"prompt": "b", "response": "good"},
    ]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = load_responses(tmp_path / "replies.jsonl")
    assert [(r.text, r.thinking) for r in found.values()] == [("good", "<think>\na\n</think>\n\n"), ("good", None)]


def test_a_policy_that_only_thinks_is_unfinished_and_not_empty() -> None:
    start = Metrics(
        replies=3, mean_words=2.0, distinct1=1.0, distinct2=1.0, kept_of_drawn=1.0, nll_start=1.0, nll_by_prompt={},
        white_box_accuracy=None, black_box_accuracy=None, version="v",
    )  # fmt: skip
    none = replace(start, replies=0, nll_start=None)
    limits = load_config("quickstart").drift
    assert drift_broken(limits, {0: start, 1: none}, 1) == "all replies are empty"
    unfinished = replace(none, unfinished=9)
    assert str(drift_broken(limits, {0: start, 1: unfinished}, 1)).startswith("no reply has an answer: 9 never left")
    assert str(drift_broken(limits, {0: unfinished}, 0)).startswith("no reply has an answer: 9 never left")
