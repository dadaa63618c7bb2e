"""Records of ours as JSON and back: a frozen dataclass says what a file holds, and its one reader checks every field.

A field that is None, and None by default, is not written; every other one is. What is read must have the fields of the
dataclass and no others, each of its type, in the format of this version: anything else is one line that names the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union

from cyclealign.files.jsonl import whole_lines, write_json, write_jsonl
from cyclealign.types import UserError

R = TypeVar("R")
F = TypeVar("F", bound="FileRecord")
Encoded = dict[str, object]
"""A record as JSON has it."""
Reader = Callable[[object], Any]
Fields = dict[str, Any]
"""Values read, each by its own reader, on their way into a constructor."""


class FileRecord(Protocol):
    """A dataclass that is a whole file; ``FORMAT`` goes up when its fields change, and stands in the file."""

    FORMAT: ClassVar[int]


def write_record(path: Path, record: FileRecord, *, durable: bool = True) -> None:
    """The record as a JSON object with its ``format``: whole or not at all."""
    write_json(path, {"format": record.FORMAT, **encode(record)}, durable=durable)


def read_record(kind: type[F], path: Path) -> F:
    """The record of a JSON file.

    Raises:
        UserError: no such file, no JSON, another format, or other fields than ``kind`` has; naming file and field.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = _object(value)
        _check_format(kind.FORMAT, found.pop("format", None))
        return decode(kind, found)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(str(path), error) from error


def write_records(path: Path, records: Iterable[object]) -> None:
    """A line a record: whole or not at all. The format of such files is the run's, in ``state.json``."""
    write_jsonl(path, map(encode, records))


def read_records(kind: type[R], path: Path, *, having: str = "") -> Iterator[R]:
    """The records of a JSONL file, none where it is missing; a last line that a kill cut short is left out.

    having: a field; lines without it are not read, which is quick in a long file.

    Raises:
        UserError: a line is no such record; naming file, line and field.
    """
    number = 0
    try:
        for number, line in enumerate(whole_lines(path), start=1):  # noqa: B007 (named in the error)
            if not having or f'"{having}"' in line:
                yield decode(kind, json.loads(line))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(f"{path}:{number}", error) from error


def encode(record: object) -> Encoded:
    """A dataclass as a JSON object, its fields in order."""
    assert dataclasses.is_dataclass(record)
    found: Encoded = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is not None or field.default is not None:
            found[field.name] = _plain(value)
    return found


def decode(kind: type[R], value: object) -> R:
    """The record of a JSON object. Raises ValueError naming the field, what was expected and what was found."""
    return typing.cast(R, _reader(typing.cast(Any, kind))(value))


def _unreadable(where: str, error: Exception) -> UserError:
    if isinstance(error, OSError):
        return UserError(f"{where}: cannot be read: {error.strerror}")
    if isinstance(error, _OtherFormat):
        return UserError(f"{where}: {error}")
    reason = f"not valid JSON: {error}" if isinstance(error, json.JSONDecodeError) else error
    return UserError(f"{where}: {reason}; not as cyclealign wrote it: put the file back from a copy")


class _OtherFormat(ValueError):
    """A record of another version."""


def _check_format(known: int, found: object) -> None:
    if found == known:
        return
    if isinstance(found, int) and found > known:
        raise _OtherFormat(f"record format {found} is newer than this cyclealign reads ({known}): upgrade cyclealign")
    raise _OtherFormat(
        f"record format {found} is not the one that this cyclealign reads ({known}): use the version that wrote it"
    )


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return encode(value)
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(below) for below in value]
    return value


def _object(value: object) -> Encoded:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {_said(value)}")
    return value


def _below(name: str, read: Reader, value: object) -> Any:
    try:
        return read(value)
    except ValueError as error:
        joint = ": " if str(error).startswith("expected") else "."
        raise ValueError(f"{name}{joint}{error}") from error


@functools.cache
def _reader(kind: Any) -> Reader:
    """How a value of an annotation is read; built once a kind."""
    if dataclasses.is_dataclass(kind):
        return _record_reader(kind)
    if typing.is_typeddict(kind):
        return _dict_reader(kind, kind.__required_keys__)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return lambda value: _one_of(inner, value)
    if origin in (Union, types.UnionType):
        some = [_reader(k) for k in inner if k is not type(None)]
        return _first_of(some) if len(some) == len(inner) else lambda value: None if value is None else some[0](value)
    if origin is tuple and inner[1:] == (...,):
        return _tuple_reader(_reader(inner[0]))
    if origin is Mapping and inner[0] is str:
        return _mapping_reader(_reader(inner[1]))
    return _SCALARS[kind]


def _first_of(kinds: Sequence[Reader]) -> Reader:
    """Of several kinds, the one that fits; what is wrong is said of the last."""
    *others, last = kinds

    def read(value: object) -> Any:
        for one in others:
            with contextlib.suppress(ValueError):
                return one(value)
        return last(value)

    return read


def _record_reader(kind: Any) -> Reader:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    required = frozenset(
        f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    read = _fields_reader({f.name: _reader(hints[f.name]) for f in fields}, required)
    return lambda value: kind(**read(value))


def _dict_reader(kind: Any, required: frozenset[str]) -> Reader:
    return _fields_reader({name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}, required)


def _fields_reader(readers: Mapping[str, Reader], required: frozenset[str]) -> Callable[[object], Fields]:
    def read(value: object) -> Fields:
        found = _object(value)
        for name in found:
            if name not in readers:
                raise ValueError(f"{name}: unknown field")
        for name in required:
            if name not in found:
                raise ValueError(f"{name}: missing")
        return {name: _below(name, readers[name], below) for name, below in found.items()}

    return read


def _tuple_reader(item: Reader) -> Reader:
    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {_said(value)}")
        return tuple(_below(str(n), item, below) for n, below in enumerate(value))

    return read


def _mapping_reader(item: Reader) -> Reader:
    return lambda value: {key: _below(key, item, below) for key, below in _object(value).items()}


def _one_of(options: tuple[object, ...], value: object) -> object:
    if value not in options:
        raise ValueError(f"expected one of {', '.join(map(str, options))}, got {_said(value)}")
    return value


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {_said(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"expected a number that a float can hold, got {_said(value)}") from error


def _exactly(kind: type, name: str) -> Reader:
    def read(value: object) -> object:
        if type(value) is not kind:
            raise ValueError(f"expected {name}, got {_said(value)}")
        return value

    return read


def _said(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


_SCALARS: dict[Any, Reader] = {
    str: _exactly(str, "text"),
    int: _exactly(int, "a whole number"),
    bool: _exactly(bool, "true or false"),
    float: _float,
    object: lambda value: value,
}
