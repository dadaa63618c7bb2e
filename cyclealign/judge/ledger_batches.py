"""The ledger's account of batches: what is under way at a provider, by our name and by its ids."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cyclealign.judge.call import Call
from cyclealign.judge.ledger_tables import committed, insert_call
from cyclealign.judge.spill import Place

_COLUMNS = "id, name, endpoint, model, requests, made_at, file, remote, status, answered, ended_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """name: ours, which the provider keeps with it. file, remote: the provider's ids of its requests and of itself,
    None where it was not sent. status: the provider's word, ``made`` before there is one. answered: of its
    ``requests``. made_at, ended_at: seconds since the epoch."""

    id: int
    name: str
    endpoint: str
    model: str
    requests: int
    made_at: float
    file: str | None = None
    remote: str | None = None
    status: str = "made"
    answered: int = 0
    ended_at: float | None = None


class Open(NamedTuple):
    """A call of a batch without an outcome: its row, and what is reserved for it in USD."""

    row: int
    reserved_usd: float


class BatchTable:
    """The batches of a ledger; raises what the ledger's own methods raise."""

    def __init__(
        self,
        db: sqlite3.Connection,
        read: Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]],
        write: Callable[[Callable[[], object]], object],
        places: dict[int, Place],
    ) -> None:
        self._db = db
        self._read = read
        self._write = write
        self._places = places

    def under_way(self, endpoint: str | None = None, model: str | None = None) -> list[Batch]:
        """Those whose outcome is not on record yet, of one judge or of all, oldest first."""
        query = f"SELECT {_COLUMNS} FROM batches WHERE ended_at IS NULL ORDER BY id"  # noqa: S608  names are those above
        names = _COLUMNS.split(", ")
        found = [Batch(**dict(zip(names, row, strict=True))) for row in self._read(query, ())]
        return [b for b in found if endpoint is None or (b.endpoint, b.model) == (endpoint, model)]

    def open_calls(self, batch: Batch) -> list[Open]:
        """Its calls that have neither a reply nor a failure on record."""
        query = (
            "SELECT id, endpoint, key, reserved_usd FROM calls WHERE batch = ? AND state = 'started' AND reply IS NULL"
        )
        rows = self._read(query, (batch.id,))
        self._places.update({row: Place(row, endpoint, key) for row, endpoint, key, _ in rows})
        return [Open(row, reserved) for row, _, _, reserved in rows]

    def filed(self, batch: Batch, file: str) -> None:
        """Its requests are at the provider; it may be there itself from now on."""
        self._note("file = ?", file, batch)

    def sent(self, batch: Batch, remote: str) -> None:
        self._note("remote = ?", remote, batch)

    def progress(self, batch: Batch, status: str, answered: int) -> None:
        self._note("status = ?, answered = ?", status, answered, batch)

    def ended(self, batch: Batch, status: str, answered: int) -> None:
        """All of its calls have an outcome on record."""
        self._note("status = ?, answered = ?, ended_at = ?", status, answered, time.time(), batch)

    def _note(self, what: str, *values: object) -> None:
        *bound, batch = values
        assert isinstance(batch, Batch)
        query = f"UPDATE batches SET {what} WHERE id = ?"  # noqa: S608  names are those above, values are bound
        self._write(lambda: self._db.execute(query, (*bound, batch.id)))


def insert_batch(
    db: sqlite3.Connection, calls: Sequence[Call], reserved_usd: Sequence[float], limit: float | None
) -> tuple[Batch, list[int]] | None:
    """A batch of as many of the first calls as fit into ``limit`` (USD), and their rows, in a transaction that the
    caller ends; None: not even one fits."""
    db.execute("BEGIN IMMEDIATE")  # what is committed must not grow between its reading and our rows
    (taken,) = db.execute(f"SELECT {committed('judge')}").fetchone()  # a witness sends no batches
    fitting = 0
    for reserved in reserved_usd:
        taken += reserved
        if limit is not None and taken > limit:
            break
        fitting += 1
    if fitting == 0:
        return None
    first = calls[0]
    name, made_at = f"cyclealign-{secrets.token_hex(8)}", time.time()
    values = (name, first.endpoint, first.model, fitting, made_at)
    made = db.execute("INSERT INTO batches (name, endpoint, model, requests, made_at) VALUES (?, ?, ?, ?, ?)", values)
    assert made.lastrowid is not None
    batch = Batch(
        id=made.lastrowid,
        name=name,
        endpoint=first.endpoint,
        model=first.model,
        requests=fitting,
        made_at=made_at,
    )
    rows = [
        insert_call(db, call, usd, batch=batch.id) for call, usd in zip(calls[:fitting], reserved_usd, strict=False)
    ]
    return batch, [row for row in rows if row is not None]
