"""What a ledger could not write down yet: in memory, and in a file beside it, which the next opening reads.

The file outlives the process, so it is read as any foreign file: by name and type, and onto the very call it is about.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

from cyclealign.files.records import decode, encode

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A row of the ledger, and the call that stands in it."""

    row: int
    endpoint: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of an attempt, by the names of the ledger's columns; None: the column stays as it is."""

    state: Literal["done", "failed"] | None = None
    reply: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    written_tokens: int | None = None
    thinking_tokens: int | None = None
    usd: float | None = None
    http_status: int | None = None
    latency_s: float | None = None
    odd: str | None = None
    error: str | None = None

    def columns(self) -> dict[str, str | int | float]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def whole(self) -> bool:
        """Whether it has what its state needs: a reply or an error, and what it cost."""
        if self.state is None:
            return self.reply is not None
        said = self.reply if self.state == "done" else self.error
        return said is not None and self.usd is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spilled:
    """A line of the file."""

    row: int
    endpoint: str
    key: str
    outcome: Outcome


class Spill:
    """The outcomes that are not in the ledger yet, by place. ``kept``: whether the file has all of them."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(f"{ledger.name}.spill.jsonl")
        self.pending: dict[Place, Outcome] = {}
        self.kept = True
        self._damaged = 0  # lines
        self._misplaced = 0  # outcomes of other calls, or of attempts that have another one

    def __bool__(self) -> bool:
        """Whether there is something to write, or to say of the file."""
        return bool(self.pending or self._damaged)

    def read(self) -> None:
        """Take what an earlier process left."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n"):
            if line:
                try:
                    found = decode(Spilled, json.loads(line))
                except (ValueError, RecursionError):
                    self._damaged += 1
                else:
                    self._take(Place(found.row, found.endpoint, found.key), found.outcome)

    def add(self, place: Place, outcome: Outcome) -> None:
        self._take(place, outcome)
        line = json.dumps(encode(Spilled(**place._asdict(), outcome=outcome)))
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError:
            self.kept = False

    def apply(self, db: sqlite3.Connection) -> None:
        """Write all of it, in a transaction of the caller's; ``settled`` is to follow its commit."""
        self._misplaced = sum(not _applied(db, place, outcome) for place, outcome in self.pending.items())

    def settled(self) -> None:
        """All that can be is in the ledger: the file goes. Where something could not be, it is kept under another name,
        and that is said."""
        self.pending.clear()
        self.kept = True
        unused = [(self._damaged, "damaged"), (self._misplaced, "not of a call of this ledger that was in flight")]
        self._damaged = self._misplaced = 0
        with suppress(OSError):
            if any(n for n, _ in unused):
                aside = next(p for n in count(1) if not (p := self.path.with_name(f"{self.path.name}.{n}")).exists())
                self.path.rename(aside)
                said = ", ".join(f"{n} {why}" for n, why in unused if n)
                log.warning("%s: records that cannot be used: %s; the file is kept as %s", self.path, said, aside.name)
            else:
                self.path.unlink(missing_ok=True)

    def _take(self, place: Place, outcome: Outcome) -> None:
        before = self.pending.get(place)
        both = outcome.columns() if before is None else before.columns() | outcome.columns()
        self.pending[place] = decode(Outcome, both)


def update(db: sqlite3.Connection, row: int, outcome: Outcome) -> None:
    """Write an outcome into a row."""
    columns = outcome.columns()
    query = f"UPDATE calls SET {_assigned(columns)} WHERE id = ?"  # noqa: S608  names are fields of Outcome, values are bound
    db.execute(query, (*columns.values(), row))


def _applied(db: sqlite3.Connection, place: Place, outcome: Outcome) -> bool:
    """Write an outcome into its row; False where that row is another call's or has another outcome, or the table takes
    no such values."""
    columns = outcome.columns()
    here = "id = ? AND endpoint = ? AND key = ?"
    try:
        if outcome.whole:
            query = f"UPDATE calls SET {_assigned(columns)} WHERE {here} AND state = 'started'"  # noqa: S608  names are fields of Outcome, values are bound
            if db.execute(query, (*columns.values(), *place)).rowcount == 1:
                return True
        same = " AND ".join(f"{name} IS ?" for name in columns)  # of a file that was written before
        query = f"SELECT 1 FROM calls WHERE {here}{' AND ' * bool(same)}{same}"  # noqa: S608  names are fields of Outcome, values are bound
        return outcome.whole and db.execute(query, (*place, *columns.values())).fetchone() is not None
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError):
        return False


def _assigned(columns: dict[str, str | int | float]) -> str:
    return ", ".join(f"{name} = ?" for name in columns)
