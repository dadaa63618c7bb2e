"""The reference of the public names, for mkdocstrings to fill from their docstrings."""

from __future__ import annotations

from collections.abc import Iterator

import cyclealign
from cyclealign import losses

INTRODUCTION = """# Python

What a program of yours may import. Other names may change without a word.

"""
RANKERS = ("open_ranker", "ranker_spec", "scorer_by_name")


def api_page() -> str:
    """Markdown: directives of mkdocstrings, one a name, in three groups."""
    return INTRODUCTION + "\n\n".join(_groups()) + "\n"


def _groups() -> Iterator[str]:
    yield "## cyclealign"
    for name in sorted(cyclealign.__all__, key=str.lower):
        yield f"::: {cyclealign._PUBLIC[name]}.{name}"
    yield "## cyclealign.losses\n\nEach loss is a frozen dataclass; its fields are the keys of its config section."
    for name in sorted(losses.__all__, key=str.lower):
        home = getattr(getattr(losses, name), "__module__", "")
        if home.startswith("cyclealign."):  # not the aliases of types
            yield f"::: {home}.{name}"
    yield "## cyclealign.rankers.by_name\n\nAny ranker or scorer by its name in [the table](rankers.md)."
    for name in RANKERS:
        yield f"::: cyclealign.rankers.by_name.{name}"
