"""Writing a file whole or not at all. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Write aside, flush to disk, rename: a reader sees the old file or the new one, never half of one.

    ``durable=False`` leaves the flush to the system: the file survives a killed process, not a power cut.
    What cannot be written leaves the old file, and nothing aside. Line ends are written as they stand in ``text``, on
    every system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
