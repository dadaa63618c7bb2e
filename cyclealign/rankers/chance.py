"""How much two random rankings agree: the law of their longest common subsequence, also where they have ties."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import accumulate

Sizes = tuple[int, ...]  # of a ranking's tiers, best first
EXACT_UP_TO = 8  # candidates; above, the mean of rankings with ties is that of DRAWS of them
DRAWS = 4000


@cache
def lcs_distribution(k: int) -> tuple[Fraction, ...]:
    """P(LCS = 0), ..., P(LCS = k) of two random orders of ``k`` items, exact.

    The LCS is the longest increasing subsequence of one random order, and that is the first row of its
    Robinson-Schensted shape; a shape has the probability f^2 / k!, f by the hook-length formula.
    """
    weight = [Fraction(0)] * (k + 1)
    for shape in _partitions(k, k):
        columns = [sum(row > c for row in shape) for c in range(shape[0] if shape else 0)]
        hooks = math.prod((row - c) + (columns[c] - r) - 1 for r, row in enumerate(shape) for c in range(row))
        weight[shape[0] if shape else 0] += Fraction(math.factorial(k), hooks * hooks)
    return tuple(weight)


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """All ways to write ``total`` as a falling sum of parts, none above ``largest``."""
    if total == 0:
        yield ()
    for part in range(min(total, largest), 0, -1):
        for rest in _partitions(total - part, part):
            yield (part, *rest)


def expected_lcs(k: int) -> float:
    """Mean length of the LCS of two random orders of ``k`` items: 1.5 for 2, 2.0 for 3, 2.4167 for 4."""
    return float(_expected(k))


def _expected(k: int) -> Fraction:
    return sum((length * p for length, p in enumerate(lcs_distribution(k))), Fraction(0))


def chance_corrected(length: int, k: int) -> float:
    """(length - E) / (k - E), E the expected LCS: 1 is full agreement, 0 what chance gives, below 0 worse.

    0 for ``k`` <= 1, where every order is the same and agreement says nothing.
    """
    if k <= 1:
        return 0.0
    expected = _expected(k)
    return float((length - expected) / (k - expected))


def expected_lcs_of(first: Sizes, second: Sizes) -> float:
    """Mean length of the LCS of two random rankings with tiers of these sizes: 1 where one of them ties everything.

    A tie agrees with nothing (``agreement.agree``), so rankings with ties agree less by chance too.

    Raises ValueError where they are not of as many candidates.
    """
    k = sum(first)
    if k != sum(second):
        raise ValueError(f"expected rankings of as many candidates, got {k} and {sum(second)}")
    if max(*first, *second) == 1:
        return expected_lcs(k)
    return float(_exact(first, second)) if k <= EXACT_UP_TO else _drawn(first, second)


def chance_corrected_of(length: int, first: Sizes, second: Sizes) -> float:
    """``chance_corrected`` of rankings with tiers of these sizes; E is what such rankings have in common by chance.

    Full agreement, 1, needs a full order: what ties leave open is no agreement. A ranking that ties everything has 0.
    """
    k = sum(first)
    if k <= 1:
        return 0.0
    if max(*first, *second) == 1:
        return chance_corrected(length, k)
    expected = expected_lcs_of(first, second)
    return (length - expected) / (k - expected)


@cache
def _exact(first: Sizes, second: Sizes) -> Fraction:
    """By tiers of ``first``: how many ways lead to each (items left of each tier of ``second``, longest chains)."""
    states: dict[tuple[Sizes, Sizes], int] = {(second, (0,) * len(second)): 1}
    for size in first:
        following: dict[tuple[Sizes, Sizes], int] = defaultdict(int)
        for (left, chains), ways in states.items():
            for taken in _shares(size, left):
                rest = tuple(n - t for n, t in zip(left, taken, strict=True))
                choices = math.prod(map(math.comb, left, taken))
                following[rest, _longer(chains, taken)] += ways * choices
        states = following
    total = sum(states.values())
    return sum((Fraction(max(chains) * ways, total) for (_, chains), ways in states.items()), Fraction(0))


def _shares(size: int, left: Sizes) -> Iterator[Sizes]:
    """All ways to take ``size`` items from tiers that have ``left``."""
    if not left:
        if size == 0:
            yield ()
        return
    for n in range(min(size, left[0]) + 1):
        yield from ((n, *rest) for rest in _shares(size - n, left[1:]))


def _longer(chains: Sizes, taken: Sequence[int]) -> Sizes:
    """Longest chains that end in each tier of the second ranking, after one more tier of the first."""
    before = (0, *accumulate(chains, max))
    return tuple(max(c, before[i] + 1) if taken[i] else c for i, c in enumerate(chains))


@cache
def _drawn(first: Sizes, second: Sizes) -> float:
    draw = random.Random(0)  # noqa: S311  seeded, to be repeated
    places = [tier for tier, size in enumerate(second) for _ in range(size)]
    total = 0
    for _ in range(DRAWS):
        draw.shuffle(places)
        at, chains = 0, (0,) * len(second)
        for size in first:
            here = places[at : at + size]
            chains = _longer(chains, [here.count(tier) for tier in range(len(second))])
            at += size
        total += max(chains)
    return total / DRAWS
