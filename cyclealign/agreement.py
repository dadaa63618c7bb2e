"""Agreement of two rankings, and consensus of several.

Longest common subsequence, Kendall tau, Kemeny and Borda, and the utilities that a ranking gives to a loss.
Standard library only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from operator import itemgetter

from cyclealign.chance import chance_corrected, expected_lcs
from cyclealign.types import Ranking

__all__ = [
    "Agreement",
    "aggregate",
    "agree",
    "borda",
    "chance_corrected",
    "expected_lcs",
    "kemeny",
    "kendall_tau",
    "lcs",
    "order_utilities",
    "taught_tiers",
    "teacher_utilities",
    "vote_shares",
    "vote_utilities",
]

KEMENY_LIMIT = 8
"""Longest list that ``aggregate`` gives to ``kemeny``, which looks at 2^K sets; above it takes ``borda``."""

VOTE_EPSILON = 0.01
"""Added to vote shares before the logarithm: who never won stays finite, and no gap exceeds 4.7."""

Tiers = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two rankings of one prompt have in common.

    ``ids``: the longest common subsequence, best first. ``k``: candidates that both ranked. ``corrected``:
    ``length`` against chance, see ``chance_corrected``. ``settled``: both give the same full order, no ties.
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
    k = len(_places(black.tiers).keys() & _places(white.tiers).keys())
    if k == 0:
        raise ValueError(f"prompt {black.prompt_id}: the two rankings share no candidate")
    ids = _longest_common(black.tiers, white.tiers, white.scores)
    settled = black.tiers == white.tiers and len(black.tiers) == k
    return Agreement(black.prompt_id, ids, len(ids), k, chance_corrected(len(ids), k), settled)


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
    first, second = _places(black), _places(white)
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


def _places(tiers: Sequence[Sequence[str]]) -> dict[str, int]:
    """Number of the tier of each id, in ranking order."""
    places = {i: place for place, tier in enumerate(tiers) for i in tier}
    if len(places) != sum(len(tier) for tier in tiers):
        raise ValueError(f"expected each candidate once in a ranking, got {tiers}")
    return places


def kendall_tau(first: Ranking | Sequence[str], second: Ranking | Sequence[str]) -> float:
    """Kendall's tau-b in [-1, 1] of two orders (ids best first) or rankings, over the candidates both have.

    0.0 where it is undefined: fewer than two common candidates, or one ranking ties them all.
    """
    a, b = (_places(r.tiers if isinstance(r, Ranking) else [(i,) for i in r]) for r in (first, second))
    balance = untied_a = untied_b = 0
    for i, j in combinations([i for i in a if i in b], 2):
        sign_a, sign_b = _sign(a[j] - a[i]), _sign(b[j] - b[i])
        balance += sign_a * sign_b
        untied_a += abs(sign_a)
        untied_b += abs(sign_b)
    return balance / math.sqrt(untied_a * untied_b) if untied_a and untied_b else 0.0


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def kemeny(passes: Sequence[Sequence[str]]) -> Tiers:
    """Consensus with the fewest pairwise disagreements with the passes, exact, in O(2^K K^2).

    Among several optimal orders those that put more votes first (least sum of place times comparisons won).
    Where that leaves several, none of them is made up to be the verdict: a tier ends only where all of them
    have the same candidates before, and ids in it stand by name.

    Raises:
        ValueError: no pass, or passes over different candidates.
    """
    ids = _common_ids(passes)
    wins, against = _wins(passes), _defeats(passes, ids)
    k, everyone = len(ids), (1 << len(ids)) - 1
    votes_above = len(passes) * k**3 + 1  # more than any sum of place times wins

    def cost(item: int, before: int) -> int:
        """Of an item that stands after the set ``before`` and ahead of all others."""
        others = everyone & ~before
        disagreements = sum(against[item][o] for o in range(k) if others >> o & 1)
        return disagreements * votes_above + before.bit_count() * wins[ids[item]]

    heads = _optimal_heads(k, cost)
    sizes = Counter(head.bit_count() for head in heads)
    cuts = sorted((head for head in heads if sizes[head.bit_count()] == 1), key=int.bit_count)
    return tuple(tuple(ids[i] for i in range(k) if (after & ~before) >> i & 1) for before, after in pairwise(cuts))


def _optimal_heads(k: int, cost: Callable[[int, int], int]) -> list[int]:
    """Bit sets of items that some order of least total cost begins with: shortest paths over the 2^K sets."""
    everyone = (1 << k) - 1
    steps = [
        (before, before | 1 << item, cost(item, before))
        for before in range(everyone)
        for item in range(k)
        if not before >> item & 1
    ]
    least: list[float] = [0] + [math.inf] * everyone  # of the items in the set, put first
    for before, after, price in steps:  # a set comes after all its subsets
        least[after] = min(least[after], least[before] + price)
    rest: list[float] = [math.inf] * everyone + [0]  # of the items outside, put last
    for before, after, price in reversed(steps):
        rest[before] = min(rest[before], rest[after] + price)
    return [head for head in range(everyone + 1) if least[head] + rest[head] == least[everyone]]


def _defeats(passes: Sequence[Sequence[str]], ids: Sequence[str]) -> list[list[int]]:
    """Entry [i][j]: passes that put j before i."""
    places = [_places([(i,) for i in order]) for order in passes]
    return [[sum(p[j] < p[i] for p in places) for j in ids] for i in ids]


def _common_ids(passes: Sequence[Sequence[str]]) -> list[str]:
    """The passes' candidates by name."""
    if not passes:
        raise ValueError("expected at least one pass, got none")
    ids = sorted(passes[0])
    if len(set(ids)) != len(ids) or any(sorted(order) != ids for order in passes):
        raise ValueError(f"expected passes over the same candidates, each once, got {[list(p) for p in passes]}")
    return ids


