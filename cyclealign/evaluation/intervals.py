"""The interval of a share, one for all who report one. Standard library only."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # normal quantile of a two-sided 95% interval


def wilson(share: float, n: int) -> tuple[float, float]:
    """95% interval of a share of ``n`` trials (Wilson 1927); (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    z2 = Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
