"""Every paid call, on disk before it is sent and again before its reply is read.

One SQLite file a run. The identity of a call is its endpoint, its model and what is asked (``Call.key``), together with
the attempt's number; the wire form stands beside it. A completed reply is used again at no cost, a failure is recorded
and never used as a verdict. Messages, keys and headers are not stored.

WAL with ``synchronous=NORMAL``: a commit survives the death of the process at any moment (the operating system
holds it); a power cut may lose the last seconds.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from cyclealign.judge.call import Account, Answered, Call, Purpose, Recorded, Spend
from cyclealign.judge.ledger_batches import Batch, BatchTable, insert_batch
from cyclealign.judge.ledger_tables import WRITING, insert_call, opened
from cyclealign.judge.ledger_totals import call_query, spend_of, totals_query
from cyclealign.judge.limits import InFlight
from cyclealign.judge.spill import Outcome, Place, Spill, update
from cyclealign.types import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)


class LedgerUnavailable(UserError):
    """The file cannot be read or written now: another program holds it, the disk is full, it is damaged."""


class Ledger:
    """The ledger file; several processes and threads may write to it, any number may read.

    A reply that cannot be written down at once is kept in memory and in a file beside the ledger, and is written with
    the next call, or when the ledger is opened again. ``in_flight``: what judges of one budget wait for. ``account``:
    what is started is filed and limited there; a run's witness has its own.

    Raises UserError where the file is no ledger, or (``read_only``) is not there; LedgerUnavailable from all methods
    but ``received``, ``done`` and ``failed``.
    """

    def __init__(self, path: Path, *, read_only: bool = False, account: Account = "judge") -> None:
        self.path = path
        self.in_flight = InFlight()
        self._account: Account = account
        self._lock = threading.Lock()
        self._spill = Spill(path)
        self._places: dict[int, Place] = {}  # of rows that this process is to settle
        self._again_at = 0.0  # no write is tried before: each would wait for the other program
        if read_only and not path.exists():
            raise UserError(f"ledger {path}: there is no such file; nothing was paid for yet, or it is elsewhere")
        try:
            self._db = opened(path, read_only)
            if not read_only:
                self._spill.read()
                self._catch_up()
            self.batches = BatchTable(self._db, self._all, self._write, self._places)
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"ledger {path}: cannot be opened as a ledger: {error}") from error

    def lookup(self, call: Call) -> Recorded | None:
        """The raw reply to a call of this identity that was recorded before, at whichever attempt."""
        row = self._one(
            "SELECT id, reply, form <> 'text', state = 'done', batch IS NOT NULL FROM calls"
            " WHERE endpoint = ? AND key = ? AND (state = 'done' OR (state = 'started' AND reply IS NOT NULL))"
            " ORDER BY attempt LIMIT 1",
            (call.endpoint, call.key),
        )
        if row is None:
            return None
        found = Recorded(row[0], str(row[1]), *map(bool, row[2:]))
        if not found.settled:
            self._places[found.row] = Place(found.row, call.endpoint, call.key)
        return found

    def history(self, call: Call) -> Spend:
        """What all attempts at a call of this identity have taken so far."""
        row = self._one(call_query(), (call.endpoint, call.key))
        assert row is not None
        return spend_of(row)

    def start(self, call: Call, *, reserved_usd: float, limit: float | None = None) -> int | None:
        """Record an attempt that is about to be sent, and reserve its worst case; returns its row.

        None, and nothing recorded, where all that was spent and is reserved in its account, by whichever process, would
        exceed ``limit`` (USD): looked up and written in one transaction.
        """
        row = self._write(lambda: insert_call(self._db, call, reserved_usd, limit=limit, account=self._account))
        if row is not None:
            self._places[row] = Place(row, call.endpoint, call.key)
        return row

    def start_batch(
        self, calls: Sequence[Call], *, reserved_usd: Sequence[float], limit: float | None = None
    ) -> tuple[Batch, list[int]] | None:
        """Record a batch that is about to be sent, as ``start`` does for one call: as many of the first calls as fit
        into ``limit``, and their rows; None, and nothing recorded, where not even one does."""

        def insert() -> tuple[Batch, list[int]] | None:
            return insert_batch(self._db, calls, reserved_usd, limit)

        made = self._write(insert)
        if made is not None:
            for call, row in zip(calls, made[1], strict=False):
                self._places[row] = Place(row, call.endpoint, call.key)
        return made

    def received(self, row: int, *, reply: str, http_status: int) -> None:
        """Record the raw reply of an attempt before anything is made of it."""
        self._settle(row, Outcome(reply=reply, http_status=http_status))

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
        cached_tokens: int = 0,
        written_tokens: int = 0,
        thinking_tokens: int | None = None,
        odd: str | None = None,
    ) -> None:
        """Record the raw reply of an attempt, and what it cost.

        cached_tokens, written_tokens: of the input. thinking_tokens: of the output; None: not said. odd: what is wrong
        with the server's own account.
        """
        outcome = Outcome(
            state="done",
            reply=reply,
            input_tokens=input_tokens,
            cached_tokens=cached_tokens,
            written_tokens=written_tokens,
            output_tokens=output_tokens,
            thinking_tokens=thinking_tokens,
            usd=usd,
            http_status=http_status,
            latency_s=latency_s,
            odd=odd,
        )
        self._settle(row, outcome)

    def failed(
        self,
        row: int,
        *,
        error: str,
        usd: float,
        http_status: int | None,
        latency_s: float,
        reply: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """Record that an attempt gave no reply that could be used. ``usd``: what must be taken as billed for it."""
        outcome = Outcome(
            state="failed",
            error=error,
            usd=usd,
            http_status=http_status,
            latency_s=latency_s,
            reply=reply,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )
        self._settle(row, outcome)

    def grow(self, endpoint: str, model: str, *, times: float, plus: float) -> None:
        """All that was booked or reserved at a worst case grows: it has turned out that calls may cost more. USD."""

        def update() -> None:
            grown = (times, plus, endpoint, model)
            self._db.execute(
                "UPDATE calls SET reserved_usd = reserved_usd * ? + ? WHERE state = 'started'"
                " AND endpoint = ? AND model = ?",
                grown,
            )
            # What was guessed, not billed.
            self._db.execute(
                "UPDATE calls SET usd = usd * ? + ? WHERE usd > 0"
                " AND output_tokens = 0 AND (state = 'failed' OR odd IS NOT NULL) AND endpoint = ? AND model = ?",
                grown,
            )

        self._write(update)

    def fact(self, name: str) -> str | None:
        """What was found out about an endpoint before (its capabilities), so that it is paid for once."""
        row = self._one("SELECT value FROM facts WHERE name = ?", (name,))
        return None if row is None else str(row[0])

    def facts(self, beginning: str) -> dict[str, str]:
        """All facts whose names begin so, by the rest of the name, in the order in which they were found."""
        rows = self._all(
            "SELECT name, value FROM facts WHERE substr(name, 1, ?) = ? ORDER BY rowid", (len(beginning), beginning)
        )
        return {str(name)[len(beginning) :]: str(value) for name, value in rows}

    def set_fact(self, name: str, value: str) -> None:
        self._write(lambda: self._db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value)))

    def spend(self, account: Account | None = None) -> Spend:
        """Totals over all calls, or those of an account."""
        row = self._one(totals_query(account=account), ())
        assert row is not None
        return spend_of(row)

    def spend_by(self, group: Literal["purpose", "interaction"]) -> dict[str | int | None, Spend]:
        """Totals by purpose, or by interaction (None: probes)."""
        return {row[-1]: spend_of(row[:-1]) for row in self._all(totals_query((group,)))}

    def spend_by_stage(self) -> dict[tuple[int | None, str], Spend]:
        """Totals by interaction (None: probes) and purpose, in that order."""
        rows = self._all(totals_query(("interaction", "purpose")))
        return {(row[-2], row[-1]): spend_of(row[:-2]) for row in rows}

    def spend_by_judge(self) -> dict[tuple[str, str], Spend]:
        """Totals by endpoint and model, in the order in which they were first asked; without the witness's."""
        rows = self._all(totals_query(("endpoint", "model"), account="judge", order="MIN(id)"))
        return {(row[-2], row[-1]): spend_of(row[:-2]) for row in rows}

    def answered(self, purpose: Purpose) -> list[Answered]:
        """All calls of a purpose that have a reply, in the order in which they were sent."""
        rows = self._all(
            "SELECT prompt_id, pass, form, started_at, COALESCE(latency_s, 0.0), thinking_tokens FROM calls"
            " WHERE purpose = ? AND state = 'done' ORDER BY started_at",
            (purpose,),
        )
        return [Answered(*row) for row in rows]

    def close(self) -> None:
        with self._lock:
            self._again_at = 0.0
            self._catch_up()
            if self._spill.pending and not self._spill.kept:
                log.warning("ledger %s: %d replies could not be written", self.path, len(self._spill.pending))
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, row: int, outcome: Outcome) -> None:
        with self._lock:
            self._catch_up()
            if not self._spill.pending:
                try:
                    with self._db:
                        update(self._db, row, outcome)
                except sqlite3.OperationalError:
                    self._again_at = time.monotonic() + WRITING
                else:
                    self._forget(row, outcome)
                    return
            self._spill.add(self._places[row], outcome)
            self._forget(row, outcome)

    def _forget(self, row: int, outcome: Outcome) -> None:
        if outcome.state is not None:
            self._places.pop(row, None)

    def _catch_up(self) -> None:
        """Write what is pending, if it can be written now."""
        if not self._spill or time.monotonic() < self._again_at:
            return
        try:
            with self._db:
                self._spill.apply(self._db)
        except sqlite3.OperationalError:
            self._again_at = time.monotonic() + WRITING
        else:
            self._spill.settled()

    def _write(self, work: Callable[[], T]) -> T:
        with self._lock:
            self._catch_up()
            try:
                with self._db:
                    return work()
            except sqlite3.Error as error:
                raise self._unavailable(error) from error

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        rows = self._all(query, values)
        return rows[0] if rows else None

    def _all(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> LedgerUnavailable:
        kept = f"; what was answered is kept in {self._spill.path}" if self._spill.pending and self._spill.kept else ""
        return LedgerUnavailable(f"ledger {self.path}: {error}{kept}; start again when it can be written")
