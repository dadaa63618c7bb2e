"""The ledger: what was paid is on disk at every moment, and is used again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cyclealign.judge.call import Call, Recorded, Spend
from cyclealign.judge.ledger import Ledger, LedgerUnavailable
from cyclealign.judge.spill import Outcome, Place, Spill
from cyclealign.types import UserError


def call(text: str = "hello", **changes: Any) -> Call:
    given: dict[str, Any] = {
        "endpoint": "http://127.0.0.1/v1",
        "model": "judge",
        "messages": [{"role": "user", "content": text}],
        "schema": None,
        "options": {"temperature": 0},
        "purpose": "rank",
        "prompt_id": "p",
        "interaction": 0,
    }
    return Call(**(given | changes))


def finish(ledger: Ledger, row: int, reply: str = "{}", usd: float = 0.25) -> None:
    ledger.done(row, reply=reply, input_tokens=10, output_tokens=3, usd=usd, http_status=200, latency_s=0.5)


def fail(ledger: Ledger, row: int, usd: float = 0.0) -> None:
    ledger.failed(row, error="HTTP 500: no", usd=usd, http_status=500, latency_s=0.1)


def found(ledger: Ledger, one: Call) -> str | None:
    recorded = ledger.lookup(one)
    return None if recorded is None else recorded.reply


def test_a_completed_reply_is_found_again_and_a_failure_is_not(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        fail(ledger, ledger.start(call(), reserved_usd=1.0))
        assert ledger.lookup(call()) is None
        finish(ledger, ledger.start(call(), reserved_usd=1.0), "the reply")
        assert found(ledger, call()) == "the reply"
    with Ledger(tmp_path / "l.sqlite") as again:
        assert found(again, call()) == "the reply"
        assert again.lookup(call("other")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"messages": [{"role": "system", "content": "hello"}]},
        {"repairs": True},
        {"content": [{"role": "user", "content": "another form"}]},
        {"purpose": "probe"},
        {"options": {"temperature": 0, "seed": 1}},
        {"endpoint": "http://127.0.0.2/v1"},
    ],
)
def test_what_changes_the_request_changes_its_identity(tmp_path: Path, change: dict[str, Any]) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        finish(ledger, ledger.start(call(), reserved_usd=0.0))
        assert ledger.lookup(call(**change)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "eval"},
        {"prompt_id": "q"},
        {"interaction": 7},
        {"pass_number": 2},
        {"schema": {"type": "object"}},
        {"options": {"temperature": 1, "max_completion_tokens": 9}},
        {"messages": [{"role": "user", "content": "in other words"}], "content": call().messages},
    ],
)
def test_what_is_only_said_about_a_request_does_not(tmp_path: Path, change: dict[str, Any]) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        finish(ledger, ledger.start(call(), reserved_usd=0.0), "r")
        assert found(ledger, call(**change)) == "r"


def test_the_key_is_the_hash_of_the_canonical_content() -> None:
    content = b'["judge",[{"content":"hello","role":"user"}],"ask",{}]'
    assert call().key == hashlib.sha256(content).hexdigest()


def test_totals(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.spend() == Spend()
        finish(ledger, ledger.start(call(purpose="probe", interaction=None), reserved_usd=1.0), usd=0.125)
        finish(ledger, ledger.start(call("a"), reserved_usd=1.0), usd=0.25)
        fail(ledger, ledger.start(call("b"), reserved_usd=1.0), usd=0.5)
        ledger.start(call("b"), reserved_usd=2.0)  # in flight when its process dies
        finish(ledger, ledger.start(call("b", interaction=1), reserved_usd=1.0), usd=0.25)
        assert ledger.spend() == Spend(
            calls=5,
            done=3,
            failed=1,
            unfinished=1,
            repeated=1,
            input_tokens=30,
            output_tokens=9,
            usd=1.125,
            reserved_usd=2.0,
        )
        by_purpose = ledger.spend_by("purpose")
        assert {k: v.calls for k, v in by_purpose.items()} == {"probe": 1, "rank": 4}
        by_interaction = ledger.spend_by("interaction")
        assert {k: v.usd for k, v in by_interaction.items()} == {None: 0.125, 0: 0.75, 1: 0.25}
        assert list(by_interaction) == [None, 0, 1]
        assert by_interaction[1] == Spend(calls=1, done=1, repeated=1, input_tokens=10, output_tokens=3, usd=0.25)
        by_stage = ledger.spend_by_stage()
        assert {k: (v.calls, v.usd) for k, v in by_stage.items()} == {
            (None, "probe"): (1, 0.125),
            (0, "rank"): (3, 0.75),
            (1, "rank"): (1, 0.25),
        }


def test_attempts_of_one_request_are_counted(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for _ in range(3):
            fail(ledger, ledger.start(call(), reserved_usd=0.0))
        fail(ledger, ledger.start(call("other"), reserved_usd=0.0))
    rows = sqlite3.connect(tmp_path / "l.sqlite")
    assert rows.execute("SELECT attempt FROM calls ORDER BY id").fetchall() == [(1,), (2,), (3,), (1,)]
    rows.close()


def test_facts(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.fact("structured") is None
        ledger.set_fact("structured", "no")
        ledger.set_fact("structured", "yes")
    with Ledger(tmp_path / "l.sqlite") as again:
        assert again.fact("structured") == "yes"


def test_a_reader_sees_what_a_writer_has_committed_so_far(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as writer:
        row = writer.start(call(), reserved_usd=0.5)
        with Ledger(tmp_path / "l.sqlite", read_only=True) as reader:
            assert reader.spend() == Spend(calls=1, unfinished=1, reserved_usd=0.5)
            finish(writer, row)
            assert reader.spend().done == 1
            with pytest.raises(UserError, match="readonly"):
                reader.set_fact("a", "b")


def test_threads_share_one_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:

        def work(n: int) -> None:
            for i in range(20):
                finish(ledger, ledger.start(call(f"{n}/{i % 10}"), reserved_usd=0.0))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.spend().done == 80


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_ledger import call, finish
from cyclealign.judge.ledger import Ledger, LedgerUnavailable
ledger = Ledger(Path(sys.argv[1]))
for i in range(30):
    finish(ledger, ledger.start(call(str(i)), reserved_usd=0.0), f"reply {{i}}")
ledger.start(call("in flight"), reserved_usd=0.75)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_commit_survives_the_process(tmp_path: Path) -> None:
    """WAL with NORMAL: the operating system holds what is committed, and a power cut leaves a whole file."""
    for read_only in (False, True):
        with Ledger(tmp_path / "l.sqlite", read_only=read_only) as ledger:
            assert ledger._all("PRAGMA journal_mode") == [("wal",)]
            assert ledger._all("PRAGMA synchronous") == [(1,)]
            assert ledger._all("PRAGMA busy_timeout") == [(1000,)]


def test_all_that_was_paid_survives_sigkill(tmp_path: Path) -> None:
    program = KILLED.format(paths=[str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "l.sqlite")], check=False)
    assert done.returncode == -9
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert ledger.spend().done == 30
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert [found(ledger, call(str(i))) for i in range(30)] == [f"reply {i}" for i in range(30)]
        assert ledger.spend().unfinished == 1
        assert ledger.spend().reserved_usd == 0.75


def test_what_is_no_ledger_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with pytest.raises(UserError, match=r"ledger .*l\.sqlite: there is no such file"):
        Ledger(path, read_only=True)
    path.write_text("this is no database " * 100)
    with pytest.raises(UserError, match="cannot be opened as a ledger: file is not a database"):
        Ledger(path)
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UserError, match="expected layout 4, got 99"):
        Ledger(path)
    with pytest.raises(UserError, match="cannot be opened"):
        Ledger(tmp_path / "l.sqlite" / "below a file.sqlite")


def test_another_layout_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE calls (id INTEGER PRIMARY KEY)")
    db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(UserError, match="expected layout 4, got 1: another version of cyclealign wrote it") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_loses_no_reply(tmp_path: Path) -> None:
    """What does not fit is kept beside the ledger; the next opening writes it."""
    path = tmp_path / "l.sqlite"
    long = "x" * 500_000
    ledger = Ledger(path)
    row = ledger.start(call(), reserved_usd=0.5)
    assert row is not None
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    ledger.received(row, reply=long, http_status=200)
    finish(ledger, row, long)
    assert (tmp_path / "l.sqlite.spill.jsonl").exists()

    def more() -> None:
        for i in range(500):
            ledger.start(call(str(i)), reserved_usd=0.0)

    with pytest.raises(UserError, match="disk is full; what was answered is kept in"):
        more()
    ledger.close()
    with (tmp_path / "l.sqlite.spill.jsonl").open("a") as file:
        file.write('{"row": 1, "colu')  # a line that its end cut
    with Ledger(path) as again:
        assert found(again, call()) == long
        assert again.spend().usd == 0.25
    assert not (tmp_path / "l.sqlite.spill.jsonl").exists()


def test_a_ledger_makes_its_folder_and_a_reader_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "l.sqlite"
    with pytest.raises(UserError, match="there is no such file"):
        Ledger(path, read_only=True)
    assert not path.parent.parent.exists()
    Ledger(path).close()
    Ledger(path).close()  # as it is
    with Ledger(path, read_only=True) as reader, pytest.raises(LedgerUnavailable, match="readonly database"):
        reader.set_fact("a", "b")


def test_what_cannot_be_read_is_said_and_is_not_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger._db.execute("DROP TABLE facts")
        with pytest.raises(LedgerUnavailable, match=r"l\.sqlite: no such table: facts; start again"):
            ledger.fact("a")
        ledger._db.execute("DROP TABLE calls")
        for ask in (ledger.spend, lambda: ledger.lookup(call()), lambda: ledger.answered("rank")):
            with pytest.raises(LedgerUnavailable, match="no such table: calls"):
                ask()


def test_what_cannot_be_kept_beside_the_ledger_either_is_known(tmp_path: Path) -> None:
    spill, place = Spill(tmp_path / "l.sqlite"), Place(3, "http://127.0.0.1/v1", "k")
    spill.path.mkdir()  # as a disk that is full: it cannot be written
    spill.add(place, Outcome(reply="a"))
    spill.add(place, Outcome(usd=1.0))
    assert (spill.pending, spill.kept) == ({place: Outcome(reply="a", usd=1.0)}, False)
    spill.settled()  # in the ledger now
    assert (spill.pending, spill.kept) == ({}, True)


def test_many_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    refused: list[BaseException] = []
    start = threading.Barrier(4)

    def work(path: Path) -> None:
        start.wait()
        try:
            Ledger(path).close()
        except UserError as error:
            refused.append(error)

    for n in range(25):
        threads = [threading.Thread(target=work, args=(tmp_path / f"{n}.sqlite",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert refused == []


def test_a_reservation_that_does_not_fit_leaves_no_row(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger, Ledger(tmp_path / "l.sqlite") as other:
        first = ledger.start(call("a"), reserved_usd=0.75, limit=1.0)
        assert first is not None
        assert other.start(call("b"), reserved_usd=0.5, limit=1.0) is None
        assert other.start(call("b"), reserved_usd=0.25, limit=1.0) is not None
        finish(ledger, first, usd=0.5)
        assert other.start(call("c"), reserved_usd=0.25, limit=1.0) is not None
        assert other.start(call("c"), reserved_usd=0.25, limit=1.0) is None
        assert ledger.spend().calls == 3


@pytest.mark.parametrize("usd", [-1.0, float("nan"), float("inf"), 1e13])
def test_no_sum_that_cannot_be_is_booked(tmp_path: Path, usd: float) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        row = ledger.start(call(), reserved_usd=0.5)
        assert row is not None
        with pytest.raises(sqlite3.IntegrityError):
            finish(ledger, row, usd=usd)
        assert ledger.spend().reserved_usd == 0.5


def test_a_reply_that_was_written_down_but_not_read_is_found(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        row = ledger.start(call(schema={"type": "object"}), reserved_usd=0.5)
        assert row is not None
        ledger.received(row, reply="r", http_status=200)
    with Ledger(tmp_path / "l.sqlite") as again:
        assert again.lookup(call()) == Recorded(row, "r", True, False)


def test_answered_calls_say_how_long_they_took_and_what_was_thinking(tmp_path: Path) -> None:
    forms: list[dict[str, Any] | None] = [None, {"type": "json_schema"}, {"type": "json_object"}]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for n, (form, thinking) in enumerate(zip(forms, (7, 0, None), strict=True)):
            asked = call(str(n), purpose="eval", prompt_id=str(n), pass_number=n, schema=form)
            row = ledger.start(asked, reserved_usd=1.0)
            assert row is not None
            counts = {"input_tokens": 10, "cached_tokens": 4, "written_tokens": 1, "output_tokens": 9}
            ledger.done(row, reply="{}", usd=0.1, http_status=200, latency_s=0.5, thinking_tokens=thinking, **counts)
        finish(ledger, ledger.start(call(), reserved_usd=1.0))  # of a run
        fail(ledger, ledger.start(call("failed", purpose="eval"), reserved_usd=1.0))
        ledger.start(call("under way", purpose="eval"), reserved_usd=1.0)
        answered = ledger.answered("eval")
        found = ledger.spend_by("purpose")["eval"]
    assert [(c.prompt_id, c.pass_number, c.form) for c in answered] == [
        ("0", 0, "text"), ("1", 1, "schema"), ("2", 2, "object")
    ]  # fmt: skip
    assert [c.thinking for c in answered] == [7, 0, None]
    assert {c.latency_s for c in answered} == {0.5}
    assert (found.input_tokens, found.cached_tokens, found.written_tokens) == (30, 12, 3)
    assert (found.output_tokens, found.thinking_tokens) == (27, 7)


# What a process left beside its ledger ------------------------------------------------------------------------


def spilled(path: Path, *asked: Call) -> Path:
    """A ledger with calls in flight, and their outcomes in a file beside it: what a full disk leaves."""
    with Ledger(path) as ledger:
        rows = [ledger.start(one, reserved_usd=0.5) for one in asked]
        (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        for row, one in zip(rows, asked, strict=True):
            assert row is not None
            ledger.received(row, reply=f"{one.key} {'x' * 300_000}", http_status=200)
            finish(ledger, row, f"{one.key} {'x' * 300_000}")
    return path.with_name(f"{path.name}.spill.jsonl")


def reopened(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[Spend, str]:
    """Totals after the next opening, and what it says."""
    caplog.clear()
    with caplog.at_level("WARNING"), Ledger(path) as ledger:
        return ledger.spend(), " ".join(caplog.messages)


def line_of(row: int, one: Call, **columns: Any) -> str:
    outcome = {"state": "done", "reply": "forged", "usd": 0.0} | columns
    return json.dumps({"row": row, "endpoint": one.endpoint, "key": one.key, "outcome": outcome}) + "\n"


@pytest.mark.parametrize(("cut", "done"), [(2, 1), (250_000, 1), (350_000, 1), (900_000, 0)])
def test_a_spill_file_that_was_cut_gives_what_is_whole_and_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int, done: int
) -> None:
    path = tmp_path / "l.sqlite"
    file = spilled(path, call("a"), call("b"))
    assert file.read_bytes().count(b"\n") == 4
    data = file.read_bytes()[:-cut]
    file.write_bytes(data)
    spend, said = reopened(path, caplog)
    assert (spend.done, spend.unfinished) == (done, 2 - done)
    assert said.count("1 damaged") == 1
    assert "kept as l.sqlite.spill.jsonl.1" in said
    assert not file.exists()
    assert (tmp_path / "l.sqlite.spill.jsonl.1").read_bytes() == data
    assert reopened(path, caplog) == (spend, "")  # said once


def test_a_spill_file_of_zeros_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l.sqlite"
    file = spilled(path, call("a"))
    file.write_bytes(bytes(file.stat().st_size))
    (tmp_path / "l.sqlite.spill.jsonl.1").write_text("of an earlier time")
    spend, said = reopened(path, caplog)
    assert (spend.done, spend.unfinished) == (0, 1)
    assert "1 damaged; the file is kept as l.sqlite.spill.jsonl.2" in said
    assert (tmp_path / "l.sqlite.spill.jsonl.1").read_text() == "of an earlier time"


@pytest.mark.parametrize(
    "columns",
    [
        {"reserved_usd": 0.0},
        {"usd = 0, id": 7},
        {"state": "started"},
        {"state": "paid"},
        {"usd": -1.0},
        {"usd": float("inf")},
        {"usd": float("nan")},
        {"usd": 10**400},
        {"usd": "0.1"},
        {"usd": None},
        {"reply": None},
        {"reply": 7},
        {"reply": "\ud800"},
        {"input_tokens": -4},
        {"input_tokens": 2**70},
        {"http_status": True},
        {"state": "failed"},
    ],
)
def test_what_no_ledger_spills_is_not_written_into_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, columns: dict[str, Any]
) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.start(call("a"), reserved_usd=0.5)
        before = ledger.spend()
    file = tmp_path / "l.sqlite.spill.jsonl"
    file.write_text(line_of(1, call("a"), **columns))
    spend, said = reopened(path, caplog)
    assert spend == before
    assert "records that cannot be used: 1 " in said
    assert not file.exists()
    assert (tmp_path / "l.sqlite.spill.jsonl.1").exists()


def test_a_spill_file_of_another_ledger_overwrites_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        for text in "ab":
            ledger.start(call(text), reserved_usd=0.5)
        finish(ledger, 1, "paid")
        before = ledger.spend()
    other = call("a", endpoint="http://elsewhere/v1")
    lines = [
        line_of(1, call("a")),  # another outcome of a call that has one
        line_of(2, call("a")),  # another call stands there
        line_of(2, call("b", model="other")),
        line_of(2, other),
        line_of(9, call("b")),
        line_of(2**70, call("b")),
    ]
    (tmp_path / "l.sqlite.spill.jsonl").write_text("".join(lines))
    spend, said = reopened(path, caplog)
    assert spend == before
    assert "6 not of a call of this ledger that was in flight" in said
    with Ledger(path) as again:
        assert found(again, call("a")) == "paid"
        assert again.lookup(call("b")) is None


def test_a_spill_file_that_is_read_twice_changes_nothing_the_second_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that dies between the ledger's commit and the removal of the file."""
    path = tmp_path / "l.sqlite"
    file = spilled(path, call("a"), call("b"))
    data = file.read_bytes()
    first, said = reopened(path, caplog)
    assert (first.done, first.usd, said) == (2, 0.5, "")
    file.write_bytes(data + data)
    assert reopened(path, caplog) == (first, "")
    assert [p.name for p in tmp_path.iterdir()] == ["l.sqlite"]
    file.write_bytes(data.splitlines(keepends=True)[0])  # the reply alone, of a call that is settled since
    assert reopened(path, caplog) == (first, "")


def test_what_was_only_received_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l.sqlite"
    file = spilled(path, call("a"))
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    _, said = reopened(path, caplog)
    assert said == ""
    with Ledger(path) as ledger:
        recorded = ledger.lookup(call("a"))
    assert recorded is not None
    assert (recorded.settled, recorded.reply[:64]) == (False, call("a").key)


def test_what_each_judge_has_cost_and_nothing_to_say_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for model, usd in (("m1", 0.5), ("m0", 0.25), ("m1", 1.0)):
            row = ledger.start(call(f"{model} {usd}", model=model), reserved_usd=2.0)
            assert row is not None
            ledger.done(row, reply="r", input_tokens=7, output_tokens=1, usd=usd, http_status=200, latency_s=0.1)
        found = {who: (spend.calls, spend.input_tokens, spend.usd) for who, spend in ledger.spend_by_judge().items()}
    endpoint = call().endpoint
    assert found == {(endpoint, "m1"): (2, 14, 1.5), (endpoint, "m0"): (1, 7, 0.25)}
    assert caplog.text == ""
