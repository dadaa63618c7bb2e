"""The ledger's file: tables, layouts, opening."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from cyclealign.judge.call import Account, Call
from cyclealign.judge.ledger_totals import OF_ACCOUNT
from cyclealign.judge.ledger_totals import TABLES as TOTALS
from cyclealign.types import canonical_json

LAYOUT = 4
OPENING, WRITING = 30.0, 1.0  # seconds that another program may hold the file while we open it, and at each write
TABLES = """
CREATE TABLE IF NOT EXISTS calls (
  id INTEGER PRIMARY KEY,
  endpoint TEXT NOT NULL,
  key TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  model TEXT NOT NULL,
  purpose TEXT NOT NULL,
  interaction INTEGER,
  prompt_id TEXT NOT NULL,
  pass INTEGER NOT NULL,
  form TEXT NOT NULL CHECK (form IN ('schema', 'object', 'text')),
  options TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('started', 'done', 'failed')),
  started_at REAL NOT NULL,
  reserved_usd REAL NOT NULL CHECK (reserved_usd >= 0 AND reserved_usd < 1e12),
  usd REAL NOT NULL DEFAULT 0 CHECK (usd >= 0 AND usd < 1e12),
  input_tokens INTEGER NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
  cached_tokens INTEGER NOT NULL DEFAULT 0 CHECK (cached_tokens >= 0),
  written_tokens INTEGER NOT NULL DEFAULT 0 CHECK (written_tokens >= 0),
  output_tokens INTEGER NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
  thinking_tokens INTEGER CHECK (thinking_tokens >= 0),
  odd TEXT,
  http_status INTEGER,
  latency_s REAL,
  reply TEXT,
  error TEXT,
  batch INTEGER REFERENCES batches (id),
  UNIQUE (endpoint, key, attempt)
) STRICT;
CREATE INDEX IF NOT EXISTS open_calls ON calls (purpose, reserved_usd) WHERE state = 'started';
CREATE TABLE IF NOT EXISTS money (account TEXT PRIMARY KEY, spent REAL NOT NULL) STRICT;
INSERT OR IGNORE INTO money VALUES ('judge', 0.0), ('witness', 0.0);
CREATE TRIGGER IF NOT EXISTS spending AFTER UPDATE OF usd ON calls WHEN NEW.usd <> OLD.usd
  BEGIN UPDATE money SET spent = spent + (NEW.usd - OLD.usd)
    WHERE account = CASE NEW.purpose WHEN 'witness' THEN 'witness' ELSE 'judge' END; END;
CREATE TABLE IF NOT EXISTS batches (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  made_at REAL NOT NULL,
  file TEXT,
  remote TEXT,
  status TEXT NOT NULL DEFAULT 'made',
  answered INTEGER NOT NULL DEFAULT 0,
  ended_at REAL
) STRICT;
CREATE INDEX IF NOT EXISTS batched_calls ON calls (batch) WHERE batch IS NOT NULL;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


def opened(path: Path, read_only: bool) -> sqlite3.Connection:
    """The database, its layout made or checked. Raises sqlite3.Error and OSError."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(uri, uri=True, timeout=OPENING, check_same_thread=False)
    try:
        _prepare(db, read_only)
    except BaseException:
        db.close()
        raise
    return db


def committed(account: Account) -> str:
    """SQL of what an account has spent and reserved, in USD."""
    return (
        f"(SELECT spent FROM money WHERE account = '{account}') + (SELECT COALESCE(SUM(reserved_usd), 0.0) FROM calls"  # noqa: S608  both words are ours
        f" WHERE state = 'started' AND {OF_ACCOUNT[account]})"
    )


def insert_call(
    db: sqlite3.Connection,
    call: Call,
    reserved_usd: float,
    *,
    limit: float | None = None,
    batch: int | None = None,
    account: Account = "judge",
) -> int | None:
    """A row for the next attempt at a call; None where all that its account has committed would exceed ``limit``
    (USD). A witness's calls are all filed as such: its probes are paid from its budget, too."""
    columns = {
        "endpoint": call.endpoint,
        "key": call.key,
        "model": call.model,
        "purpose": call.purpose if account == "judge" else account,
        "interaction": call.interaction,
        "prompt_id": call.prompt_id,
        "pass": call.pass_number,
        "form": call.form,
        "options": canonical_json(dict(call.options)),
        "state": "started",
        "started_at": time.time(),
        "reserved_usd": reserved_usd,
        "batch": batch,
    }
    marks = ", ".join("?" * len(columns))
    fits = "" if limit is None else f" WHERE {committed(account)} + ? <= ?"
    names = ", ".join(columns)
    query = (
        f"INSERT INTO calls ({names}, attempt) SELECT {marks},"  # noqa: S608  names are those above, values are bound
        f" (SELECT COALESCE(MAX(attempt), 0) + 1 FROM calls WHERE endpoint = ? AND key = ?){fits}"
    )
    values = [*columns.values(), call.endpoint, call.key, *(() if limit is None else (reserved_usd, limit))]
    cursor = db.execute(query, values)
    return cursor.lastrowid if cursor.rowcount == 1 else None


def _use_wal(db: sqlite3.Connection) -> None:
    """SQLite does not wait for this lock as for others: of two that open a new file at once, one is refused."""
    end = time.monotonic() + OPENING
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
            time.sleep(0.01)
        else:
            return


def _prepare(db: sqlite3.Connection, read_only: bool) -> None:
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout == 0 and not read_only:
        _use_wal(db)
        # One transaction: a process killed here leaves no half of a layout behind, and two may do it at once.
        db.executescript(f"BEGIN IMMEDIATE; {TABLES} {TOTALS} PRAGMA user_version = {LAYOUT}; COMMIT;")
    elif layout != LAYOUT:
        raise sqlite3.DatabaseError(
            f"expected layout {LAYOUT}, got {layout}: another version of cyclealign wrote it, which keeps calls"
            " otherwise; use another ledger, or a new run"
        )
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA busy_timeout = {round(1000 * WRITING)}")
