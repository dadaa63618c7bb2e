"""Runs that hold ranks for scores, and ids that stand twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cyclealign.cli.main import main
from cyclealign.files.trec import read_run
from cyclealign.scores.formats import READERS, detect, read_as
from cyclealign.scores.jsonl_formats import read_texts, texts_by_id
from cyclealign.types import UserError


def run_of(folder: Path, *lists: str) -> Path:
    """A run of three columns: a word a list, the third column of each line a digit."""
    file = folder / "run.tsv"
    file.write_text("".join(f"q{n}\td{i}\t{c}\n" for n, word in enumerate(lists) for i, c in enumerate(word)))
    return file


@pytest.mark.parametrize(
    ("lists", "ranks"),
    [
        (["123"], True),
        (["123", "12"], True),
        (["123", "1"], True),  # one document alone
        (["321"], False),  # scores, best first
        (["321", "1"], False),
        (["124"], False),
        (["012"], False),
        (["112"], False),
        (["123", "13"], False),
        (["123", "2"], False),
        (["1", "1"], False),
        (["30"], False),
    ],
)
def test_three_columns_are_ranks_where_they_count_down_each_list(tmp_path: Path, lists: list[str], ranks: bool) -> None:
    file = run_of(tmp_path, *lists)
    sign = -1 if ranks else 1
    expected = {f"q{n}": {f"d{i}": sign * float(c) for i, c in enumerate(word)} for n, word in enumerate(lists)}
    assert read_run(file) == expected
    assert detect(file, ids=True) == "trec"
    assert read_as(file, "trec") == ("order" if ranks else "magnitude")
    assert [i.scores for i in READERS["trec"](file)] == [tuple(scores.values()) for scores in expected.values()]


@pytest.mark.parametrize("lists", [["231"], ["12", "21"], ["123", "132"]])
def test_ranks_or_scores_in_no_order_are_refused(tmp_path: Path, lists: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"run\.tsv: .*ranks or scores\? Sort each list best first, or write six columns"
    ):
        read_run(run_of(tmp_path, *lists))


def test_fractions_and_six_columns_are_scores(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("q d1 1.0\nq d2 2.0\nq d3 2.5\n")
    assert read_run(file) == {"q": {"d1": 1.0, "d2": 2.0, "d3": 2.5}}
    file.write_text("q Q0 d1 1 1 t\nq Q0 d2 2 2 t\n")
    assert read_run(file) == {"q": {"d1": 1.0, "d2": 2.0}}


def test_a_run_of_ms_marco_by_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Relevant document second of three: a reciprocal rank of 1/2 (read as scores it would be second from below)."""
    (tmp_path / "qrels").write_text("q1 0 d2 1\nq2 0 d9 1\n")
    (tmp_path / "run").write_text("q1\td1\t1\nq2\td9\t1\nq1\td2\t2\nq1\td3\t3\nq1\td4\t4\n")  # lists stand apart
    out = tmp_path / "result.json"
    assert main(["eval", "retrieval", str(tmp_path / "qrels"), str(tmp_path / "run"), "--out", str(out)]) == 0
    capsys.readouterr()
    assert json.loads(out.read_text())["metrics"]["RR@10"]["value"] == 0.75


def test_a_document_twice_in_a_list_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    candidates = [{"docid": d, "score": 1.0, "doc": {"text": d}} for d in ("a", "b", "a")]
    file.write_text(json.dumps({"query": {"text": "q", "qid": "1"}, "candidates": candidates}) + "\n")
    with pytest.raises(UserError, match=r"r\.jsonl:1: candidates: document 'a' stands twice"):
        list(READERS["rankllm"](file))
    for name, rows in {
        "train": [{"query_id": "q", "document_ids": [1, 2, "1"], "scores": [1, 2, 3]}],
        "queries": [{"query_id": "q", "text": "q"}],
        "documents": [{"document_id": str(n), "text": str(n)} for n in (1, 2)],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(UserError, match="document_ids: document '1' stands twice"):
        list(READERS["lighton"](tmp_path))


def test_an_id_with_two_texts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.tsv"
    file.write_text("1\tone\n2\ttwo\n1\tone\n")
    assert texts_by_id(file) == {"1": "one", "2": "two"}
    file.write_text("1\tone\n1\tuno\n")
    assert len(list(read_texts(file))) == 2
    with pytest.raises(UserError, match=r"c\.tsv: the id '1' has two texts, 'one' and 'uno'"):
        texts_by_id(file)
