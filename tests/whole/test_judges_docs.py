"""docs/judges.md against the result that it quotes and the table that the command prints."""

from __future__ import annotations

import re
from pathlib import Path

from cyclealign.evaluation.result import read_result
from cyclealign.files.labelled import JUDGE_LISTS, load_labelled
from cyclealign.reporting.judge_table import COLUMNS, judge_cells

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")
RESULT = read_result(ROOT / "evals" / "results" / "judges.json")


def test_the_rows_are_those_of_the_result() -> None:
    for name in RESULT.arms:
        row = " | ".join((name, *judge_cells(RESULT.subsets[name])[:5]))
        assert f"| {row} |" in DOCS
    assert f"chance is {RESULT.metrics['accuracy_of_chance']:.1%}" in DOCS
    assert RESULT.metrics["items"] == len(load_labelled(JUDGE_LISTS))
    assert f"{RESULT.metrics['items']} lists of two to five" in DOCS


def test_every_column_is_explained() -> None:
    explained = re.findall(r"^\| ([^|]+?) \|", DOCS, flags=re.MULTILINE)
    assert set(COLUMNS) - {"judge"} <= set(explained)
