"""The score store: append-only, keyed by ids, resumable; calibrations by value and stored."""

from __future__ import annotations

import itertools
import math
import sqlite3
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclealign.judge.ledger import Ledger
from cyclealign.scores.calibration import Spread, fit
from cyclealign.scores.mix import mixed
from cyclealign.scores.score_list import Item, ScoreList
from cyclealign.scores.store import ScoreStore, Teacher
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, UserError

LISTS = [
    ScoreList(query=Item("q1", "how"), documents=(Item("d1", "one"), Item("d2", "two")), positives=1, place="f:1"),
    ScoreList(query=Item("q1"), documents=(Item("d3"),), place="f:2"),
    ScoreList(query=Item("q2", "why"), documents=(Item("d1"),), place="f:3"),
]
SCORES = [("q1", "d1", 3.0), ("q1", "d2", 1.0), ("q1", "d3", 0.5), ("q2", "d1", -2.0)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    found = ScoreStore(tmp_path / "s.sqlite")
    found.add_lists(LISTS)
    found.add_teacher(Teacher(name="t", gives="magnitude"))
    yield found
    found.close()


def test_what_is_left_to_score(store: ScoreStore, tmp_path: Path) -> None:
    assert store.unscored("t") == [("q1", ["d1", "d2", "d3"]), ("q2", ["d1"])]
    store.put("t", SCORES[:2])
    # Another process finds it as it was left.
    again = ScoreStore(tmp_path / "s.sqlite")
    assert again.unscored("t") == []  # it was asked for nothing yet
    again.add_lists(LISTS[2:])
    assert again.unscored("t") == [("q2", ["d1"])]
    again.add_lists(LISTS)
    assert again.unscored("t") == [("q1", ["d3"]), ("q2", ["d1"])]
    assert again.unscored("other") == store.unscored("other") == [("q1", ["d1", "d2", "d3"]), ("q2", ["d1"])]
    assert again.count("t") == 2
    assert again.score("t", "q1", "d1") == 3.0
    assert again.score("t", "q2", "d1") is None
    again.close()


def test_a_score_is_never_changed(store: ScoreStore, tmp_path: Path) -> None:
    store.put("t", SCORES)
    store.put("t", SCORES)  # the same again is no change
    with pytest.raises(UserError, match=r"already scored document 'd1' for query 'q1' as 3\.0, now 2\.0"):
        store.put("t", [("q9", "d9", 1.0), ("q1", "d1", 2.0)])
    assert store.score("t", "q9", "d9") is None  # all or nothing
    with pytest.raises(UserError, match="gave the score nan"):
        store.put("t", [("q9", "d9", math.nan)])
    db = sqlite3.connect(tmp_path / "s.sqlite")
    for statement in ("UPDATE scores SET score = 0", "DELETE FROM scores", "DELETE FROM teachers"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()


def test_texts_come_when_they_come_and_never_change(store: ScoreStore) -> None:
    with pytest.raises(UserError, match="no text for the document 'd3'; give --queries and --documents"):
        store.text("document", "d3")
    store.add_texts("document", [("d3", "three"), ("unheard", "of")], "docs.tsv")
    assert store.text("document", "d3") == "three"
    with pytest.raises(UserError, match="no text for the document 'unheard'"):
        store.text("document", "unheard")
    with pytest.raises(UserError, match="g:1: query 'q1' had another text before: 'how'"):
        store.add_lists([ScoreList(query=Item("q1", "when"), documents=(), place="g:1")])
    assert store.told(LISTS[1]).documents == (Item("d3", "three"),)


def test_a_chat_keeps_its_messages_and_a_set_its_names(store: ScoreStore, tmp_path: Path) -> None:
    chat = tuple(Message(role=r, content=c) for r, c in (("user", "why"), ("assistant", "so"), ("user", "oh")))
    asked = ScoreList(
        query=Item("q3", "why so oh"), documents=(Item("d1"), Item("d2")), chat=chat, names=("0", "z"), place="g:1"
    )
    store.add_lists([asked])
    assert store.candidates("q3", ["d2", "d1"]) == CandidateSet(
        Prompt(chat), (Candidate("z", "two"), Candidate("0", "one"))
    )
    how = (Message(role="user", content="how"),)
    assert store.candidates("q1", ["d1"]) == CandidateSet(Prompt(how), (Candidate("d1", "one"),))
    assert store.queries() == 3
    # A file of ids that names the query later asks the same chat.
    again = ScoreStore(tmp_path / "s.sqlite")
    again.add_lists([ScoreList(query=Item("q3"), documents=(Item("d1"),))])
    assert again.candidates("q3", ["d1"]) == CandidateSet(Prompt(chat), (Candidate("d1", "one"),))
    with pytest.raises(UserError, match="g:1: chat 'q3' had another text before"):
        again.add_lists([replace(asked, chat=how)])
    again.close()


def test_a_teacher_stays_the_same(store: ScoreStore) -> None:
    first = Teacher(name="x", gives="magnitude", provenance={"sha256": "a", "max_length": 128})
    store.add_teacher(first)
    store.add_teacher(first)
    with pytest.raises(UserError, match=r"x was another teacher .* \(sha256: 'a', now 'b'\)"):
        store.add_teacher(Teacher(name="x", gives="magnitude", provenance={"sha256": "b", "max_length": 128}))
    with pytest.raises(UserError, match="gave magnitude, now order"):
        store.add_teacher(Teacher(name="x", gives="order", provenance=dict(first.provenance)))
    assert list(store.teachers()) == ["t", "x"]


def test_calibrations_by_value_and_stored(store: ScoreStore, tmp_path: Path) -> None:
    store.put("t", SCORES)
    values = [s for *_, s in SCORES]
    assert store.calibration("t", "raw")(3.0) == 3.0
    zscore = store.calibration("t", "zscore")
    assert [zscore(v) for v in values] == pytest.approx(
        [(v - statistics.mean(values)) / statistics.pstdev(values) for v in values]
    )
    assert [store.calibration("t", "minmax")(v) for v in values] == pytest.approx([1.0, 0.6, 0.5, 0.0])
    assert store.calibration("t", "temperature:4")(3.0) == 0.75
    # Scores that come later do not move it: what was written before stays comparable.
    store.put("t", [("q3", "d1", 1000.0)])
    again = ScoreStore(tmp_path / "s.sqlite")
    assert again.calibration("t", "zscore") == zscore
    assert zscore.pairs == 4
    again.close()


@pytest.mark.parametrize("method", ["z-score", "temperature", "temperature:0", "temperature:x", "raw:1", ""])
def test_unknown_calibrations(store: ScoreStore, method: str) -> None:
    store.put("t", SCORES)
    with pytest.raises(UserError, match="expected raw, zscore, minmax or temperature:T"):
        store.calibration("t", method)


def test_equal_scores_have_no_scale(store: ScoreStore) -> None:
    store.put("t", [("q1", "d1", 1.0), ("q1", "d2", 1.0)])
    for method in ("zscore", "minmax"):
        with pytest.raises(UserError, match=r"all 2 scores are 1\.0"):
            store.calibration("t", method)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), method=st.sampled_from(["zscore", "minmax"]))
