"""`cyclealign rank` against a chaotic judge, killed at random moments: nothing lost, nothing invented, every cent."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos import KINDS
from loopback import text_hash

CHAOS = Path(__file__).resolve().parents[1] / "helpers" / "chaos.py"
PRICE_IN, PRICE_OUT = 10.0, 30.0
CONCURRENCY = 16
IN_FLIGHT = "state = 'started' AND reply IS NULL"
REASONS = {"unusable", "refusal", "error", "budget"}


def candidates(i: int) -> list[str]:
    draw = random.Random(i)
    return [text_hash(f"{i}/{j}")[:length] for j, length in enumerate(draw.sample(range(4, 40), 3))]


@contextmanager
def chaotic(bill: Path, *, text: bool) -> Iterator[str]:
    command = [sys.executable, str(CHAOS), "--log", str(bill), *(["--text"] if text else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.kill()


def start(folder: Path, url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cyclealign", "rank", str(folder / "sets.jsonl"), "--ranker", "openai:judge"]
    options = [f"base_url={url}", f"price.input={PRICE_IN}", f"price.output={PRICE_OUT}"]
    where = ["--out", str(folder / "out.jsonl"), "--ledger", str(folder / "l.sqlite")]
    more = [f"max_concurrency={CONCURRENCY}"]
    return subprocess.Popen([*command, *options, *more, *where], stderr=subprocess.PIPE)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def answered(bill: Path) -> int:
    return bill.read_bytes().count(b"\n") if bill.exists() else 0


def soak(folder: Path, n: int, kills: int, *, text: bool) -> dict[str, object]:
    """Rank ``n`` sets with kills at random moments; what came of it, checked and counted."""
    rows = [{"prompt": f"question {i}?", "candidates": candidates(i)} for i in range(n)]
    (folder / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bill = folder / "bill.jsonl"
    draw = random.Random(n)
    moments = sorted(draw.sample(range(n // 10, n), kills))
    in_flight = 0
    began = time.monotonic()
    with chaotic(bill, text=text) as url:
        for moment in moments:
            process = start(folder, url)
            while answered(bill) < moment and process.poll() is None:
                time.sleep(0.05 if n < 1000 else 1.0)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        if kills:
            with sqlite3.connect(folder / "l.sqlite") as db:
                # A reply that was written down before the kill is read by the next start, and no longer in flight.
                in_flight = db.execute(f"SELECT count(*) FROM calls WHERE {IN_FLIGHT}").fetchone()[0]
        process = start(folder, url)
        errors = process.communicate()[1].decode()
    assert process.returncode in (0, 1), errors
    assert "Traceback" not in errors
    return check(folder, n, in_flight) | {"seconds": time.monotonic() - began, "kills": kills}


def check(folder: Path, n: int, in_flight: int) -> dict[str, object]:
    by_prompt = {}
    for record in lines(folder / "out.jsonl"):
        by_prompt[record["prompt_id"]] = record
    assert len(by_prompt) == n  # 0 sets without verdict or reason
    from cyclealign.files.prompts import load_candidate_sets

    ranked = 0
    for given in load_candidate_sets(folder / "sets.jsonl"):
        record = by_prompt[given.prompt.id]
        if "tiers" not in record:
            assert record["unranked"] in REASONS
            continue
        texts = {c.id: c.text for c in given.candidates}
        order = [texts[i] for tier in record["tiers"] for i in tier]  # type: ignore[attr-defined]
        assert order == sorted(texts.values(), key=len, reverse=True)  # 0 verdicts wrong, moved or invented
        ranked += 1
    bill = lines(folder / "bill.jsonl")
    true = sum(r["tokens"][0] * PRICE_IN + r["tokens"][1] * PRICE_OUT for r in bill) / 1e6  # type: ignore[index]
    with sqlite3.connect(folder / "l.sqlite") as db:
        booked, reserved = db.execute(
            "SELECT SUM(usd), SUM(CASE WHEN state = 'started' THEN reserved_usd ELSE 0 END) FROM calls"
        ).fetchone()
        (answered,) = db.execute("SELECT SUM(usd) FROM calls WHERE state = 'done' AND odd IS NULL").fetchone()
        started, tokens = db.execute(
            f"SELECT SUM({IN_FLIGHT}), SUM(input_tokens + output_tokens) FROM calls"
        ).fetchone()
        repeated = db.execute(
            "SELECT count(*) FROM calls c WHERE EXISTS (SELECT 1 FROM calls b WHERE b.key = c.key"
            " AND b.attempt < c.attempt AND b.state = 'done') AND purpose <> 'probe'"
        ).fetchone()[0]
    assert repeated == 0  # nothing answered is paid twice
    assert started == in_flight
    assert booked + reserved >= true - 1e-9
    odd = {"huge count", "negative count", "no count", "text count", "count of ten million"}
    counted = sum(sum(r["tokens"]) for r in bill if r["kind"] not in odd and not str(r["kind"]).startswith("error"))  # type: ignore[arg-type]
    lost = sum(sorted((sum(r["tokens"]) for r in bill), reverse=True)[:in_flight])  # type: ignore[arg-type]
    assert counted - lost <= tokens <= counted  # booked as billed, but for what was in flight at a kill
    assert answered > 0
    return {"sets": n, "ranked": ranked, "calls": len(bill), "true_usd": true, "booked_usd": booked + reserved}


@pytest.mark.parametrize("text", [False, True])
def test_soak(tmp_path: Path, text: bool) -> None:
    assert len(KINDS) >= 34
    found = soak(tmp_path, 60, 1, text=text)
    assert found["ranked"] > 40  # type: ignore[operator]


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("text", [False, True])
def test_soak_of_20000_calls_and_12_kills(tmp_path: Path, text: bool, request: pytest.FixtureRequest) -> None:
    if "long" not in request.config.getoption("markexpr"):
        pytest.skip("long: runs with -m long")
    print(json.dumps(soak(tmp_path, 14_000, 12, text=text)))
