"""Agreement of two rankings: longest common subsequence, chance-corrected; Kendall tau.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter

from cyclealign.rankers.chance import chance_corrected_of
from cyclealign.types import Given, Ranking

Tiers = tuple[tuple[str, ...], ...]


def tiers_of(given: Sequence[str | tuple[str, ...]]) -> Tiers:
    """What a pass gave, as tiers."""
    return tuple((one,) if isinstance(one, str) else one for one in given)


def given_of(tiers: Tiers) -> Given:
    """The inverse of ``tiers_of``."""
    return tuple(tier[0] if len(tier) == 1 else tier for tier in tiers)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two rankings of one prompt have in common.

    ``ids``: the longest common subsequence, best first. ``k``: candidates that both ranked. ``corrected``:
    ``length`` against chance, see ``chance_corrected_of``. ``settled``: both give the same full order, no ties.
    """

    prompt_id: str
    ids: tuple[str, ...]
    length: int
    k: int
    corrected: float
    settled: bool


def agree(black: Ranking, white: Ranking) -> Agreement:
    """Agreement of the black box's ranking of one prompt with the white box's, over what both ranked.

    A tie agrees with nothing: the common subsequence holds only pairs that both rankings order, and alike.
    (Were a tie compatible with any order, a black box that cannot tell the candidates apart would agree with
    everyone.)

    Raises:
        ValueError: the rankings are of different prompts, or share no candidate.
    """
    if black.prompt_id != white.prompt_id:
        raise ValueError(f"expected two rankings of one prompt, got {black.prompt_id} and {white.prompt_id}")
    shared = places_of(black.tiers).keys() & places_of(white.tiers).keys()
    k = len(shared)
    if k == 0:
        raise ValueError(f"prompt {black.prompt_id}: the two rankings share no candidate")
    ids = _longest_common(black.tiers, white.tiers, white.scores)
    settled = black.tiers == white.tiers and len(black.tiers) == k
    sizes = [tuple(filter(None, (len(shared & set(tier)) for tier in r.tiers))) for r in (black, white)]
    corrected = chance_corrected_of(len(ids), *sizes)
    return Agreement(black.prompt_id, ids, len(ids), k, corrected, settled)


def lcs(black: Sequence[str], white: Sequence[str], white_scores: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """Longest common subsequence of two orders, best first; ids that only one has are left out.

    Among several of the same length: the one that keeps the black box's first choice, then the one with the
    larger likelihood margin (sum over its pairs of the difference of ``white_scores``), then the earliest in
    the black box's order.

    Raises:
        ValueError: an id occurs twice in one order.
    """
    return _longest_common(tuple((i,) for i in black), tuple((i,) for i in white), white_scores)


def _longest_common(black: Tiers, white: Tiers, white_scores: Mapping[str, float] | None) -> tuple[str, ...]:
    """Longest chain that strictly descends in both rankings, by the rule of ``lcs``; O(K^2)."""
    first, second = places_of(black), places_of(white)
    shared = [i for i in first if i in second]  # in the black box's order
    if not shared:
        return ()
    after = {i: [j for j in shared if first[i] < first[j] and second[i] < second[j]] for i in shared}
    length: dict[str, int] = {}
    for i in reversed(shared):
        length[i] = 1 + max((length[j] for j in after[i]), default=0)
    total = max(length.values())
    # An id whose longest chain from itself on has n ids can only stand at place total - n of a full one. So
    # its share of the margin, sum_{a<b} (p_a - p_b), is known, and the margin adds up along the chain.
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    for i in reversed(shared):
        share = (2 * length[i] - total - 1) * white_scores[i] if white_scores is not None else 0.0
        tails = [best[j] for j in after[i] if length[j] == length[i] - 1]
        margin, tail = max(tails, key=itemgetter(0), default=(0.0, ()))  # of equals the earliest
        best[i] = (share + margin, (i, *tail))
    starts = [i for i in shared if length[i] == total]
    top = [i for i in starts if first[i] == 0]
    return max((best[i] for i in top or starts), key=itemgetter(0))[1]


def places_of(tiers: Sequence[Sequence[str]]) -> dict[str, int]:
    """Number of the tier of each id, in ranking order."""
    places = {i: place for place, tier in enumerate(tiers) for i in tier}
    if len(places) != sum(len(tier) for tier in tiers):
        raise ValueError(f"expected each candidate once in a ranking, got {tiers}")
    return places


def kendall_tau(
    first: Ranking | Sequence[str | tuple[str, ...]], second: Ranking | Sequence[str | tuple[str, ...]]
) -> float:
    """Kendall's tau-b in [-1, 1] of two orders (as passes give them) or rankings, over the candidates both have.

    0.0 where it is undefined: fewer than two common candidates, or one ranking ties them all.
    """
    a, b = (places_of(r.tiers if isinstance(r, Ranking) else tiers_of(r)) for r in (first, second))
    balance = untied_a = untied_b = 0
    for i, j in combinations([i for i in a if i in b], 2):
        sign_a, sign_b = _sign(a[j] - a[i]), _sign(b[j] - b[i])
        balance += sign_a * sign_b
        untied_a += abs(sign_a)
        untied_b += abs(sign_b)
    return balance / math.sqrt(untied_a * untied_b) if untied_a and untied_b else 0.0


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
