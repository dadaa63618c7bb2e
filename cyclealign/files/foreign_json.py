"""JSON of others, the one reader of it: a value, or the objects of a file that has one a line or one array of them.

Stricter than Python's reader where a figure could go wrong unseen: NaN and Infinity are no JSON, a key stands once,
numbers have no more digits than a float can hold, nesting ends. A lone surrogate, which JSON can write but nobody can
hash or send, becomes U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from cyclealign.files.foreign import MAX_RECORD, Unreadable, numbered, text_chunks
from cyclealign.types import UserError

Row = tuple[str, dict[str, Any]]
MAX_DIGITS = 300
MAX_DEPTH = 64
_SPACE = re.compile(r"\s*")


class _Refused(Exception):
    """Valid for Python's reader, not for this one."""


def json_rows(path: Path) -> Iterator[Row]:
    """(place, object) of JSONL, or of a file that is one array of objects; blank lines are skipped.

    Raises:
        UserError: names file and line, of an array the item too.
    """
    chunks = text_chunks(path)
    try:
        head = next(chunks, "")
    except Unreadable as error:
        raise UserError(f"{path}{'' if error.at_all else ':1'}: {error}") from error
    whole = chain([head], chunks)
    if head.lstrip().lstrip("\ufeff").startswith("["):
        yield from _items(path, whole)
        return
    for place, line in numbered(path, whole):
        if line.strip():
            yield place, _object(parse_json(line, place, "expected one JSON object a line"), place)


def parse_json(text: str, place: str, expected: str = "") -> Any:
    """One JSON value. UserError naming the place, and what was ``expected``."""
    try:
        return _checked(_DECODER.decode(text), text)
    except (json.JSONDecodeError, RecursionError, _Refused) as error:
        more = f" at column {error.colno}; {expected}" if isinstance(error, json.JSONDecodeError) and expected else ""
        raise UserError(f"{place}: not JSON: {_reason(error)}{more}") from error


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected one JSON object a line, got {type(value).__name__}")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"nested more than {MAX_DEPTH} deep"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


# Values -------------------------------------------------------------------------------------------------------


def _checked(value: Any, text: str) -> Any:
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _Refused(f"nested more than {MAX_DEPTH} deep")
    if "\\u" in text and "\\ud" in text.lower():
        whole = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
        return json.loads(whole.decode("utf-16-le", "replace"))
    return value


def _depth(value: Any) -> int:
    """How many lists and objects stand in each other at the deepest place."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, list | dict)]:
        depth += 1
        level = [below for v in level for below in (v.values() if isinstance(v, dict) else v)]
    return depth


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"the key {twice[:40]!r} stands twice in one object")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused(f"a number of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _real(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise _Refused(f"a number of {len(digits)} digits; at most {MAX_DIGITS} are read")
    if not math.isfinite(value := float(digits)):
        raise _Refused(f"the number {digits[:40]} is too large")
    return value


def _no_number(name: str) -> float:
    raise _Refused(f"{name} is no JSON number; leave the key out or write null")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole, parse_float=_real, parse_constant=_no_number)


# One array ----------------------------------------------------------------------------------------------------


def _items(path: Path, chunks: Iterable[str]) -> Iterator[Row]:
    window = _Window(path, iter(chunks))
    window.take("[")
    while window.mark() != "]" or window.number:
        place, value = window.value()
        yield place, _object(value, place)
        if window.mark() != ",":
            break
        window.take(",")
    window.take("]")
    if window.mark():
        raise UserError(f"{window.place}: more text after the end of the array; expected one array, or JSONL")


class _Window:
    """As much of an array's text as its next item needs."""

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self._path, self._chunks = path, chunks
        self._text, self._at, self._line = "", 0, 1
        self.number = 0

    @property
    def place(self) -> str:
        return f"{self._path}:{self._line}"

    def mark(self) -> str:
        """The next character that is no space, which stays; empty at the end."""
        while True:
            end = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            self._move(end)
            if self._text[end : end + 1] == "\ufeff":
                self._at += 1
            elif end < len(self._text) or not self._more(1):
                return self._text[self._at : self._at + 1]

    def take(self, mark: str) -> None:
        if (found := self.mark()) != mark:
            got = repr(found) if found else "the end of the file"
            raise UserError(f"{self.place}: not JSON: expected {mark!r} after item {self.number}, got {got}")
        self._at += 1

    def value(self) -> tuple[str, Any]:
        self.mark()
        self.number += 1
        place = f"{self.place} (item {self.number})"
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                value = _checked(value, self._text[self._at : end])
            except (json.JSONDecodeError, RecursionError, _Refused) as error:
                if isinstance(error, json.JSONDecodeError) and self._may_go_on(error):
                    continue
                raise UserError(f"{place}: not JSON: {_reason(error)}") from error
            self._move(end)
            return place, value

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether the item only was not there to its end, and more of it is now."""
        cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 2 * MAX_DIGITS
        held = len(self._text) - self._at
        if held > MAX_RECORD:
            raise UserError(f"{self.place}: an item of more than {MAX_RECORD // 2**20} MiB")
        return cut and self._more(held)  # twice as much each time: an item is read a few times, not many

    def _more(self, size: int) -> bool:
        found = [self._text[self._at :]]
        came = 0
        try:
            for chunk in self._chunks:
                found.append(chunk)
                came += len(chunk)
                if came >= size:
                    break
        except Unreadable as error:
            raise UserError(f"{self.place}: {error}") from error
        self._text, self._at = "".join(found), 0
        return came > 0

    def _move(self, end: int) -> None:
        self._line += self._text.count("\n", self._at, end)
        self._at = end
