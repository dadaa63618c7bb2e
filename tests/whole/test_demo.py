"""The demo: its ranker and its witness by value, its config, and the pages against what was measured."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.files.jsonl import read_json, read_jsonl
from cyclealign.files.prompts import load_prompts
from cyclealign.rankers.by_name import scorer_by_name
from cyclealign.types import Message

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "evals" / "results" / "demo.json"
MODEL = os.environ.get("CYCLEALIGN_SMOLLM2")  # a folder that recipes/smollm2.py wrote
SKY: tuple[Message, ...] = ({"role": "user", "content": "Why is the sky blue?"},)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, from the root of a checkout."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "evals" / "policies")
    return importlib.import_module("demo")


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("The sky is blue because air scatters blue light most.", 2),
        ("Air scatters the short blue waves of light. So the sky looks blue.", 2),
        ("Blue light scatters. It is the air. The sky is blue. So it looks so.", 0),
        ("I know that the sky is blue because air scatters blue light.", 1),
        ("The sky is blue because air scatters light more than", 1),
        ("Yes.", 0),
        ("Onions are peeled from the top.", 0),
        ("My. A. B. C. D. E. F. G", -5),
    ],
)
def test_the_taste_by_value(demo: Any, reply: str, score: float) -> None:
    assert scorer_by_name(demo.SCORERS["taste"]).score([(SKY, reply)]) == [score]


def test_the_witness_goes_by_the_answer_and_not_by_the_question(demo: Any) -> None:
    right = "Air scatters blue light more than red."
    whole, said, echo = scorer_by_name(demo.SCORERS["witness"]).score(
        [(SKY, text) for text in (ANSWERS[SKY[0]["content"]], right, "How do I peel an onion?")]
    )
    assert whole == pytest.approx(1, abs=1e-5)
    assert whole > said > 0.5 > echo


ANSWERS = {row["prompt"]: row["reference"] for row in read_jsonl(ROOT / "prompts" / "questions_held_out.jsonl")}


def test_no_held_out_question_is_trained_on_and_all_are_told_the_same() -> None:
    trained, held_out = (load_prompts(str(ROOT / f"prompts/questions_{part}.jsonl")) for part in ("train", "held_out"))
    asked = [{p.messages[-1]["content"] for p in part} for part in (trained, held_out)]
    assert [len(a) for a in asked] == [180, 120]
    assert not asked[0] & asked[1]
    assert len({p.messages[0]["content"] for p in (*trained, *held_out)}) == 1
    assert set(ANSWERS) == asked[1]


def test_two_sentences_end_where_the_second_does(demo: Any) -> None:
    assert demo.two_sentences("A is 1.5 m. B? C! D.") == "A is 1.5 m. B?"
    assert demo.two_sentences("A. B") == "A. B"


@pytest.mark.usefixtures("demo")
def test_the_config_is_one_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "demo", "--dry-run", "policy.model=builtin:tiny-chat"]) == 0
    said = capsys.readouterr().out
    assert "paid calls: none" in said or "paid calls: at most 0" in said
    assert load_config("demo").data.eval_prompts is None  # the held-out questions are the script's alone


def test_the_pages_have_the_figures_that_were_measured(demo: Any) -> None:
    rows = read_json(RESULT)["runs"]
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/demo.md"))
    assert "\n".join(demo.samples_table(rows[0])) in readme
    assert "\n".join(demo.figures_table(rows)) in page
    assert len(rows[0]["samples"]) == 12
    questions = [p.messages[-1]["content"] for p in load_prompts(demo.QUESTIONS)]
    assert [s["question"] for row in rows for s in row["samples"]] == questions[::10] * len(rows)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(MODEL is None, reason="CYCLEALIGN_SMOLLM2 names no model folder")
def test_the_demo_teaches_its_taste(demo: Any, tmp_path: Path) -> None:
    row = demo.found(0, tmp_path, [f"policy.model={MODEL}"])
    assert row["gain"]["taste"]["low"] > 0
    assert row["took"]["minutes"] < 60
    shutil.rmtree(tmp_path / "seed-0" / "best")
    assert demo.found(0, tmp_path, []) == read_json(tmp_path / "seed-0" / "measured.json")
