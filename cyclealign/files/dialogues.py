"""Dialogues with judged responses, as metrics of coherence learn from and are measured on: levels, and ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cyclealign.files.columns import asked, first_there
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.trec import finite
from cyclealign.types import Message, UserError

RATINGS = ("human", "rating", "ratings", "annotations", "human_scores")
# DailyDialog++ names its three levels (Sai et al., TACL 2020); best first.
DAILYDIALOGPP = ("positive_responses", "adversarial_negative_responses", "random_negative_responses")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelledDialogue:
    """A context and its responses in levels of quality, best first."""

    context: tuple[Message, ...]
    levels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedResponse:
    """A context, one response, and the mean of the human ratings of it."""

    context: tuple[Message, ...]
    response: str
    rating: float


def read_levels(path: Path) -> Iterator[LevelledDialogue]:
    """JSONL (also .gz) with a context as in ``context_of`` and ``levels``: lists of responses, best level first; or
    with DailyDialog++'s three lists in their place, as its files are.

    Raises:
        UserError: names file and line of a row that has no two levels with responses.
    """
    for place, row in json_rows(path):
        yield LevelledDialogue(context=context_of(row, place), levels=levels_of(row, place))


def read_ratings(path: Path) -> Iterator[RatedResponse]:
    """JSONL (also .gz) with a context as in ``context_of``, ``response``, and ratings as in ``rating_of``.

    Raises:
        UserError: names file and line.
    """
    for place, row in json_rows(path):
        context, response = exchange_of(row, place)
        yield RatedResponse(context=context, response=response, rating=rating_of(row, place))


def exchange_of(row: Row, place: str) -> tuple[tuple[Message, ...], str]:
    """The context and the response of a row."""
    response = row.get("response")
    if not isinstance(response, str):
        raise UserError(f"{place}: expected response as text")
    return context_of(row, place), response


def context_of(row: Row, place: str) -> tuple[Message, ...]:
    """``context`` (a list of turns, which alternate, the user's last), ``query`` (a lone turn), ``messages`` or
    ``prompt``."""
    context = row.get("context")
    if isinstance(context, list) and context and all(isinstance(t, str) for t in context):
        roles = ("user", "assistant")
        turns = [{"role": roles[(len(context) - 1 - n) % 2], "content": t} for n, t in enumerate(context)]
        return asked({**row, "prompt": turns, "context": None}, place)
    name = first_there(row, ("prompt", "query"))
    # What stands beside it (context, system, history) is part of it, as of every prompt.
    return asked({**row, "prompt": row[name]} if name is not None else row, place)


def levels_of(row: Row, place: str) -> tuple[tuple[str, ...], ...]:
    """The responses of a row, best level first; UserError where there are no two levels with some."""
    found = row.get("levels", [row.get(name) for name in DAILYDIALOGPP])
    if not _is_levels(found) or sum(map(bool, found)) < 2:
        raise UserError(
            f"{place}: expected levels: two lists of responses or more, best first; or {', '.join(DAILYDIALOGPP)}"
        )
    return tuple(map(tuple, found))


def rating_of(row: Row, place: str) -> float:
    """``human``, ``rating(s)``, ``annotations`` or ``human_scores``: a number, or several, whose mean counts."""
    value = next((row[k] for k in RATINGS if row.get(k) is not None), None)
    values: list[Any] = value if isinstance(value, list) and value else [value]
    if not all(is_number(v) for v in values):
        raise UserError(f"{place}: expected {' or '.join(RATINGS)}: a number, or a list of numbers; got {value!r}")
    return fmean(values)


def is_number(value: Any) -> bool:
    return not isinstance(value, str) and finite(value) is not None


def _is_levels(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(level, list) and all(isinstance(text, str) for text in level) for level in found
    )
