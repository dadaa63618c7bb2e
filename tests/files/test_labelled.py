"""Labelled pairs and lists: every format that is read, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cyclealign.files.labelled import LabelledItem, by_subset, load_labelled
from cyclealign.files.labels import majority
from cyclealign.types import UserError


def load(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> list[LabelledItem]:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return load_labelled(str(path), **options)


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]


FORMATS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "hh_rlhf": (
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {"good": 1.0, "bad": 0.0},
    ),
    "trl": ({"prompt": "q", "chosen": "good", "rejected": "bad"}, {"good": 1.0, "bad": 0.0}),
    "trl conversation": ({"chosen": chat("q", "good"), "rejected": chat("q", "bad")}, {"good": 1.0, "bad": 0.0}),
    "ultrafeedback binarised": (
        {"prompt": "q", "chosen": chat("q", "good"), "rejected": chat("q", "bad")},
        {"good": 1.0, "bad": 0.0},
    ),
    "rewardbench 2": (
        {"prompt": "q", "chosen": ["good"], "rejected": ["bad", "worse"], "subset": "Math"},
        {"good": 1.0, "bad": 0.0, "worse": 0.0},
    ),
    "llmbar": ({"input": "q", "output_1": "bad", "output_2": "good", "label": 2}, {"bad": 0.0, "good": 1.0}),
    "pandalm": (
        {"instruction": "q", "input": "", "response1": "bad", "response2": "good", "annotators": [2, 2, 0]},
        {"bad": 0.0, "good": 1.0},
    ),
    "pandalm upstream": (
        {"instruction": "q", "response1": "a", "response2": "b", "annotator1": 0, "annotator2": 1, "annotator3": 2},
        {"a": 0.0, "b": 0.0},
    ),
    "ultrafeedback": (
        {"instruction": "q", "completions": [{"response": r, "overall_score": s} for r, s in (("x", 7), ("y", 8.5))]},
        {"x": 7.0, "y": 8.5},
    ),
    "list": (
        {"messages": chat("q"), "candidates": [{"id": "m", "text": "x", "grade": 3}, {"text": "y", "grade": 1}]},
        {"x": 3.0, "y": 1.0},
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    row, grades = FORMATS[name]
    (item,) = load(tmp_path, row)
    assert item.set.prompt.messages == ({"role": "user", "content": "q"},)
    assert {item.set.text(i): g for i, g in item.grades.items()} == grades
    assert item.decided == (len(set(grades.values())) > 1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q"}, "labelled columns"),
        ({"input": "q", "output_1": "a", "output_2": "b", "label": 3}, "expected one of 1, 2, got 3"),
        ({"instruction": "q", "response1": "a", "response2": "b"}, "expected annotators"),
        ({"instruction": "q", "completions": [{"response": "a"}, {"response": "b"}]}, "finite number"),
        ({"prompt": "q", "candidates": ["a", "b"]}, "list of {id, text, grade}"),
        ({"prompt": "q", "chosen": "same", "rejected": "same"}, "no labelled item"),
        ({"prompt": "q", "chosen": "", "rejected": "b"}, "no labelled item"),
    ],
)
def test_a_bad_row_is_one_line_that_names_its_place(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, row)
    assert said in str(error.value)
    assert "data.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


def test_subsets_and_limits(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "a", "rejected": "b", "subset": s} for n, s in enumerate(("x/1", "x/2", "y"))]
    assert [i.subset for i in load(tmp_path, *rows, subset="x")] == ["x/1", "x/2"]
    assert [i.id for i in load(tmp_path, *rows, limit=2)] == ["0", "1"]
    assert [name for name, _ in by_subset(load(tmp_path, *rows))] == ["x/1", "x/2", "y"]
    assert not list(by_subset(load(tmp_path, rows[0])))


def test_majority_needs_one_vote_more_than_any_other() -> None:
    assert [majority(v) for v in ([1, 2, 2], [0, 1, 2], [1, 1, 2], [0, 0, 1], [2])] == [2, 0, 1, 0, 2]


@pytest.mark.data
def test_the_shared_data_is_read(shared_data: Path) -> None:
    counts = {
        "hhh_alignment/pairs.jsonl.gz": 172,
        "llmbar/instances.jsonl.gz": 908,  # one of 909 has an empty output
        "pandalm_test/testset.jsonl.gz": 744,
    }
    for name, lines in counts.items():
        items = load_labelled(str(shared_data / name))
        assert len(items) <= lines
        assert len(items) > 0.6 * lines
    assert len(load_labelled(str(shared_data / "llmbar/instances.jsonl.gz"))) == 908
    assert len(load_labelled(str(shared_data / "hh_rlhf/helpful_base_test.jsonl.gz"), limit=50)) == 50
