"""The ledger at millions of calls: writes, totals and opening, with the totals that it keeps and with a scan.

    python benchmarks/ledger_scale.py [--rows 10000000] [--out benchmarks/results/ledger_scale.json]

Rows are put in in bulk, sent and then settled, as calls of a thousand interactions by three purposes; then calls are
made as the judge's client makes them. 10 million rows take about 5 GB in the folder of temporary files.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from cyclealign.files.environment import environment
from cyclealign.files.records import encode
from cyclealign.judge.call import Call
from cyclealign.judge.ledger import Ledger

CALLS = 1000
INTERACTIONS, BATCH = 1_000, 100_000
SENT = """
INSERT INTO calls (endpoint, key, attempt, model, purpose, interaction, prompt_id, pass, form, options, state,
  started_at, reserved_usd)
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end)
SELECT 'http://127.0.0.1/v1', printf('%08x%056x', i * 2654435761 % 4294967296, i), 1, 'judge',
  CASE i % 10 WHEN 0 THEN 'repair' WHEN 1 THEN 'eval' ELSE 'rank' END, i * :interactions / :rows, printf('%064x', i), 0,
  'schema', '{"max_tokens":88,"temperature":0}', 'started', i, 0.01
FROM n
"""
SETTLED = """
UPDATE calls SET state = 'done', usd = 0.001, input_tokens = 900, output_tokens = 60, http_status = 200,
  latency_s = 0.5, reply = '{"ranking": [2, 1, 3, 4]}' WHERE state = 'started'
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds, but for call_ms: start, receipt and settlement of one call in milliseconds."""

    rows: int
    megabytes: float
    opening_s: float
    totals_s: float
    by_stage_s: float
    scan_s: float
    call_ms: float


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def call(number: int) -> Call:
    return Call(
        endpoint="http://127.0.0.1/v1",
        model="judge",
        messages=[{"role": "user", "content": f"new {number}"}],
        schema=None,
        options={},
        purpose="rank",
        interaction=INTERACTIONS,
        prompt_id=f"new{number}",
    )


def make_calls(ledger: Ledger) -> None:
    for number in range(CALLS):
        row = ledger.start(call(number), reserved_usd=0.01, limit=1e9)
        assert row is not None
        ledger.received(row, reply="{}", http_status=200)
        ledger.done(row, reply="{}", input_tokens=900, output_tokens=60, usd=0.001, http_status=200, latency_s=0.5)


def filled(path: Path, first: int, rows: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        for start in range(first, rows, BATCH):
            end = min(start + BATCH, rows)
            with db:
                db.execute(SENT, {"first": start, "end": end, "rows": rows, "interactions": INTERACTIONS})
                db.execute(SETTLED)


def scan(path: Path) -> int:
    """What a scan of all calls finds done."""
    query = "SELECT SUM(state = 'done'), SUM(input_tokens), SUM(output_tokens), SUM(usd) FROM calls"
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute(query).fetchone()[0])


def measured(path: Path, rows: int) -> Measured:
    opening = seconds(lambda: Ledger(path).close())
    with Ledger(path) as ledger:
        assert ledger.spend().done == scan(path) == rows
        return Measured(
            rows=rows,
            megabytes=round(path.stat().st_size / 2**20, 1),
            opening_s=round(opening, 4),
            totals_s=round(seconds(ledger.spend), 4),
            by_stage_s=round(seconds(ledger.spend_by_stage), 4),
            scan_s=round(seconds(lambda: scan(path)), 4),
            call_ms=round(seconds(lambda: make_calls(ledger)) * 1000 / CALLS, 4),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ledger_scale.json"))
    arguments = parser.parse_args()
    found = []
    for rows in sorted({10_000, min(2_000_000, arguments.rows), arguments.rows}):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.sqlite"
            Ledger(path).close()
            filling = seconds(lambda path=path, rows=rows: filled(path, 0, rows))  # type: ignore[misc]
            found.append(measured(path, rows))
            print(f"filled in {filling:.0f} s: {found[-1]}", flush=True)
    result = {"ledgers": [asdict(row) for row in found], "environment": encode(environment())}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
