"""Records of ours: read back as written, and everything that they are not is one line that names file and field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_run import hand_made_run

from cyclealign.files.records import decode, encode, read_record, read_records, write_record, write_records
from cyclealign.files.run_dir import open_run
from cyclealign.files.run_figures import train_row
from cyclealign.files.run_records import VerdictRecord, read_sets, read_verdicts, verdict_record
from cyclealign.files.run_state import State, Timing
from cyclealign.types import Cascaded, Message, Ranking, Unranked, UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    FORMAT: ClassVar[int] = 2

    count: int
    kind: Literal["a", "b"]
    inner: Inner
    turns: tuple[Message, ...]
    by_name: Mapping[str, float]
    known: float | None
    found: Inner | None = None
    said: str | None = None


WHOLE = Outer(
    count=3,
    kind="b",
    inner=Inner(share=0.5, names=("x", "y")),
    turns=({"role": "user", "content": "é\u2028\x00"},),
    by_name={"x": 1.0},
    known=None,
    found=Inner(share=1e-300),
)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", WHOLE)
    assert read_record(Outer, tmp_path / "r.json") == WHOLE
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert list(found) == ["format", "count", "kind", "inner", "turns", "by_name", "known", "found"]  # no ``said``
    assert found["format"] == 2
    write_records(tmp_path / "r.jsonl", [WHOLE, replace(WHOLE, said="yes")])
    assert [r.said for r in read_records(Outer, tmp_path / "r.jsonl")] == [None, "yes"]
    assert list(read_records(Outer, tmp_path / "none.jsonl")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 3.0}, "count: expected a whole number, got 3.0"),
        ({"count": True}, "count: expected a whole number, got true"),
        ({"count": None}, "count: expected a whole number, got null"),
        ({"kind": "c"}, 'kind: expected one of a, b, got "c"'),
        ({"inner": []}, "inner: expected an object, got []"),
        ({"inner": {}}, "inner.share: missing"),
        ({"inner": {"share": "0.5"}}, 'inner.share: expected a number, got "0.5"'),
        ({"inner": {"share": False}}, "inner.share: expected a number, got false"),
        ({"inner": {"share": 1, "names": "xy"}}, 'inner.names: expected a list, got "xy"'),
        ({"inner": {"share": 1, "names": ["x", 2]}}, "inner.names.1: expected text, got 2"),
        ({"turns": [{"role": "user"}]}, "turns.0.content: missing"),
        ({"by_name": {"x": "1"}}, 'by_name.x: expected a number, got "1"'),
        ({"found": {"share": None}}, "found.share: expected a number, got null"),
        ({"counts": 3}, "counts: unknown field"),
    ],
)
def test_another_field_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": 2, **encode(WHOLE), **change}), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_record(Outer, path)
    assert str(refused.value) == f"{path}: {said}; not as cyclealign wrote it: put the file back from a copy"
    lines = tmp_path / "r.jsonl"
    lines.write_text(f"{json.dumps(encode(WHOLE))}\n{json.dumps(encode(WHOLE) | change)}\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        list(read_records(Outer, lines))
    assert str(refused.value).startswith(f"{lines}:2: {said};")


@pytest.mark.parametrize("missing", ["count", "kind", "inner", "turns", "by_name", "known"])
def test_a_field_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": 2, **{k: v for k, v in encode(WHOLE).items() if k != missing}}))
    with pytest.raises(UserError, match=f"r.json: {missing}: missing; not as cyclealign wrote it"):
        read_record(Outer, path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2', "\ud83d", "[" * 100_000])
def test_what_is_no_record_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"r\.json: ") as refused:
        read_record(Outer, path)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"none.json: cannot be read: No such file"):
        read_record(Outer, tmp_path / "none.json")


@pytest.mark.parametrize(
    ("found", "said"),
    [(3, "newer than this cyclealign reads (2): upgrade"), (1, "use the version that"), (None, "use the version")],
)
def test_another_format_says_what_to_do(tmp_path: Path, found: int | None, said: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": found, "other": "fields"}))
    with pytest.raises(UserError) as refused:
        read_record(Outer, path)
    assert f"{path}: record format {found} is " in str(refused.value)
    assert said in str(refused.value)


def test_a_run_of_a_newer_format_is_refused_before_anything_of_it_is_read(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    state = encode(read_record(State, run.state_file))
    run.state_file.write_text(json.dumps({"format": State.FORMAT + 1, **state, "stage": "something new"}))
    with pytest.raises(UserError, match=r"state.json: record format 2 is newer .* upgrade cyclealign"):
        open_run(run.path)


NAMES = st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True)
NUMBERS = st.floats(allow_nan=False)
CASCADES = st.builds(Cascaded, kept=NAMES.map(tuple), scores=st.dictionaries(st.text(), NUMBERS), audited=st.booleans())
TIERS = st.lists(st.text(), min_size=1, unique=True).map(
    lambda names: tuple(tuple(names[n : n + 2]) for n in range(0, len(names), 2))
)
RANKINGS = st.builds(
    Ranking,
    prompt_id=st.text(),
    tiers=TIERS,
    scores=st.none() | st.dictionaries(st.text(), NUMBERS),
    votes=st.none() | st.dictionaries(st.text(), NUMBERS),
    confidence=st.none() | NUMBERS,
    passes=st.lists(NAMES.map(tuple)).map(tuple),
    cascade=st.none() | CASCADES,
)
UNRANKED = st.builds(Unranked, st.text(), st.sampled_from(["unusable", "refusal", "error", "too_few"]), st.text())


@given(RANKINGS | UNRANKED)
def test_verdicts_come_back_as_they_were(verdict: Ranking | Unranked) -> None:
    assert decode(VerdictRecord, json.loads(json.dumps(verdict_record(verdict)))).verdict == verdict


@pytest.mark.parametrize("record", [{"prompt_id": "p"}, {"prompt_id": "p", "tiers": [], "unranked": "error"}])
def test_a_verdict_is_a_ranking_or_the_reason_why_not(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected either these or unranked"):
        decode(VerdictRecord, record)


@pytest.mark.parametrize("tiers", [[], [[]], [["a", "b"], ["a"]], [["a", "a"]]])
def test_a_verdict_names_each_candidate_once(tmp_path: Path, tiers: list[list[str]]) -> None:
    path = tmp_path / "black_box.jsonl"
    path.write_text(json.dumps({"prompt_id": "p", "tiers": tiers}) + "\n{}\n")
    with pytest.raises(UserError, match=r":1: tiers: expected each candidate once, and at least one"):
        read_verdicts(path)


def test_two_candidates_of_one_id_are_no_set(tmp_path: Path) -> None:
    path = tmp_path / "candidates.jsonl"
    candidates = [{"id": "0", "text": "a", "finish": "stop"}, {"id": "0", "text": "b", "finish": "stop"}]
    path.write_text(json.dumps({"prompt_id": "p", "messages": [], "candidates": candidates, "drawn": 2}) + "\n{}\n")
    with pytest.raises(UserError, match=r":1: candidates: two of one id"):
        read_sets(path)


def test_a_number_that_no_float_can_hold_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"seconds: expected a number that a float can hold, got 1000"):
        decode(Timing, {"stage": "train", "interaction": 0, "seconds": 10**400})


def test_what_a_loss_of_ones_own_logs_is_kept() -> None:
    row = train_row({"loss": 1.5, "step": 3, "margin": 0.25})
    assert (row.loss, row.step, row.others) == (1.5, 3.0, {"margin": 0.25})
    assert train_row({"loss": 1.5, "step": 3.0}).others is None
