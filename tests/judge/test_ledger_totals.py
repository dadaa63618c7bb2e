"""The running totals are what a scan of all calls finds: after any history, kill and rollback, and for two writers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import kill, start

from cyclealign.judge.call import Account, Call, Spend
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.ledger_totals import totals_query

SCAN = """
SELECT endpoint, model, interaction, purpose, COUNT(*), SUM(state = 'done'), SUM(state = 'failed'),
  SUM(state = 'started'), SUM(EXISTS (
    SELECT 1 FROM calls AS before WHERE before.endpoint = calls.endpoint AND before.key = calls.key
      AND before.attempt = calls.attempt - 1 AND before.state = 'started')),
  SUM(input_tokens), SUM(cached_tokens), SUM(written_tokens), SUM(output_tokens),
  COALESCE(SUM(thinking_tokens), 0), SUM(usd), SUM(CASE WHEN state = 'started' THEN reserved_usd ELSE 0.0 END)
FROM calls WHERE {where} GROUP BY endpoint, model, interaction, purpose
"""
ACCOUNTS: dict[Account, str] = {"judge": "purpose <> 'witness'", "witness": "purpose = 'witness'"}
FIRST_ASKED = (
    "SELECT endpoint, model FROM calls WHERE purpose <> 'witness' GROUP BY endpoint, model ORDER BY MIN(calls.id)"
)
OPERATIONS = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 5), st.integers(0, 1)),
    st.tuples(st.sampled_from(("done", "failed", "received", "spilled")), st.integers(0, 30), st.integers(0, 1)),
    st.tuples(st.sampled_from(("grow", "reopen", "rollback")), st.just(0), st.integers(0, 1)),
)


def call(number: int) -> Call:
    """Six calls of four groups; two of one key, which are attempts of each other in other groups. What a witness's
    ledger files of them is in groups of its own, and of the same keys."""
    return Call(
        endpoint=f"http://127.0.0.{number % 2}/v1",
        model="judge",
        messages=[{"role": "user", "content": str(number % 4)}],
        schema=None,
        options={},
        purpose="probe" if number == 3 else "rank",
        interaction=None if number == 3 else number // 4,
    )


def scanned(path: Path, where: str, group: tuple[int, ...]) -> dict[Any, dict[str, float]]:
    """Totals by the columns of SCAN that ``group`` numbers, added up here, of the calls that ``where`` takes."""
    names = list(Spend.__dataclass_fields__)
    found: dict[Any, dict[str, float]] = {}
    with closing(sqlite3.connect(path)) as db:
        for row in db.execute(SCAN.format(where=where)):
            into = found.setdefault(tuple(row[i] for i in group), dict.fromkeys(names, 0))
            for name, value in zip(names, row[4:], strict=True):
                into[name] += value
    return found


def check(path: Path) -> None:
    """All that the ledger tells is what a scan of its calls finds."""

    def same(mine: dict[Any, Spend], group: tuple[int, ...], where: str = "TRUE") -> None:
        theirs = scanned(path, where, group)
        assert mine.keys() == theirs.keys()
        for key, spend in mine.items():
            for name, value in theirs[key].items():
                have = getattr(spend, name)
                # Counts to the last one; dollars as near as sums of floats in another order are.
                assert have == (pytest.approx(value, rel=1e-9, abs=1e-9) if name.endswith("usd") else value), name

    def all_of(total: Spend) -> dict[Any, Spend]:
        return {(): total} if total.calls else {}

    with Ledger(path, read_only=True) as ledger:
        same(all_of(ledger.spend()), ())
        for account, where in ACCOUNTS.items():
            total = ledger.spend(account)
            same(all_of(total), (), where)
            spent = ledger._all("SELECT spent FROM money WHERE account = ?", (account,))
            assert spent == [(pytest.approx(total.usd, rel=1e-9, abs=1e-9),)]
        same({(k,): v for k, v in ledger.spend_by("purpose").items()}, (3,))
        same({(k,): v for k, v in ledger.spend_by("interaction").items()}, (2,))
        same(dict(ledger.spend_by_stage()), (2, 3))
        same(dict(ledger.spend_by_judge()), (0, 1), ACCOUNTS["judge"])
        assert list(ledger.spend_by_judge()) == ledger._all(FIRST_ASKED)
        for one in map(call, range(4)):
            same(all_of(ledger.history(one)), (), f"endpoint = '{one.endpoint}' AND key = '{one.key}'")


def done(ledger: Ledger, row: int) -> None:
    ledger.done(
        row, reply="{}", input_tokens=10 + row, output_tokens=3, cached_tokens=2, written_tokens=1,
        thinking_tokens=row if row % 2 else None, usd=0.1 * row, http_status=200, latency_s=0.5,
    )  # fmt: skip


@given(st.lists(OPERATIONS, max_size=30))
@settings(max_examples=25, deadline=None)
def test_totals_are_those_of_a_scan(history: list[tuple[str, int, int]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "l.sqlite"
        writers = [Ledger(path), Ledger(path, account="witness")]
        open_rows: list[list[int]] = [[], []]
        for what, number, who in history:
            ledger, rows = writers[who], open_rows[who]
            if what == "start":
                row = ledger.start(call(number), reserved_usd=0.1 * number)
                assert row is not None
                rows.append(row)
            elif what == "reopen":
                ledger.close()
                writers[who], open_rows[who] = Ledger(path, account=list(ACCOUNTS)[who]), []
            elif what == "rollback":
                ledger._db.execute("UPDATE calls SET usd = usd + 1, state = 'failed'")
                ledger._db.rollback()  # what a kill leaves of a transaction: nothing
            elif what == "grow":
                ledger.grow("http://127.0.0.1/v1", "judge", times=1.5, plus=0.01)
            elif rows:
                row = rows[number % len(rows)]
                if what == "received":
                    ledger.received(row, reply="{}", http_status=200)
                    continue
                rows.remove(row)
                if what == "failed":
                    ledger.failed(row, error="no", usd=0.3, http_status=None, latency_s=0.1)
                else:
                    ledger._again_at = 1e18 if what == "spilled" else 0.0
                    done(ledger, row)
                    ledger._again_at = 0.0
        for ledger in writers:
            ledger.close()
        check(path)


WRITER = """
import sys
from pathlib import Path
from cyclealign.judge.call import Call
from cyclealign.judge.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), account=sys.argv[2])
for i in range(100000):
    asked = Call(
        endpoint="http://127.0.0.1/v1", model="judge", messages=[{"role": "user", "content": str(i % 6)}], schema=None,
        options={}, purpose="rank", interaction=i % 2,
    )
    row = ledger.start(asked, reserved_usd=0.25)
    if i % 7:
        ledger.done(row, reply="{}", input_tokens=9, output_tokens=3, usd=0.1, http_status=200, latency_s=0.5)
    if i == 50:
        print("going", flush=True)
"""


def test_two_processes_that_are_killed_leave_totals_that_are_those_of_a_scan(tmp_path: Path) -> None:
    path, program = tmp_path / "l.sqlite", tmp_path / "writer.py"
    program.write_text(WRITER)
    both = [start(str(program), str(path), account, anew=True) for account in ACCOUNTS]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
    for process in both:
        kill(process)
    check(path)
    with Ledger(path, read_only=True) as ledger:
        assert all(ledger.spend(account).calls > 50 for account in ACCOUNTS)
        assert ledger.spend().repeated > 0


@pytest.mark.parametrize("account", [None, *ACCOUNTS])
def test_totals_read_no_call_that_has_an_outcome(tmp_path: Path, account: Account | None) -> None:
    """A scan would grow with the ledger: no query may read the calls but through the index of those in flight."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for group in ((), ("purpose",), ("interaction", "purpose"), ("endpoint", "model")):
            query = totals_query(group, account=account)
            plan = [row[-1] for row in ledger._all(f"EXPLAIN QUERY PLAN {query}")]
            reads = [step for step in plan if step.startswith(("SCAN calls", "SEARCH calls"))]
            assert reads
            assert all("open_calls" in step for step in reads), plan