def _wins(passes: Sequence[Sequence[str]]) -> dict[str, int]:
    """Pairwise comparisons over the passes that each id won."""
    return {i: sum(len(order) - 1 - order.index(i) for order in passes) for i in _common_ids(passes)}


def vote_shares(passes: Sequence[Sequence[str]]) -> dict[str, float]:
    """Share of all pairwise comparisons over the passes that each id won; sums to 1 (a lone id has all).

    Raises:
        ValueError: no pass, or passes over different candidates.
    """
    wins = _wins(passes)
    comparisons = sum(wins.values())
    return {i: won / comparisons if comparisons else 1.0 for i, won in wins.items()}


def borda(passes: Sequence[Sequence[str]]) -> Tiers:
    """Consensus by the number of comparisons won; equal numbers share a tier, ids in it by name."""
    return Ranking.from_scores("", vote_shares(passes)).tiers


def aggregate(prompt_id: str, passes: Sequence[Sequence[str]]) -> Ranking:
    """One ranking from ``m`` orders of the same candidates, ids best first.

    Consensus by ``kemeny`` up to ``KEMENY_LIMIT`` candidates, else ``borda``; votes by ``vote_shares``;
    confidence is the mean Kendall tau over pairs of passes, None for one pass.

    Raises:
        ValueError: no pass, or passes over different candidates.
    """
    tiers = kemeny(passes) if len(_common_ids(passes)) <= KEMENY_LIMIT else borda(passes)
    taus = [kendall_tau(a, b) for a, b in combinations(passes, 2)]
    return Ranking(
        prompt_id=prompt_id,
        tiers=tiers,
        votes=vote_shares(passes),
        confidence=math.fsum(taus) / len(taus) if taus else None,
        passes=tuple(tuple(order) for order in passes),
    )


def order_utilities(ranking: Ranking) -> dict[str, float]:
    """Linear utilities from an order alone: K - 1 for the best to 0 for the last; a tier shares its mean."""
    utilities: dict[str, float] = {}
    below = sum(len(tier) for tier in ranking.tiers)
    for tier in ranking.tiers:
        below -= len(tier)
        utilities.update(dict.fromkeys(tier, below + (len(tier) - 1) / 2))
    return utilities


def vote_utilities(votes: Mapping[str, float]) -> dict[str, float]:
    """log(share + ``VOTE_EPSILON``): their softmax gives the vote shares back, to within epsilon."""
    return {i: math.log(share + VOTE_EPSILON) for i, share in votes.items()}


def taught_tiers(ranking: Ranking) -> Tiers:
    """The tiers that anything is trained on: those of the ranking, but where a cascade pruned.

    The pruned ones are then tied below the judged: their order is nobody's verdict.
    """
    if not 0 < len(ranking.judged) < len(ranking.order):
        return ranking.tiers
    judged = tuple(tier for tier in ranking.tiers if tier[0] in ranking.judged)
    return (*judged, tuple(i for i in ranking.order if i not in ranking.judged))


def teacher_utilities(ranking: Ranking) -> dict[str, float]:
    """What a ranking tells a loss, higher is better: its scores, else its votes over two passes or more, else
    its order. The first two have magnitudes, the last has not.

    Of a list that a cascade pruned, only the order of ``taught_tiers``.
    """
    if 0 < len(ranking.judged) < len(ranking.order):
        return order_utilities(Ranking(prompt_id=ranking.prompt_id, tiers=taught_tiers(ranking)))
    if ranking.scores is not None:
        return dict(ranking.scores)
    if ranking.votes is not None and len(ranking.passes) >= 2:
        return vote_utilities(ranking.votes)
    return order_utilities(ranking)
