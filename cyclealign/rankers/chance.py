"""How much two random rankings agree: the exact law of their longest common subsequence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache


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
