"""What lies beside a score file that we wrote: who scored, how it was calibrated, what the scores are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cyclealign.files.records import read_record

Gives = Literal["order", "magnitude", "levels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a score file that we wrote says of itself: who gave the scores, calibrated how, and what they are."""

    FORMAT: ClassVar[int] = 1

    gives: Gives
    teachers: tuple[object, ...]
    queries_left_out: int


def beside(path: Path) -> Path:
    """Where a score file's provenance lies."""
    return path.with_name(f"{path.name}.meta.json")


def recorded(path: Path) -> Sidecar | None:
    """What an earlier run of ours said about a score file."""
    file = beside(path)
    return read_record(Sidecar, file) if file.exists() else None


def recorded_gives(path: Path) -> Gives | None:
    """What the scores of a file are, where an earlier run of ours wrote it."""
    found = recorded(path)
    return None if found is None else found.gives
