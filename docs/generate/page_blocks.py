"""The code blocks of a page in their order: files to write, and commands to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """``title``: the file that a block is; empty for commands (``sh``) and for what they print (``text``)."""

    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Prose:
    """What stands between the blocks."""

    text: str


def parts(page: str) -> Iterator[Block | Prose]:
    """The page taken apart; nothing is lost but the fences."""
    at = 0
    for found in _BLOCK.finditer(page):
        if page[at : found.start()].strip():
            yield Prose(page[at : found.start()].strip())
        yield Block(found[1], found[2] or "", found[3])
        at = found.end()
    if page[at:].strip():
        yield Prose(page[at:].strip())


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, without the prose."""
    return [part for part in parts(page.read_text(encoding="utf-8")) if isinstance(part, Block)]
