"""What every score file is made of: a query with its documents, and scores for them where it has any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclealign.files.foreign import lines
from cyclealign.files.foreign_json import parse_json
from cyclealign.files.trec import finite
from cyclealign.types import Message, UserError, sha256_hex


@dataclass(frozen=True, slots=True)
class Item:
    """A query or a document. ``text`` is None where the file names ids only."""

    id: str
    text: str | None = None

    @staticmethod
    def of_text(text: str) -> Item:
        """A text whose file has no ids: the first 32 hex digits of its sha256 are its id."""
        return Item(sha256_hex(text)[:32], text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreList:
    """One query with its documents in the file's order.

    scores: one for each document, higher is better. positives: the first so many documents are known to be
    relevant. place: ``file:line``, for errors. chat: the query's messages, where the file has them; its text is then
    theirs. names: the documents' ids in their own set, where a verdict of it names them so.
    """

    query: Item
    documents: tuple[Item, ...]
    scores: tuple[float, ...] | None = None
    positives: int = 0
    place: str = ""
    chat: tuple[Message, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.scores is not None and len(self.scores) != len(self.documents):
            raise UserError(
                f"{self.place}: expected a score for each of {len(self.documents)} documents, got {len(self.scores)}"
            )


def number(value: Any, place: str) -> float:
    """A finite number; UserError naming the place."""
    found = finite(value)
    if found is None:
        raise UserError(f"{place}: expected a finite score, got {str(value)[:40]!r}")
    return found


def identity(value: str, place: str) -> str:
    """An id of a tab-separated file; UserError where it can only be a text, which a tab has cut or shifted here."""
    if not value.strip() or any(c.isspace() for c in value):
        raise UserError(f"{place}: expected an id without spaces, got {value[:40]!r}; is there a tab inside a text?")
    return value


def text(value: Any, place: str, name: str) -> str:
    """Text; UserError naming the place."""
    if not isinstance(value, str) or not value:
        raise UserError(f"{place}: {name}: expected text, got {value!r}")
    return value


def string_list(value: Any, place: str, name: str) -> list[Any]:
    """A list, also one that is encoded as a string (as some hub tables have it)."""
    if isinstance(value, str):
        value = parse_json(value, f"{place}: {name}", f"expected a list, got the text {value[:40]!r}")
    if not isinstance(value, list):
        raise UserError(f"{place}: {name}: expected a list, got {type(value).__name__}")
    return value


def tsv_rows(path: Path, columns: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of a tab-separated file without header or quoting; a line has one of these numbers of columns."""
    for place, line in lines(path, texts=True):
        fields = line.split("\t")
        if len(fields) not in columns:
            expected = " or ".join(map(str, columns))
            raise UserError(f"{place}: expected {expected} tab-separated columns, got {len(fields)}")
        yield place, fields


def one_line(value: str) -> str:
    """Text for a tab-separated field: tabs and line ends become spaces, as the format asks."""
    return " ".join(value.split())
