"""Every paid call, on disk before it is sent and again before its reply is read as a verdict.

One SQLite file a run. The identity of a call is the sha256 of the canonical JSON of (model, messages, schema,
options) together with the attempt's number; retries are attempts, repairs are other messages. A completed reply is used
again at no cost, a failure is recorded and never used as a verdict. Messages, keys and headers are not stored.

WAL with ``synchronous=NORMAL``: a commit survives the death of the process at any moment (the operating system
holds it); a power cut may lose the last seconds.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from cyclealign.types import Message, UserError, sha256_hex

# eval: calls that only measure a ranker on labelled pairs, their repairs included.
Purpose = Literal["rank", "repair", "probe", "eval"]

LAYOUT = 1
_TABLES = """
CREATE TABLE calls (
  id INTEGER PRIMARY KEY,
  endpoint TEXT NOT NULL,
  key TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  model TEXT NOT NULL,
  purpose TEXT NOT NULL,
  interaction INTEGER,
  prompt_id TEXT NOT NULL,
  pass INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('started', 'done', 'failed')),
  started_at REAL NOT NULL,
  reserved_usd REAL NOT NULL,
  usd REAL NOT NULL DEFAULT 0,
  input_tokens INTEGER NOT NULL DEFAULT 0,
  output_tokens INTEGER NOT NULL DEFAULT 0,
  http_status INTEGER,
  latency_s REAL,
  reply TEXT,
  error TEXT,
  UNIQUE (endpoint, key, attempt)
) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_SPEND = """
SELECT COUNT(*), COALESCE(SUM(state = 'done'), 0), COALESCE(SUM(state = 'failed'), 0),
  COALESCE(SUM(state = 'started'), 0),
  COALESCE(SUM(EXISTS (
    SELECT 1 FROM calls AS before WHERE before.endpoint = calls.endpoint AND before.key = calls.key
      AND before.attempt = calls.attempt - 1 AND before.state = 'started')), 0),
  COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0), COALESCE(SUM(usd), 0.0),
  COALESCE(SUM(CASE WHEN state = 'started' THEN reserved_usd ELSE 0.0 END), 0.0)
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, as it is identified and accounted for. ``options``: the request body's other fields.

    ``endpoint`` is no part of the key, but a reply is only ever used again for the endpoint that gave it.
    ``interaction`` is None for probes; ``pass_number`` counts presentations of one item from 0.
    """

    endpoint: str
    model: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None
    options: Mapping[str, Any]
    purpose: Purpose
    prompt_id: str = ""
    interaction: int | None = None
    pass_number: int = 0

    @cached_property
    def key(self) -> str:
        """sha256 of the content; with the attempt's number it names a row."""
        return sha256_hex([self.model, list(self.messages), self.schema, dict(self.options)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Totals. ``calls`` = ``done`` + ``failed`` + ``unfinished``: every attempt that was about to be sent.

    unfinished: sent, without a reply on record: in flight now, or when a process was killed. repeated: calls sent
    again because of that. usd: cost of what was answered, and the worst case of failures that may have been
    billed. reserved_usd: worst case of the unfinished.
    """

    calls: int = 0
    done: int = 0
    failed: int = 0
    unfinished: int = 0
    repeated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    reserved_usd: float = 0.0


class Ledger:
    """The ledger file: one writing process, whose threads may share the object; any number of readers.

    Raises UserError where the file is no ledger, or (``read_only``) is not there.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.Lock()
        if read_only and not path.exists():
            raise UserError(f"ledger {path}: there is no such file; nothing was paid for yet, or it is elsewhere")
        try:
            self._db = _open(path, read_only)
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"ledger {path}: cannot be opened as a ledger: {error}") from error

    def lookup(self, call: Call) -> str | None:
        """The raw reply to a call of this content that was completed before, at whichever attempt."""
        row = self._one(
            "SELECT reply FROM calls WHERE endpoint = ? AND key = ? AND state = 'done' ORDER BY attempt LIMIT 1",
            (call.endpoint, call.key),
        )
        return None if row is None else str(row[0])

    def history(self, call: Call) -> Spend:
        """What all attempts at a call of this content have taken so far."""
        row = self._one(f"{_SPEND} FROM calls WHERE endpoint = ? AND key = ?", (call.endpoint, call.key))
        assert row is not None
        return _spend(row)

    def start(self, call: Call, *, reserved_usd: float) -> int:
        """Record an attempt that is about to be sent; returns its row."""
        columns = {
            "endpoint": call.endpoint,
            "key": call.key,
            "model": call.model,
            "purpose": call.purpose,
            "interaction": call.interaction,
            "prompt_id": call.prompt_id,
            "pass": call.pass_number,
            "state": "started",
            "started_at": time.time(),
            "reserved_usd": reserved_usd,
        }
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        with self._lock, self._db:
            cursor = self._db.execute(
                f"INSERT INTO calls ({names}, attempt) VALUES ({marks},"
                " (SELECT COALESCE(MAX(attempt), 0) + 1 FROM calls WHERE endpoint = ? AND key = ?))",
                (*columns.values(), call.endpoint, call.key),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def done(
        self,
        row: int,
        *,
        reply: str,
        input_tokens: int,
        output_tokens: int,
        usd: float,
        http_status: int,
        latency_s: float,
    ) -> None:
        """Record the raw reply of an attempt, and what it cost."""
        self._settle(
            row,
            state="done",
            reply=reply,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            usd=usd,
            http_status=http_status,
            latency_s=latency_s,
        )

    def failed(
        self,
        row: int,
        *,
        error: str,
        usd: float,
        http_status: int | None,
        latency_s: float,
        reply: str | None = None,
    ) -> None:
        """Record that an attempt gave no completed reply. ``usd``: what must be taken as billed for it."""
        self._settle(
            row,
            state="failed",
            error=error,
            usd=usd,
            http_status=http_status,
            latency_s=latency_s,
            reply=reply,
        )

    def fact(self, name: str) -> str | None:
        """What was found out about an endpoint before (its capabilities), so that it is paid for once."""
        row = self._one("SELECT value FROM facts WHERE name = ?", (name,))
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    def spend(self) -> Spend:
        """Totals over all calls."""
        row = self._one(f"{_SPEND} FROM calls", ())
        assert row is not None
        return _spend(row)

    def spend_by(self, group: Literal["purpose", "interaction"]) -> dict[str | int | None, Spend]:
        """Totals by purpose, or by interaction (None: probes)."""
        with self._lock:
            rows = self._db.execute(f"{_SPEND}, {group} FROM calls GROUP BY {group} ORDER BY {group}").fetchall()
        return {row[-1]: _spend(row[:-1]) for row in rows}

    def spend_by_stage(self) -> dict[tuple[int | None, str], Spend]:
        """Totals by interaction (None: probes) and purpose, in that order."""
        with self._lock:
            rows = self._db.execute(
                f"{_SPEND}, interaction, purpose FROM calls GROUP BY interaction, purpose ORDER BY interaction, purpose"
            ).fetchall()
        return {(row[-2], row[-1]): _spend(row[:-2]) for row in rows}

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, row: int, **columns: Any) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        with self._lock, self._db:
            self._db.execute(f"UPDATE calls SET {assignments} WHERE id = ?", (*columns.values(), row))

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._lock:
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row


def _open(path: Path, read_only: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
    try:
        _prepare(db, read_only)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, read_only: bool) -> None:
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout == 0 and not read_only:
        db.execute("PRAGMA journal_mode = WAL")
        # One transaction: a process killed here leaves no half of a layout behind.
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")
    elif layout != LAYOUT:
        raise sqlite3.DatabaseError(f"expected layout {LAYOUT}, got {layout}")
    db.execute("PRAGMA synchronous = NORMAL")


def _spend(row: Sequence[Any]) -> Spend:
    names = (
        "calls",
        "done",
        "failed",
        "unfinished",
        "repeated",
        "input_tokens",
        "output_tokens",
        "usd",
        "reserved_usd",
    )
    return Spend(**dict(zip(names, row, strict=True)))
