"""Whole small runs with real weights: the judge's own replies among the candidates, and Python of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import CANDIDATE, Body, Loopback, prefers

from cyclealign.cli.main import main
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_rankings, read_sets
from cyclealign.judge.ledger import Ledger
from cyclealign.types import OWN_REPLY

FUNCTION = "def judge(messages, replies) -> list[float]:\n    return [len(r) for r in replies]\n"


def said_of(name: str, n: int) -> str:
    """Longer than twelve tokens of the policy, and so first before a judge of length."""
    return f"Said of {name} {n}, at {'very ' * 40}great length."


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    Path("mine.py").write_text(FUNCTION)
    for name, size in (("train", 4), ("eval", 2)):
        rows = [{"prompt": f"{name} question {n}?", "gpt": said_of(name, n)} for n in range(size)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["data.prompts=train.jsonl", "data.eval_prompts=eval.jsonl", "output_dir=runs", "generator.chunk=2"]
    small = ["generator.candidates=2", "generator.max_new_tokens=12", "cycle.max_interactions=1", "cycle.batch_size=4"]
    return [*data, *small, "loss.name=rrhf", "generator.backend=transformers", "cycle.scorer=python:mine.py:judge"]


def first_lists_have_it_first(run: RunDir) -> None:
    it = run.interaction(0)
    black, white = read_rankings(it.black_box), read_rankings(it.white_box)
    for prompt_id, item in read_sets(it.candidates).items():
        assert item.ids[-1] == OWN_REPLY
        assert black[prompt_id].order[0] == OWN_REPLY
        assert OWN_REPLY in white[prompt_id].order
        assert (white[prompt_id].scores or {})[OWN_REPLY] < 0


def test_a_judge_that_replies_and_a_scorer_of_ones_own(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def says(body: Body) -> str:
        ranking = any(CANDIDATE.search(m["content"]) for m in body["messages"])
        return prefers(len)(body) if ranking else "I would say so, and at some length, " * 9

    with Loopback(judge=says) as server:
        box = f"black_box={{backend: openai, model: judge, base_url: '{server.url}', answers: true}}"
        assert main(["run", "quickstart", "name=r", *keys, box]) == 0
        said = capsys.readouterr().out
        asked = len(server.requests)
        assert main(["resume", "runs/r"]) == 0
        assert len(server.requests) == asked
    run = RunDir(Path("runs/r"))
    first_lists_have_it_first(run)
    assert "its own replies: first in 100.0% of 4 lists" in said
    assert {m.scorer for m in run.evaluations().values()} == {"python:mine.py:judge"}
    page = run.report.read_text(encoding="utf-8")
    assert "Its own replies: first in 100.0% of 4 lists" in page
    assert "own reply · black box 1" in page


def test_a_judge_that_watches(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It is asked about the replies after training beside the start model's, and its calls are not the judge's."""
    watched = [key for key in keys if not key.startswith("cycle.scorer")]
    with Loopback(judge=prefers(len)) as server:
        witness = (
            f"cycle.witness={{scorer: 'openai:watcher', base_url: '{server.url}', price: {{input: 1, output: 1}}}}"
        )
        assert main(["run", "quickstart", "name=r", *watched, "cycle.scorer=null", witness]) == 0
        said, asked = capsys.readouterr(), len(server.requests)
        assert main(["resume", "runs/r"]) == 0
        assert len(server.requests) == asked
    assert "keeps: best (auto, with a witness): the interaction that openai:watcher scores highest" in said.out
    run = RunDir(Path("runs/r"))
    start, trained = run.evaluations().values()
    assert set(start.rewards.values()) == {0.5}
    assert set(trained.rewards) == set(start.rewards)
    assert {m.scorer for m in (start, trained)} == {"openai:watcher"}
    assert main(["status", "runs/r"]) == 0
    assert f"{asked} calls (0 failed)" in capsys.readouterr().out
    with Ledger(run.ledger, read_only=True) as ledger:
        assert {purpose: spend.calls for purpose, spend in ledger.spend_by("purpose").items()} == {"witness": asked}
    page = run.report.read_text(encoding="utf-8")
    assert "no paid calls (black box: local); the witness" in page
    assert "Witness and ranker" in page


def test_python_of_ones_own_as_the_black_box_beside_a_column_of_replies(keys: list[str]) -> None:
    own = "black_box={backend: python, path: 'mine.py:judge', answers: gpt}"
    assert main(["run", "quickstart", "name=r", *keys, "cycle.scorer=overlap", own]) == 0
    run = RunDir(Path("runs/r"))
    first_lists_have_it_first(run)
    assert (run.prompts / "ranker.py").read_text() == FUNCTION
    texts = {s.text(OWN_REPLY) for s in read_sets(run.interaction(0).candidates).values()}
    assert texts == {said_of("train", n) for n in range(4)}
