"""What else a judge may say than an order: ties, scores, a reason, the probabilities of its first token. As strict."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cyclealign.files.printable import well_formed
from cyclealign.judge.asked import HIGHEST, LABELS, LOWEST, Asked
from cyclealign.judge.replies import (
    ReplyUnusable,
    answer_body,
    complete,
    is_refusal,
    json_fields,
    parse_reply,
    unmarked,
    verdict_line,
)

LONGEST_REASON = 2000  # characters that are kept
_ONE = r"\[ *[1-9][0-9]{0,3} *\]"
_TIES = re.compile(rf"{_ONE}(?:\s*[>=]\s*{_ONE})+")
_STRICT = re.compile(rf"{_ONE}(?:\s*>\s*{_ONE})+")
_STRING_TIES = re.compile(r"\s*[1-9][0-9]{0,3}(?:\s*[>=]\s*[1-9][0-9]{0,3})+\s*")
_SCORE = rf"{_ONE} *[:=] *[0-9]{{1,4}}(?:\.0)?(?![0-9/]|\.[0-9])"
_SCORES = re.compile(rf"{_SCORE}(?:\s*[,;]\s*{_SCORE})+")
_VERDICT = re.compile(r"\W*verdict\W*:(.*)", re.IGNORECASE)
# What would turn a verdict that stands below it.
_TURNED = re.compile(
    r"\bworst (?:to best|first)\b|\b(?:ascending|reverse|increasing) order\b"
    r"|\b(?:least to most|lowest to highest|weakest to strongest)\b"
    r"|\blow(?:er|est)(?: scores?| numbers?)? (?:is|are|means?|being) (?:the )?be(?:st|tter)\b",
    re.IGNORECASE,
)
# A label as tokenizers have it: with a space, bracket or emphasis before it, or what follows it in a chain.
_LABEL = re.compile(rf"[\s▁Ġ\"'(\[*_`]*([{LABELS}])[\s\"')\].:>*_`]*")
_CERTAIN = math.log1p(1e-3)  # more than all the probability that there is, beyond rounding
_NEVER = -1000.0  # servers say -9999 of a token that they do not give a probability


@dataclass(frozen=True, slots=True)
class Said:
    """One answer. tiers: slots from 0, best first. scores: of each slot, higher is better, where there are any."""

    tiers: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...] | None = None
    reason: str = ""


def read_verdict(text: str, k: int, asked: Asked, *, structured: bool) -> Said:
    """What a reply to ``render`` says, in terms of slots. Undo the presentation with ``unshuffle``.

    Strict, as ``replies.parse_reply``: each of K responses once, each score a whole number of the scale. In the text
    form a reason is followed by one line that begins with ``Verdict:``; nothing in it may speak of another verdict.

    Raises ReplyUnusable.
    """
    if asked.usual:
        return Said(tuple((slot,) for slot in parse_reply(text, k, structured=structured)))
    body = answer_body(text)
    reason, said = _from_json(body, k, asked) if structured else _from_text(body, k, asked)
    if is_refusal(reason):
        raise ReplyUnusable("its reason refuses to judge", refusal=True)
    return Said(said.tiers, said.scores, well_formed(reason).strip()[:LONGEST_REASON])


def _from_json(body: str, k: int, asked: Asked) -> tuple[str, Said]:
    name = "scores" if asked.answer == "scores" else "ranking"
    fields = json_fields(body, ["reason", name] if asked.explain else [name])
    reason = fields.get("reason", "")
    if not isinstance(reason, str):
        raise ReplyUnusable('"reason" is not text')
    if name == "ranking":
        return reason, Said(_tiers(_listed(fields[name], ties=asked.ties), k))
    pairs = fields[name]
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ReplyUnusable('"scores" is not a JSON object of response numbers')
    return reason, _scored(pairs, k)


def _listed(ranking: Any, *, ties: bool) -> list[list[int]]:
    """The tiers of response numbers that a JSON value orders, however it does."""
    if isinstance(ranking, str) and _STRING_TIES.fullmatch(ranking) and (ties or "=" not in ranking):
        return [[int(n) for n in tier.split("=")] for tier in ranking.split(">")]
    if isinstance(ranking, list):
        tiers = [one if isinstance(one, list) and ties else [one] for one in ranking]
        if tiers and all(tier and all(type(n) is int for n in tier) for tier in tiers):
            return tiers
    raise ReplyUnusable('"ranking" is not an order of response numbers')


def _from_text(body: str, k: int, asked: Asked) -> tuple[str, Said]:
    scores = asked.answer == "scores"
    form = _SCORES if scores else _TIES if asked.ties else _STRICT
    order = f"a ranking such as [2] > [1] {'=' if asked.ties else '>'} [3]"
    such_as = "scores such as [1]: 3, [2]: 9" if scores else order
    reason, line = _reasoned(body, form, k, such_as) if asked.explain else ("", verdict_line(body, form, such_as))
    if scores:
        pairs = [re.split("]?[:=]", one[1:], maxsplit=1) for one in re.split("[,;]", line)]
        return reason, _scored([(number, float(score)) for number, score in pairs], k)
    return reason, Said(_tiers([[int(n.strip("[]")) for n in tier.split("=")] for tier in line.split(">")], k))


def _reasoned(body: str, form: re.Pattern[str], k: int, such_as: str) -> tuple[str, str]:
    """The reason and, without spaces, the verdict of an answer of several lines."""
    *before, last = [line for line in map(unmarked, body.splitlines()) if line] or [""]
    found = _VERDICT.fullmatch(last)
    verdict = unmarked(found[1]) if found else ""
    if not form.fullmatch(verdict):
        raise ReplyUnusable(f"its last line is not Verdict: and {such_as}")
    reason = "\n".join(before)
    line = "".join(verdict.split())
    others = {"".join(m[0].split()) for m in form.finditer(reason) if m[0].count("[") >= k}
    if others - {line} or any(map(_VERDICT.match, before)):
        raise ReplyUnusable("it has more than one ranking")
    if _TURNED.search(reason) or reason.endswith(":"):
        raise ReplyUnusable("its reason may turn its verdict")
    return re.sub(r"\A\W*reason\W*:\s*", "", reason, flags=re.IGNORECASE), line


def _tiers(numbers: Sequence[Sequence[int]], k: int) -> tuple[tuple[int, ...], ...]:
    slots = iter(complete([n for tier in numbers for n in tier], k))
    return tuple(tuple(next(slots) for _ in tier) for tier in numbers)


def _scored(pairs: Iterable[tuple[Any, ...]], k: int) -> Said:
    """From response numbers and scores, as text or as JSON has them."""
    pairs = list(pairs)
    numbers = [str(number) for number, _ in pairs]
    if not all(n.isascii() and n.isdigit() and len(n) <= 4 for n in numbers):
        raise ReplyUnusable("its scores are not of response numbers")
    slots = complete([int(n) for n in numbers], k)
    by_slot = dict(zip(slots, (_score(score) for _, score in pairs), strict=True))
    return _by_score([by_slot[slot] for slot in range(k)])


def _score(value: Any) -> float:
    if type(value) not in (int, float) or not LOWEST <= value <= HIGHEST or value != int(value):
        raise ReplyUnusable(f"a score is not a whole number from {LOWEST} to {HIGHEST}")
    return float(value)


def _by_score(scores: Sequence[float]) -> Said:
    levels = sorted(set(scores), reverse=True)
    return Said(tuple(tuple(s for s, own in enumerate(scores) if own == level) for level in levels), tuple(scores))


def read_first_token(top: Sequence[tuple[str, float]], k: int) -> Said:
    """The order of the labels by the probability that each begins the answer (FIRST, Reddy et al. 2024, arXiv
    2406.15657), whatever token stands for it; scores are the logarithms of their shares of it, in nats.

    top: tokens with their log-probabilities at the first place of the answer, as far as the server gives them.

    Raises ReplyUnusable where a label is not among them: how much less likely it is, nobody has said. Also where
    another token is likelier than any label: the judge would have begun something else than its answer.
    """
    likely: dict[str, float] = {}
    for token, logprob in top:
        if type(logprob) not in (int, float) or not logprob <= _CERTAIN:
            raise ReplyUnusable("the probabilities of its first token are none")
        likely[token] = max(logprob, likely.get(token, -math.inf))
    if not likely or _log_sum(likely.values()) > _CERTAIN:
        raise ReplyUnusable("the probabilities of its first token are none")
    found: dict[str, list[float]] = {label: [] for label in LABELS[:k]}
    for token, logprob in likely.items():
        label = _LABEL.fullmatch(token)
        if label and label[1] in found and logprob > _NEVER:
            found[label[1]].append(logprob)
    first = max(likely, key=likely.__getitem__)
    begun = _LABEL.fullmatch(first)
    if begun is None or begun[1] not in found:
        raise ReplyUnusable(f"its first token is {first[:20]!r}, and no response's letter")
    missing = [label for label, own in found.items() if not own]
    if missing:
        raise ReplyUnusable(f"the server gives no probability that it begins with {', '.join(missing)}")
    sums = [_log_sum(own) for own in found.values()]
    whole = _log_sum(sums)
    return _by_score([one - whole for one in sums])


def _log_sum(values: Iterable[float]) -> float:
    values = list(values)
    most = max(values)
    return most + math.log(math.fsum(math.exp(v - most) for v in values)) if math.isfinite(most) else most
