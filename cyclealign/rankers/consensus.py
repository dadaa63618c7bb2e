"""Several orders, or scorings, of one list into one: Kemeny, Borda, vote shares, means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from cyclealign.rankers.agreement import Tiers, given_of, kendall_tau, places_of, tiers_of
from cyclealign.types import Ranking

KEMENY_LIMIT = 8
"""Longest list that ``aggregate`` gives to ``kemeny``, which looks at 2^K sets; above it takes ``borda``."""


Passes = Sequence[Sequence[str | tuple[str, ...]]]
"""Of the same candidates, as ``Ranking.passes`` has them: two that a pass ties are no comparison lost or won."""


def kemeny(passes: Passes) -> Tiers:
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
    votes_above = 2 * len(passes) * k**3 + 1  # more than any sum of place times wins

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


def _defeats(passes: Passes, ids: Sequence[str]) -> list[list[int]]:
    """Entry [i][j]: passes that put j before i."""
    places = [places_of(tiers_of(order)) for order in passes]
    return [[sum(p[j] < p[i] for p in places) for j in ids] for i in ids]


def _common_ids(passes: Passes) -> list[str]:
    """The passes' candidates by name."""
    if not passes:
        raise ValueError("expected at least one pass, got none")
    named = [sorted(i for tier in tiers_of(order) for i in tier) for order in passes]
    ids = named[0]
    if len(set(ids)) != len(ids) or any(own != ids for own in named):
        raise ValueError(f"expected passes over the same candidates, each once, got {[list(p) for p in passes]}")
    return ids


def _wins(passes: Passes) -> dict[str, int]:
    """Twice the pairwise comparisons over the passes that each id won; a tie is half a win for both."""
    wins = dict.fromkeys(_common_ids(passes), 0)
    for order in passes:
        below = len(wins)
        for tier in tiers_of(order):
            below -= len(tier)
            for i in tier:
                wins[i] += 2 * below + len(tier) - 1
    return wins


def vote_shares(passes: Passes) -> dict[str, float]:
    """Share of all pairwise comparisons over the passes that each id won; sums to 1 (a lone id has all).

    Raises:
        ValueError: no pass, or passes over different candidates.
    """
    wins = _wins(passes)
    comparisons = sum(wins.values())
    return {i: won / comparisons if comparisons else 1.0 for i, won in wins.items()}


def borda(passes: Passes) -> Tiers:
    """Consensus by the number of comparisons won; equal numbers share a tier, ids in it by name."""
    return Ranking.from_scores("", vote_shares(passes)).tiers


def aggregate(prompt_id: str, passes: Passes) -> Ranking:
    """One ranking from ``m`` orders of the same candidates, ids best first.

    Consensus by ``kemeny`` up to ``KEMENY_LIMIT`` candidates, else ``borda``; votes by ``vote_shares``;
    confidence is the mean Kendall tau over pairs of passes, None for one pass.

    Raises:
        ValueError: no pass, or passes over different candidates.
    """
    ids = _common_ids(passes)
    alike = {tuple(tuple(sorted(tier)) for tier in tiers_of(order)) for order in passes}
    if len(alike) == 1:  # as of one pass alone: either consensus is that order
        return _over(prompt_id, alike.pop(), passes)
    return _over(prompt_id, kemeny(passes) if len(ids) <= KEMENY_LIMIT else borda(passes), passes)


def mean_scores(prompt_id: str, passes: Sequence[Mapping[str, float]]) -> Ranking:
    """One ranking from ``m`` scorings of the same candidates, higher is better: by their means, equal ones tied. The
    rest is as ``aggregate`` has it of the orders that the scorings are.

    Raises:
        ValueError: no pass, or passes over different candidates.
    """
    orders = [given_of(Ranking.from_scores("", own).tiers) for own in passes]
    means = {i: math.fsum(own[i] for own in passes) / len(passes) for i in _common_ids(orders)}
    ranked = Ranking.from_scores(prompt_id, means)
    return replace(_over(prompt_id, ranked.tiers, orders), scores=means)


def _over(prompt_id: str, tiers: Tiers, passes: Passes) -> Ranking:
    taus = [kendall_tau(a, b) for a, b in combinations(passes, 2)]
    return Ranking(
        prompt_id=prompt_id,
        tiers=tiers,
        votes=vote_shares(passes),
        confidence=math.fsum(taus) / len(taus) if taus else None,
        passes=tuple(tuple(order) for order in passes),
    )
