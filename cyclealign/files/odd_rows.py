"""Rows that cannot be used: skipped and counted aloud while they are few, else one error that names the first ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cyclealign.types import UserError

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger(__name__)
# Odd rows that are skipped: one in ten; of a small file one in three, three at most.
ODD_SHARE, FEW_SHARE, FEW = 1 / 10, 1 / 3, 3
UNUSABLE_SHARE = 1 / 2
NAMED = 3  # odd rows that an error names
SURE = 1_000  # rows from which a share is not waited for to the end of the file


class OddRow(UserError):
    """A row that does not hold what its columns promise."""


class UnusableRow(Exception):
    """A row as its format wants it, of which there is nothing to use: which kind of row, after "rows that"."""


class Skipped:
    """Counts the rows of one source, and what was skipped of them."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._rows = self._unusable = self._odd = 0
        self._odd_named: list[tuple[str, str]] = []  # the first few
        self._kinds: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def usable(self, rows: Iterable[tuple[str, R]], read: Callable[[R, str], T]) -> Iterator[tuple[str, T]]:
        """(place, what ``read`` makes of a row) of the rows that can be used, as they come.

        Raises:
            UserError: the rows so far show that the file is not what it is taken for.
        """
        for place, row in rows:
            self._rows += 1
            try:
                found = read(row, place)
            except OddRow as error:
                self._skip_odd(error, place)
            except UnusableRow as kind:
                self._unusable += 1
                self.repeated(str(kind), place)
            else:
                yield place, found

    def _skip_odd(self, error: OddRow, place: str) -> None:
        self._odd += 1
        if self._odd <= NAMED:
            self._odd_named.append((str(error), place))
        if self._rows >= SURE:
            self._check()

    def repeated(self, kind: str, place: str) -> None:
        """A row that is left out without being wrong: no share is too large."""
        self._kinds[kind] += 1
        self._first.setdefault(kind, place)

    def say(self, *, found: int) -> None:
        """Warnings of what was skipped, after the last row; UserError where that is too much. ``found``: used rows."""
        self._check()
        for kind, count in self._kinds.items():
            log.warning("%s: skipped %d rows that %s (first: %s)", self._source, count, kind, self._first[kind])
        if self._odd:
            first, _ = self._odd_named[0]
            log.warning("%s: skipped %d odd rows of %d: %s", self._source, self._odd, self._rows, first)
        if found and self._unusable > UNUSABLE_SHARE * self._rows:
            kind, count = self._kinds.most_common(1)[0]
            raise UserError(
                f"{self._first[kind]}: {self._unusable} of {self._rows} rows cannot be used, {count} because they"
                f" {kind}; at most one in two is skipped"
            )

    @property
    def why(self) -> str:
        """Of the first rows that were left out, to be put behind an error."""
        return "".join(f"; {place}: such rows {kind}" for kind, place in self._first.items())

    def _check(self) -> None:
        allowed = max(ODD_SHARE * self._rows, min(FEW, FEW_SHARE * self._rows))
        if self._odd > allowed:
            (first, _), *more = self._odd_named
            others = "".join(f", also {place}" for _, place in more)
            share = f" ({self._odd} of {self._rows} rows are odd{others})" if self._rows > 1 else ""
            raise UserError(f"{first}{share}")
