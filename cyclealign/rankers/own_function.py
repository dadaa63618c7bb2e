"""A ranker or scorer of the user's own: a function of a Python file."""

from __future__ import annotations

import math
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import islice
from typing import Any, Literal

from cyclealign.files.printable import one_line
from cyclealign.rankers.own_code import Code, function_of, said, words_of
from cyclealign.rankers.scored import Pair, too_few
from cyclealign.types import CandidateSet, Message, RankContext, Ranking, Unranked, UserError

Answer = list[float] | list[str]
Function = Callable[[list[Message], list[str]], object]
FORM = (
    "expected a function of (messages, replies) that returns list[float], their scores, or list[str], them best first"
)


class OwnFunction:
    """The user's function of a chat and replies to it; implements ``types.Ranker`` and ``PairScorer``.

    It returns a number for each reply, higher is better, or, where its return annotation says ``list[str]``, the
    replies themselves, best first. Whatever else comes of a list is an ``unusable`` verdict that says what; nothing is
    asked twice. As a scorer it is asked about one reply at a time.
    """

    def __init__(self, code: Code, key: str) -> None:
        """Runs the file. UserError where that fails, or it has no such function; one line that names the place."""
        self._code, self._key = code, key
        self._function = typing.cast(Function, function_of(code, key, FORM, [], []))
        self.gives: Literal["order", "magnitude"] = _gives(self._function, f"{key}: {code.file}: {code.function}")

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Verdicts in the order of the sets, one call of the function each."""
        for item in sets:
            yield too_few(item) if len(item.candidates) < 2 else self._verdict(item)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """A score for each (messages, reply). UserError where the function gives none."""
        scores = []
        for messages, reply in pairs:
            try:
                (score,) = self._scores(messages, [reply])
            except _Unusable as why:
                raise UserError(f"{self._key}: {why}") from why
            scores.append(score)
        return scores

    def _verdict(self, item: CandidateSet) -> Ranking | Unranked:
        messages, texts = item.prompt.messages, [c.text for c in item.candidates]
        try:
            if self.gives == "order":
                tiers = _tiers(self._returned(messages, texts), item)
                return Ranking(prompt_id=item.prompt.id, tiers=tiers, set_id=item.id)
            scores = dict(zip(item.ids, self._scores(messages, texts), strict=True))
        except _Unusable as why:
            return Unranked(item.prompt.id, "unusable", str(why), set_id=item.id)
        return Ranking.from_scores(item.prompt.id, scores, set_id=item.id)

    def _scores(self, messages: Sequence[Message], texts: list[str]) -> list[float]:
        found = self._returned(messages, texts)
        if any(isinstance(value, str) for value in found):
            raise _Unusable("expected numbers, got text; a function that returns an order says so: -> list[str]")
        if len(found) != len(texts):
            raise _Unusable(f"expected {len(texts)} scores, got {_count(found, texts)}")
        return [_number(value, place) for place, value in enumerate(found)]

    def _returned(self, messages: Sequence[Message], texts: list[str]) -> list[object]:
        """What the function returns, at most one value too many. What it prints is no verdict of ours."""
        shown = [Message(role=m["role"], content=m["content"]) for m in messages]
        try:
            with redirect_stdout(sys.stderr):
                found = self._function(shown, list(texts))
                as_list = getattr(found, "tolist", None)  # of an array, or a tensor
                found = as_list() if callable(as_list) else found
                if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping | set | frozenset):
                    return list(islice(found, len(texts) + 1))
        except (Exception, SystemExit) as error:
            raise _Unusable(said(error, self._code)) from error
        raise _Unusable(f"expected a list, got {type(found).__name__}")


class _Unusable(Exception):
    """What the function did with one list."""


def _count(found: Sequence[object], texts: Sequence[str]) -> str:
    return str(len(found)) if len(found) <= len(texts) else "more"


def _number(value: Any, place: int) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except Exception as error:
        raise _Unusable(f"score {place}: expected a number, got {words_of(value, repr, 60)}") from error
    if not math.isfinite(number):
        raise _Unusable(f"score {place}: expected a finite number, got {words_of(value, repr, 60)}")
    return number


def _tiers(found: Sequence[object], item: CandidateSet) -> tuple[tuple[str, ...], ...]:
    """Ids by the texts of an order, best first; equal replies share a tier."""
    texts = Counter(c.text for c in item.candidates)
    given = Counter(text for text in found if isinstance(text, str))
    if len(found) != given.total() or given.keys() - texts.keys():
        raise _Unusable("expected the replies, best first, got something that is none of them")
    for text, times in given.items():
        if times > texts[text]:
            raise _Unusable(f"expected each reply once, got one {times} times: {one_line(text, 60)}")
    if given != texts:
        raise _Unusable(f"expected {texts.total()} replies, best first, got {given.total()}")
    order = [text for n, text in enumerate(found) if n == 0 or text != found[n - 1]]
    if len(order) > len(texts):
        raise _Unusable("expected equal replies side by side, got them apart")
    return tuple(tuple(c.id for c in item.candidates if c.text == text) for text in order)


def _gives(function: Function, where: str) -> Literal["order", "magnitude"]:
    """What the return annotation promises: an order where it is of texts; scores where it says nothing."""
    try:
        returned = typing.get_type_hints(function).get("return")
    except TypeError:  # an object that can be called, and has no annotations
        return "magnitude"
    except Exception as error:
        raise UserError(f"{where}: its annotations cannot be read: {one_line(str(error))}") from error
    inner = typing.get_args(returned)
    if str in inner:
        return "order"
    # Whole numbers could be places as well as scores.
    if int in inner or returned in (str, int, float, bool, type(None)):
        raise UserError(f"{where}: {FORM}; got -> {getattr(returned, '__name__', returned)}")
    return "magnitude"
