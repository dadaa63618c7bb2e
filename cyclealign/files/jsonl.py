"""JSON and JSONL: written whole, or appended one record a write; a torn last line is dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from cyclealign.files.atomic import write_atomic


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def read_jsonl(path: Path) -> Iterator[Any]:
    """Values of a file, none when it is missing; see ``whole_lines``."""
    return map(json.loads, whole_lines(path))


def whole_lines(path: Path) -> Iterator[str]:
    """Lines of a file, none when it is missing. A last line without its newline is what a kill left: skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.endswith("\n"):
                yield line


class Appender:
    """Appends records to a JSONL file, each with one write, after cutting off a torn last line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            whole = path.read_bytes().rfind(b"\n") + 1
            os.truncate(path, whole)
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def add(self, record: Any) -> None:
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
