"""Reply to ranking: strict parsing of what a judge wrote (the inverse of ``prompting.render``); ``verdicts`` reads what
else it may be asked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cyclealign.judge.thinking import set_aside

_NUMBER = r"[1-9][0-9]{0,3}"
_CHAIN = re.compile(rf"\[ *{_NUMBER} *\](?:\s*>\s*\[ *{_NUMBER} *\])+")
_STRING_CHAIN = re.compile(rf"\s*{_NUMBER}(?:\s*>\s*{_NUMBER})+\s*")
_CODE_FENCE = re.compile(r"(`{3,20}|~{3,20})[A-Za-z]*\n(.*?)\n?\1", re.DOTALL)
LAYERS = 8  # of emphasis around a line: more is nobody's, and each takes a look at the whole line
_EMPHASIS = re.compile(r"\A(?:[*_`]+|#+ |\$?\\boxed\{|<b>|<strong>)|(?:(?<![*_`])[*_`]+|\}\$?|</b>|</strong>)\Z")
# A few words that only name what follows. Whatever else stands beside a chain may change what it means: "from worst to
# best", "as an example", a quotation. It is not for us to judge which.
_LABEL = re.compile(
    r"(?:(?:here is|here's|here|this is|below is) )?(?:(?:it is|the|my|your|our) )?"
    r"(?:(?:final|overall|resulting|complete) )?"
    r"(?:(?:ranking|ranked order|order|answer|verdict|result|response ranking|final)"
    r"(?: (?:is|of (?:the )?(?:responses|replies)))?|it is)?"
    r"(?:,? ?\(?(?:from )?(?:best first|best to worst)\)?)?",
    re.IGNORECASE,
)
_SORRY = r"(?:really |very |so |truly )*(?:sorry|unable|not able|not comfortable|not going to)"
_CANNOT = r"can't|cannot|can not|won't|will not|(?:must |have to )?decline|refuse|do not feel|don't feel"
_REFUSAL = re.compile(
    r"\W*(?:(?:unfortunately|regrettably),? *)?"
    rf"(?:(?:i am|i'm|we are|we're) {_SORRY}\b|(?:i|we) (?:{_CANNOT})\b"
    r"|(?:sorry|apologies|my apologies|i apologi[sz]e)\b|as an (?:ai|artificial)\b)"
)


class ReplyUnusable(Exception):
    """A reply that is not exactly one strict verdict; ``reason`` is what the repair call tells the judge. refusal: it
    refuses, in the form that was asked for."""

    def __init__(self, reason: str, *, refusal: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal


def parse_reply(text: str, k: int, *, structured: bool) -> tuple[int, ...]:
    """Slots best first (0-based), from a reply to ``render``. Undo the presentation with ``unshuffle``.

    Strict: each of 1..K exactly once; nothing is completed, reordered or guessed. Thinking parts are set aside
    (``thinking.set_aside``); white space and one code fence around the whole answer are allowed. The JSON form must be
    the whole answer. In the text form the ranking is the answer's last line, and before it stand at most labels such
    as ``Final ranking:`` and the same ranking again; emphasis around it is allowed.

    Raises ReplyUnusable.
    """
    body = answer_body(text)
    return complete(_structured_numbers(body) if structured else _chain_numbers(body), k)


def answer_body(text: str) -> str:
    """The answer of a reply, without thinking parts and a fence around it. Raises ReplyUnusable."""
    thought = set_aside(text)
    if thought.unfinished:
        raise ReplyUnusable("it was cut off while it was thinking")
    fenced = _CODE_FENCE.fullmatch(thought.answer)
    body = fenced[2].strip() if fenced else thought.answer
    if not body:
        raise ReplyUnusable("it is thinking alone" if thought.thinking else "it is empty")
    return body


def complete(numbers: Sequence[int], k: int) -> tuple[int, ...]:
    """Response numbers as slots from 0. Raises ReplyUnusable unless they are 1 to K, each once."""
    counts = Counter(numbers)
    unknown = sorted(n for n in counts if not 1 <= n <= k)
    missing = [n for n in range(1, k + 1) if n not in counts]
    repeated = sorted(n for n in counts if counts[n] > 1)
    problems = [
        f"it {verb} {', '.join(map(str, ids))}"
        for verb, ids in (("names unknown numbers", unknown), ("misses", missing), ("repeats", repeated))
        if ids
    ]
    if problems:
        raise ReplyUnusable(f"it must name each of 1 to {k} exactly once, but {' and '.join(problems)}")
    return tuple(n - 1 for n in numbers)


def json_fields(body: str, names: Sequence[str]) -> dict[str, Any]:
    """The fields of an answer that is one JSON object with these keys, each once; an object in it is a list of its keys
    and values. Raises ReplyUnusable."""
    try:
        # Pairs, not a dict: of a key that is there twice, json would silently take the last.
        pairs = json.loads(body, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise ReplyUnusable("it is not one JSON object") from error
    keys = [pair[0] for pair in pairs if isinstance(pair, tuple)] if isinstance(pairs, list) else []
    if sorted(keys) != sorted(names) or len(pairs) != len(keys):
        wanted = " and ".join(f'"{name}"' for name in names)
        raise ReplyUnusable(f"it is not a JSON object with the {'one key' if len(names) == 1 else 'keys'} {wanted}")
    return dict(pairs)


def _structured_numbers(body: str) -> list[int]:
    ranking = json_fields(body, ["ranking"])["ranking"]
    if isinstance(ranking, str) and _STRING_CHAIN.fullmatch(ranking):
        return [int(n) for n in ranking.split(">")]
    if isinstance(ranking, list) and ranking and all(type(n) is int for n in ranking):
        return ranking
    raise ReplyUnusable('"ranking" is not an order of response numbers')


def _chain_numbers(body: str) -> list[int]:
    return [int(n) for n in re.findall(r"[0-9]+", verdict_line(body, _CHAIN, "a ranking such as [2] > [1] > [3]"))]


def verdict_line(body: str, form: re.Pattern[str], such_as: str) -> str:
    """The last line of an answer, which is in this form, and the only one that is, without spaces; ``such_as``: what
    the judge is told that it should be. Raises ReplyUnusable."""
    lines = [_bare(line, form) for line in body.splitlines()]
    lines = [line for line in lines if line]
    verdicts = {_spaceless(line) for line in lines if form.fullmatch(line)}
    if not lines or not form.fullmatch(lines[-1]):
        where = "its last line is not" if verdicts else "it has no line that is"
        raise ReplyUnusable(f"{where} {such_as}")
    if len(verdicts | {_spaceless(m[0]) for m in form.finditer(body)}) > 1:
        raise ReplyUnusable("it has more than one ranking")
    if not all(form.fullmatch(line) or _is_label(line) for line in lines):
        raise ReplyUnusable("it has other words beside the ranking")
    return verdicts.pop()


def _spaceless(line: str) -> str:
    return "".join(line.split())


def _bare(line: str, form: re.Pattern[str]) -> str:
    """A line without white space, emphasis and a label before its verdict."""
    line = unmarked(line)
    head, colon, tail = line.partition(":")
    if colon and _is_label(head) and form.fullmatch(unmarked(tail)):
        return unmarked(tail)
    return line


def unmarked(line: str) -> str:
    """A line without white space, full stop and emphasis around it."""
    for _ in range(LAYERS):
        line = _EMPHASIS.sub("", line.strip().rstrip(". \t"))
    return line.strip()


def _is_label(line: str) -> bool:
    words = unmarked(unmarked(line).removesuffix(":"))
    return _LABEL.fullmatch(words) is not None


def is_refusal(text: str) -> bool:
    """Whether a reply that is no ranking opens like a refusal (English only; a label, never a verdict)."""
    return _REFUSAL.match(set_aside(text).answer.replace("’", "'").lower()) is not None
