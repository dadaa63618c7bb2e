"""Writing a file whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path


def write_atomic(path: Path, text: str | Iterable[str], *, durable: bool = True) -> None:
    """Write aside, flush to disk, rename, flush the directory: a reader sees the old file or the new one, never half of
    one.

    ``durable=False`` leaves the flush to the system: the file survives a killed process, not a power cut.
    ``text``: whole, or in pieces, of which one is held. What cannot be written leaves the old file, and nothing aside.
    Line ends are written as they stand in it, on every system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            file.writelines((text,) if isinstance(text, str) else text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
        if durable:
            flush(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def flush_tree(folder: Path) -> None:
    """Flush a directory to disk: its files, then the directories that name them, and last the one that it stands in.

    A record that names what stands in it may be written afterwards: a power cut leaves no record without it.
    """
    for path, _, files in os.walk(folder, topdown=False):
        for name in sorted(files):
            flush(Path(path, name))
        flush(Path(path))
    flush(folder.parent)


def flush(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems have no flush of names
            raise
    finally:
        os.close(handle)
