"""The fuzz targets by name, and the corpora that are kept of them."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import cast

from fuzzing import Target

NAMES = ("replies", "templates", "readers", "records", "config")
CORPORA = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"


def target(name: str) -> Target:
    """The target of ``fuzz_<name>``; only its own imports are made."""
    return cast(Target, import_module(f"fuzz_{name}").target)


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept of a target: its seeds, and what was found to reach more code."""
    seeds = cast(list[bytes], import_module(f"fuzz_{name}").seeds())
    return seeds + [path.read_bytes() for path in sorted((CORPORA / name).glob("*"))]


def name_of(data: bytes) -> str:
    """The name of an input's file."""
    return hashlib.sha256(data).hexdigest()[:16]
