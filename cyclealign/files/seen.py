"""Which names have come before, of more than memory should hold."""

from __future__ import annotations

import sqlite3
from tempfile import gettempdir
from weakref import finalize

from cyclealign.types import UserError


class Seen:
    """A set of names on disk, in a temporary database of SQLite's that ends with it; a few megabytes of it are held."""

    def __init__(self) -> None:
        self._names = sqlite3.connect("", isolation_level=None)
        finalize(self, self._names.close)
        self._names.execute("PRAGMA journal_mode = OFF")
        self._names.execute("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._names.execute("BEGIN")

    def add(self, name: str) -> bool:
        """Whether it is new. UserError where the disk is full."""
        try:
            return self._names.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount == 1
        except sqlite3.OperationalError as error:
            raise UserError(f"names that were read do not fit in {gettempdir()} (TMPDIR): {error}") from error

    def __contains__(self, name: str) -> bool:
        return self._names.execute("SELECT 1 FROM seen WHERE name = ?", (name,)).fetchone() is not None
