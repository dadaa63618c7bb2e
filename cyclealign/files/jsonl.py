"""JSON and JSONL: written whole, or appended record by record; a damaged last line is dropped."""

from __future__ import annotations

import errno
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from cyclealign.files.atomic import write_atomic
from cyclealign.files.lazy import Lazy
from cyclealign.types import RunStopped, UserError


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: Path, *, remedy: str = "put it back from a copy") -> dict[str, Any]:
    """The object of a file, of ours or beside a model. UserError, with what to do about it, where it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(found).__name__}; {remedy}")
    return found


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    write_atomic(path, (json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def read_jsonl(path: Path) -> Iterator[Any]:
    """Values of a file, none when it is missing; see ``whole_lines``. UserError where a line is no JSON."""
    number = 0
    try:
        for number, line in enumerate(whole_lines(path), start=1):  # noqa: B007 (named in the error)
            yield json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}:{number}: not as cyclealign wrote it ({error}); put the file back from a copy"
        ) from error


def whole_lines(path: Path) -> Iterator[str]:
    """Lines of a file, none when it is missing. A last line that is cut off or no JSON is what a kill, a full disk or a
    power cut left: skipped."""
    if not path.exists():
        return
    last = None
    with path.open("rb") as file:
        for line in file:
            if last is not None:
                yield last.decode()
            last = line
    if last is not None and _is_whole(last):
        yield last.decode()


class Lines(Lazy[Any]):
    """The values of a finished file by number; a place in the file is all that is held of each. UserError as
    ``read_jsonl``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, index: int) -> Any:
        start = self._starts[index]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                return json.loads(file.readline())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self._path}:{index + 1}: not as cyclealign wrote it ({error}); put the file back from a copy"
            ) from error


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")


class Appender:
    """Appends records to a JSONL file, each whole or not at all, after cutting off a damaged last line.

    Raises:
        RunStopped: a record cannot be written; those before it are on disk.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _cut_damage(path)
        self._path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def add(self, record: Any) -> None:
        left = memoryview((json.dumps(record, ensure_ascii=False) + "\n").encode())
        end = self._file.seek(0, os.SEEK_END)
        try:
            while left:
                # A nearly full disk takes a part, and says so only by the count.
                left = left[self._file.write(left) or _no_room() :]
        except OSError as error:
            self._file.truncate(end)
            raise RunStopped(f"{self._path}: cannot be written: {error.strerror}; what is on record stays") from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_room() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut_damage(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(whole - 1, 0)) + 1
    if whole and not _is_whole(content[last:whole]):
        whole = last
    if whole < len(content):
        os.truncate(path, whole)
