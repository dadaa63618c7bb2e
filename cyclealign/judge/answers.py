"""The answer that a judge is asked for: an example of it, its words, its schema. ``verdicts`` reads it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from cyclealign.judge.asked import ENUM_UP_TO, HIGHEST, LABELS, LOWEST, PLAIN, Asked
from cyclealign.judge.call import AnswerForm
from cyclealign.judge.template import RankTemplate, fill

Slots = Sequence[tuple[int, ...]]  # from 0, best first, those of one tuple tied

REASON_WORDS = 60  # that a judge is asked to explain itself in
_RANKING = "It names every response number exactly once, best first"
_WHAT = {
    "strict": f"{_RANKING}, without ties",
    "ties": f"{_RANKING}, with = between responses that are equally good",
    "tie lists": f"{_RANKING}; each list inside it holds one response, or several that are equally good",
    "scores": f"It gives every response, by its number, a whole number from {LOWEST} (worst) to {HIGHEST} (best) as its"
    " score, the same to responses that are equally good",
}
_LETTERS = (
    "Reply with the letters of all responses, best first, and nothing else. Begin with the letter of the best response"
    " itself, in this form: "
)
_WHY = f"says in at most {REASON_WORDS} words, before the verdict, what decides it"


# Examples ----------------------------------------------------------------------------------------------------


def format_answer(order: Sequence[int], *, structured: bool, array: bool = False, asked: Asked = PLAIN) -> str:
    """The answer that orders slots so (0-based, best first), in the form that is read.

    An order has no scores: they are spread evenly over the scale. Nor has it a reason: it names the best and the worst.
    """
    return _formatted([(slot,) for slot in order], structured=structured, array=array, asked=asked)


def _formatted(tiers: Slots, *, structured: bool, array: bool, asked: Asked) -> str:
    if asked.answer == "first_token":
        return " > ".join(LABELS[slot] for tier in tiers for slot in tier)
    why = f"Response {tiers[0][0] + 1} is the best of these, response {tiers[-1][-1] + 1} the worst."
    if structured:
        reason = {"reason": why} if asked.explain else {}
        return json.dumps(reason | _object(tiers, array=array, asked=asked), separators=(",", ":"))
    line = _scores_line(tiers) if asked.answer == "scores" else _joined(tiers, "[{}]", " > ", " = ")
    return f"Reason: {why}\nVerdict: {line}" if asked.explain else line


def _object(tiers: Slots, *, array: bool, asked: Asked) -> dict[str, Any]:
    if asked.answer == "scores":
        return {"scores": {str(n): score for n, score in _spread(tiers)}}
    if not array:
        return {"ranking": _joined(tiers, "{}", ">", "=")}
    return {"ranking": [[s + 1 for s in t] for t in tiers] if asked.ties else [s + 1 for t in tiers for s in t]}


def _scores_line(tiers: Slots) -> str:
    return ", ".join(f"[{n}]: {score}" for n, score in _spread(tiers))


def _joined(tiers: Slots, number: str, better: str, equal: str) -> str:
    return better.join(equal.join(number.format(slot + 1) for slot in tier) for tier in tiers)


def _spread(tiers: Slots) -> Iterator[tuple[int, int]]:
    """Response numbers in order, each with its score."""
    step = (HIGHEST - LOWEST) / max(len(tiers) - 1, 1)
    scores = {slot: round(HIGHEST - n * step) for n, tier in enumerate(tiers) for slot in tier}
    return ((slot + 1, scores[slot]) for slot in sorted(scores))


# Words -------------------------------------------------------------------------------------------------------


@cache
def answer_words(template: RankTemplate, asked: Asked, *, structured: bool, array: bool) -> str:
    """What the judge is told of its answer: the template's own words for an order alone, else ours."""
    if asked.usual:
        wording = template.answer_structured if structured else template.answer_text
        order = (1, 0, 4, 2, 3) if array else (1, 0, 2)
        return fill(wording, {"example": format_answer(order, structured=structured, array=array)})
    tiers: Slots = ((1,), (0, 2)) if asked.ties else ((1,), (0,), (2,))
    example = _formatted(tiers, structured=structured, array=array, asked=asked)
    if asked.answer == "first_token":
        return f"{_LETTERS}{example}"
    what = _WHAT[_kind(asked, listed=structured and array)]
    if structured:
        why = f' Its first field, "reason", {_WHY}.' if asked.explain else ""
        return f"Reply with one JSON object and nothing else.{why} {what}, in this form: {example}"
    if asked.explain:
        lines = f"Reply with two lines and nothing else. The first begins with Reason: and {_WHY}. The second begins"
        return f"{lines} with Verdict: and is the verdict. {what}, in this form:\n{example}"
    return f"Reply with one line and nothing else. {what}, in this form: {example}"


def _kind(asked: Asked, *, listed: bool) -> str:
    if asked.answer == "scores":
        return "scores"
    return ("tie lists" if listed else "ties") if asked.ties else "strict"


# Schema ------------------------------------------------------------------------------------------------------


def answer_schema(k: int, asked: Asked = PLAIN) -> dict[str, object]:
    """JSON schema of the answer: for K <= 4 one of all orders, above an array of K response numbers (with ties: of
    lists of them); a score for each response number. A reason is the first field.

    ``uniqueItems`` is left out because many servers refuse it; the readers check instead.
    """
    name = "scores" if asked.answer == "scores" else "ranking"
    reason: dict[str, object] = {"reason": {"type": "string"}} if asked.explain else {}
    properties = reason | {name: _scores_schema(k) if name == "scores" else _ranking_schema(k, ties=asked.ties)}
    return _closed(properties)


def _closed(properties: dict[str, object]) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _scores_schema(k: int) -> dict[str, object]:
    score = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    return _closed({str(n): score for n in range(1, k + 1)})


def _ranking_schema(k: int, *, ties: bool) -> dict[str, object]:
    if k <= ENUM_UP_TO:
        strict = ([(slot,) for slot in order] for order in itertools.permutations(range(k)))
        orders = _weak_orders(tuple(range(k))) if ties else strict
        return {"type": "string", "enum": [_joined(order, "{}", ">", "=") for order in orders]}
    number: dict[str, object] = {"type": "integer", "enum": list(range(1, k + 1))}
    if ties:
        tier = {"type": "array", "items": number, "minItems": 1, "maxItems": k}
        return {"type": "array", "items": tier, "minItems": 1, "maxItems": k}
    return {"type": "array", "items": number, "minItems": k, "maxItems": k}


def _weak_orders(slots: tuple[int, ...]) -> Iterator[Slots]:
    """All orders with ties, the slots of a tier ascending: 3 of two, 13 of three, 75 of four."""
    if not slots:
        yield ()
    for size in range(1, len(slots) + 1):
        for first in itertools.combinations(slots, size):
            yield from ((first, *rest) for rest in _weak_orders(tuple(s for s in slots if s not in first)))


def answer_format(k: int, form: AnswerForm, asked: Asked = PLAIN) -> dict[str, object] | None:
    """The ``response_format`` of an OpenAI-compatible chat call in a form of answer; None for text."""
    if form == "text":
        return None
    if form == "object":
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "ranking", "strict": True, "schema": answer_schema(k, asked)},
    }
