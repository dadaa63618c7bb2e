"""Rows of the list distillers from score files: levels, known positives, unscored texts, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cyclealign.distill.config import ScoresConfig
from cyclealign.distill.list_rows import mined_rows, ranked_rows, text_rows, training_rows
from cyclealign.files.records import write_record
from cyclealign.losses import CPRD, ListMLE, MarginMSE, MultiLevelRanking
from cyclealign.scores.sidecar import Sidecar
from cyclealign.types import UserError


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scores(name: str, rows: str | list[Any], **options: Any) -> ScoresConfig:
    lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    Path(name).write_text(lines)
    return ScoresConfig(scores=Path(name), **options)


def test_a_loss_of_levels_gets_levels_of_equal_scores_the_highest_first() -> None:
    rows = [{"query": "q", "documents": ["a", "b", "c", "d"], "scores": [1.5, 8.0, -2.0, 1.5]}]
    data = scores("n.jsonl", rows)
    assert ranked_rows(data, MultiLevelRanking())["scores"] == [[1, 0, 2, 1]]
    assert ranked_rows(data, MarginMSE())["scores"] == [[1.5, 8.0, -2.0, 1.5]]


def test_levels_that_cyclealign_score_wrote_are_levels_again() -> None:
    data = scores(
        "l.run", "q Q0 a 1 0 x\nq Q0 b 2 -1 x\nq Q0 c 3 -1 x\n", queries=Path("q.tsv"), documents=Path("d.tsv")
    )
    write_record(Path("l.run.meta.json"), Sidecar(gives="levels", teachers=(), queries_left_out=0))
    Path("q.tsv").write_text("q\tasked\n")
    Path("d.tsv").write_text("a\tone\nb\ttwo\nc\tthree\n")
    assert ranked_rows(data, MultiLevelRanking())["scores"] == [[0, 1, 1]]
    with pytest.raises(UserError, match=r"loss\.name: margin_mse needs magnitudes, but l\.run gives levels alone"):
        ranked_rows(data, MarginMSE())


def test_labels_are_levels_too() -> None:
    data = scores("t.tsv", "q\tgood\tbad\n", teacher="labels")
    assert ranked_rows(data, MultiLevelRanking())["scores"] == [[0, 1]]


@pytest.mark.parametrize("loss", [MarginMSE(), CPRD(threshold="mean")])
def test_a_rankllm_file_is_an_order_also_where_nobody_names_its_format(loss: Any) -> None:
    row = {"query": {"text": "q", "qid": "1"}, "candidates": [{"docid": d, "score": 1, "doc": d} for d in "ab"]}
    data = scores("r.jsonl", [row])
    with pytest.raises(UserError, match=r"needs magnitudes, but r\.jsonl gives an order alone; use loss\.gap_temp"):
        ranked_rows(data, loss)
    assert ranked_rows(data, ListMLE())["scores"] == [[1.0, 0.0]]


def test_a_mined_list_has_one_positive_and_no_other_known_one() -> None:
    row = {"query": "q", "pos": ["p1", "p2"], "neg": ["n1", "n2"], "pos_scores": [9, 8], "neg_scores": [1, 2]}
    found = mined_rows(scores("b.jsonl", [row, {**row, "pos": ["p1"], "pos_scores": [9]}], limit=1))
    assert found == {"query": ["q"], "documents": [["p1", "n1", "n2"]], "scores": [[9.0, 1.0, 2.0]]}


def test_what_qrels_judge_best_is_the_positive() -> None:
    Path("qrels.tsv").write_text("q\td1\t1\nq\td3\t2\n")
    Path("texts.tsv").write_text("".join(f"{i}\ttext of {i}\n" for i in ("q", "d1", "d2", "d3", "d4")))
    texts = {"queries": Path("texts.tsv"), "documents": Path("texts.tsv")}
    run = "q Q0 d2 1 9 x\nq Q0 d1 2 8 x\nq Q0 d4 3 7 x\n"
    data = scores("first.run", run, teacher="labels", qrels=Path("qrels.tsv"), **texts)
    assert training_rows(data)["documents"] == [[f"text of d{n}" for n in (3, 1, 2, 4)]]
    assert training_rows(data)["scores"] == [[2.0, 1.0, 0.0, 0.0]]
    assert mined_rows(data)["documents"] == [[f"text of d{n}" for n in (3, 2, 4)]]
    with pytest.raises(UserError, match=r"first\.run:1: which document is the query's positive is not known"):
        mined_rows(scores("first.run", run, **texts))


def test_texts_need_no_scores_and_no_second_document() -> None:
    data = scores("c.tsv", "1\ta\tasked\tone document\n2\tb\talso asked\tanother\n2\tc\talso asked\ta third\n")
    found = text_rows(data)
    assert found == {"query": ["asked", "also asked"], "documents": [["one document"], ["another", "a third"]]}
    with pytest.raises(UserError, match="there are no scores; make them with cyclealign score"):
        training_rows(data)
    with pytest.raises(UserError, match="holds no list"):
        text_rows(scores("empty.run", "", format="trec"))


def test_an_unknown_format_is_refused_when_the_config_is_read() -> None:
    with pytest.raises(ValueError, match=r"expected auto, margin_mse, .* got 'foo'"):
        ScoresConfig(scores=Path("x"), format="foo")
