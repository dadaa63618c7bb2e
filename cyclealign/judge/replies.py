"""Reply to ranking: strict parsing of what a judge wrote (the inverse of ``prompting.render``)."""

from __future__ import annotations

import json
import re

_CHAIN = re.compile(r"\[ *([1-9][0-9]?) *\](?:\s*>\s*\[ *[1-9][0-9]? *\])+")
_STRING_CHAIN = re.compile(r"\s*[1-9][0-9]?(?:\s*>\s*[1-9][0-9]?)+\s*")
_CODE_FENCE = re.compile(r"```[A-Za-z]*\n(.*?)\n?```", re.DOTALL)
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_SORRY = r"(?:really |very |so |truly )*(?:sorry|unable|not able|not comfortable|not going to)"
_CANNOT = r"can't|cannot|can not|won't|will not|(?:must |have to )?decline|refuse|do not feel|don't feel"
_REFUSAL = re.compile(
    r"\W*(?:(?:unfortunately|regrettably),? *)?"
    rf"(?:(?:i am|i'm|we are|we're) {_SORRY}\b|(?:i|we) (?:{_CANNOT})\b"
    r"|(?:sorry|apologies|my apologies|i apologi[sz]e)\b|as an (?:ai|artificial)\b)"
)


class ReplyUnusable(Exception):
    """A reply that is not exactly one strict ranking; ``reason`` is what the repair call tells the judge."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse_reply(text: str, k: int, *, structured: bool) -> tuple[int, ...]:
    """Slots best first (0-based), from a reply to ``render``. Undo the presentation with ``unshuffle``.

    Strict: each of 1..K exactly once; nothing is completed, reordered or guessed. White space, one code fence
    around the whole reply and a leading ``<think>`` block are allowed. The JSON form must be the whole reply;
    the text form must stand on a line of its own, with no different chain anywhere in the reply.

    Raises ReplyUnusable.
    """
    body = _THINKING.sub("", text, count=1).strip()
    fenced = _CODE_FENCE.fullmatch(body)
    body = fenced[1].strip() if fenced else body
    if not body:
        raise ReplyUnusable("it is empty")
    numbers = _structured_numbers(body) if structured else _chain_numbers(body)
    unknown = sorted({n for n in numbers if not 1 <= n <= k})
    missing = [n for n in range(1, k + 1) if n not in numbers]
    repeated = sorted({n for n in numbers if numbers.count(n) > 1})
    problems = [
        f"it {verb} {', '.join(map(str, ids))}"
        for verb, ids in (("names unknown numbers", unknown), ("misses", missing), ("repeats", repeated))
        if ids
    ]
    if problems:
        raise ReplyUnusable(f"it must name each of 1 to {k} exactly once, but {' and '.join(problems)}")
    return tuple(n - 1 for n in numbers)


def _structured_numbers(body: str) -> list[int]:
    try:
        # Pairs, not a dict: of a key that is there twice, json would silently take the last.
        pairs = json.loads(body, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise ReplyUnusable("it is not one JSON object") from error
    keys = [pair[0] for pair in pairs if isinstance(pair, tuple)] if isinstance(pairs, list) else []
    if keys != ["ranking"] or len(pairs) != 1:
        raise ReplyUnusable('it is not a JSON object with the one key "ranking"')
    ranking = pairs[0][1]
    if isinstance(ranking, str) and _STRING_CHAIN.fullmatch(ranking):
        return [int(n) for n in ranking.split(">")]
    if isinstance(ranking, list) and ranking and all(type(n) is int for n in ranking):
        return ranking
    raise ReplyUnusable('"ranking" is not an order of response numbers')


def _chain_numbers(body: str) -> list[int]:
    def numbers(chain: str) -> tuple[int, ...]:
        return tuple(int(n) for n in re.findall(r"[0-9]+", chain))

    lines = [line.strip().removesuffix(".").rstrip() for line in body.splitlines()]
    whole = {numbers(line) for line in lines if _CHAIN.fullmatch(line)}
    if not whole:
        raise ReplyUnusable("it has no line that is a ranking such as [2] > [1] > [3]")
    if len(whole | {numbers(m[0]) for m in _CHAIN.finditer(body)}) > 1:
        raise ReplyUnusable("it has more than one ranking")
    return list(whole.pop())


def is_refusal(text: str) -> bool:
    """Whether a reply that is no ranking opens like a refusal (English only; a label, never a verdict)."""
    return _REFUSAL.match(_THINKING.sub("", text, count=1).strip().replace("’", "'").lower()) is not None
