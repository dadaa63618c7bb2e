"""Long documents as overlapping windows of whole words, each with its place in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Window:
    """``text`` is the document's text from character ``start`` to ``end``."""

    start: int
    end: int
    text: str


def windows(text: str, tokenizer: Any, *, size: int, overlap: int, most: int) -> list[Window]:
    """A window every ``size`` tokens of the first ``most``, with ``overlap`` tokens of its neighbours on either side.

    IDCM (Hofstätter et al. 2021, arXiv 2105.09816) has 50 of 2,000 and 7. Ends are moved out to whole words, so that a
    window's own tokens are the document's; a text without tokens has none.

    Args:
        tokenizer: a fast tokenizer of transformers.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=most)
    offsets = found["offset_mapping"]
    cuts = []
    for first in range(0, len(offsets), size):
        last = min(first + size + overlap, len(offsets)) - 1
        cuts.append((offsets[max(0, first - overlap)][0], offsets[last][1]))
    return [_whole_words(text, start, end) for start, end in cuts]


def _whole_words(text: str, start: int, end: int) -> Window:
    while start > 0 and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return Window(start, end, text[start:end])


def shortened(text: str, tokenizer: Any, most: int) -> str:
    """The text up to its ``most``-th token."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=most)[
        "offset_mapping"
    ]
    return text[: offsets[-1][1]] if offsets else ""
