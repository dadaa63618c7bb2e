"""Where the package's own files lie: inside the wheel, or at the top of a source checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent.parent


def resource_dir(kind: Literal["prompts", "configs", "assets"]) -> Path:
    """Directory of packaged files of one kind (``prompts`` and ``configs`` lie beside the package in a checkout)."""
    inside = PACKAGE / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind


def resource(kind: Literal["prompts", "configs", "assets"], name: str) -> Path:
    """Path of one packaged file; it need not exist."""
    return resource_dir(kind) / name
