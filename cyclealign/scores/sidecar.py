"""What lies beside a score file that we wrote: who scored, how it was calibrated, what the scores are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from cyclealign.types import UserError

Gives = Literal["order", "magnitude", "levels"]


def beside(path: Path) -> Path:
    """Where a score file's provenance lies."""
    return path.with_name(f"{path.name}.meta.json")


def recorded(path: Path) -> dict[str, Any]:
    """What an earlier run of ours said about a score file."""
    file = beside(path)
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}") from error
    return {"teachers": found.get("teachers"), "gives": found.get("gives")}


def recorded_gives(path: Path) -> Gives | None:
    """What the scores of a file are, where an earlier run of ours wrote it."""
    gives: Gives | None = recorded(path).get("gives")
    return gives
