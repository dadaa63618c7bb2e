"""Prompts without fences, as a naive program would write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cyclealign.judge import prompting

KEPT = (prompting._safe, prompting._conversation, prompting._candidates)  # what a prompt has shown is not made again


@contextmanager
def unfenced() -> Iterator[None]:
    """Nothing is neutralised here, and nothing that was made here is shown afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompting, "neutralise", lambda text, _, **__: text)
        for kept in KEPT:
            kept.cache_clear()
        try:
            yield
        finally:
            for kept in KEPT:
                kept.cache_clear()