def test_calibration_keeps_the_order_and_the_ratios_of_margins(values: list[float], method: str) -> None:
    if max(values) - min(values) < 1e-3:
        return
    spread = Spread(
        low=min(values),
        high=max(values),
        mean=statistics.fmean(values),
        deviation=statistics.pstdev(values),
        pairs=len(values),
    )
    calibration = fit(method, spread)
    for a, b in itertools.pairwise(values):
        assert (calibration(a) - calibration(b)) * calibration.scale == pytest.approx(a - b, rel=1e-6, abs=1e-6)


def test_the_mean_of_teachers(store: ScoreStore) -> None:
    store.put("t", SCORES)
    store.add_teacher(Teacher(name="u", gives="magnitude"))
    store.put("u", [("q1", "d1", 1.0), ("q1", "d2", 5.0)])
    both = {name: store.calibration(name, "raw") for name in ("t", "u")}
    (item,) = mixed(store, both, LISTS[:1])
    assert item.scores == (2.0, 3.0)
    assert item.positives == 1
    with pytest.raises(UserError, match="f:2: u has no score for document 'd3'"):
        list(mixed(store, both, LISTS))


def test_another_database_is_no_store(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite"):
        pass
    with pytest.raises(UserError, match="got another database"):
        ScoreStore(tmp_path / "ledger.sqlite")
    (tmp_path / "text").write_text("not a database at all, " * 10)
    with pytest.raises(UserError, match="cannot be opened"):
        ScoreStore(tmp_path / "text")
