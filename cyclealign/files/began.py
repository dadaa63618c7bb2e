"""The marker of a directory that is ours. A directory without one is somebody else's: nothing in it is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from cyclealign.files.locks import LOCK
from cyclealign.files.records import read_record
from cyclealign.types import UserError

MARKER = "began.json"
PIECE = 2**20  # bytes of a file that are read at once
What = Literal["run", "distillation", "export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A file as it was written: its number of lines, and the sha256 of its bytes."""

    count: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """``began.json``, the first file in a directory of ours.

    ``config``: the resolved config as YAML. ``files``: what must not change, by path in the directory. ``wrote``: the
    directories that an export made. ``processes``: of the launch.
    """

    FORMAT: ClassVar[int] = 1

    what: What
    config: str | None = None
    files: Mapping[str, Lines] = field(default_factory=dict)
    wrote: tuple[str, ...] = ()
    processes: int = 1


def lines_of(lines: Iterable[str]) -> Lines:
    """Of a file that these lines will be, each with its end."""
    digest, count = hashlib.sha256(), 0
    for line in lines:
        digest.update(line.encode())
        count += 1
    return Lines(count=count, sha256=digest.hexdigest())


def began(directory: Path, what: What) -> Began | None:
    """The marker of a directory; None where the directory is empty or not there, and so free.

    Raises:
        UserError: something is in it that is not ours, or ours of another kind.
    """
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a directory, got a file; choose another name")
    if (directory / MARKER).exists():
        found = read_record(Began, directory / MARKER)
        if found.what != what:
            raise UserError(f"{directory}: holds {_a(found.what)}, expected {_a(what)}; choose another name")
        return found
    foreign = sorted(p.name for p in directory.iterdir() if p.name != LOCK and not p.name.startswith(f".{MARKER}."))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{directory}: is not empty ({foreign[0]}{more}) and no {what} of cyclealign began in it (no {MARKER});"
            " nothing in it was touched: choose another name or directory"
        )
    return None


def _a(what: What) -> str:
    return f"{'an' if what == 'export' else 'a'} {what}"


def check_unchanged(directory: Path, found: Began) -> None:
    """UserError where a file of ``found.files`` is not what the work began with."""
    for name, lines in found.files.items():
        path = directory / name
        try:
            sha256, count = _summed(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}; put it back from a copy") from error
        if sha256 != lines.sha256:
            raise UserError(
                f"{path}: is not what the {found.what} began with (expected {lines.count} lines, sha256"
                f" {lines.sha256[:12]}…, got {count} lines); put it back from a copy"
            )


def _summed(path: Path) -> tuple[str, int]:
    """sha256 and number of lines, read in pieces: a set of prompts may be larger than memory."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            count += piece.count(b"\n")
    return digest.hexdigest(), count
