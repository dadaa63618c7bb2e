"""Arms of a reproduction against each other: the same items, several seeds, a paired difference and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cyclealign.evaluation.intervals import Z95
from cyclealign.evaluation.statistics import DRAWS, Estimate, Figures, Vector

Conclusion = Literal["holds", "not shown", "refuted"]
POWER80 = 0.8416212335729143  # normal quantile


def crossed_difference(first: Vector, second: Vector, *, seed: int = 0) -> Estimate:
    """Mean of ``second - first`` over [seeds, items], with a 95% interval that draws both with replacement.

    Raises:
        ValueError: shapes that differ, or are not [seeds, items].
    """
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise ValueError(f"expected the same [seeds, items] twice, got {first.shape} and {second.shape}")
    gains: NDArray[np.float64] = second - first
    seeds, items = gains.shape
    rng = np.random.default_rng(seed)
    # A draw of indices as counts of each: the mean of the drawn table is then one product.
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    of_items = rng.multinomial(items, np.full(items, 1 / items), size=DRAWS) / items
    means = ((of_seeds @ gains) * of_items).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(gains.mean()), float(low), float(high), items)


def conclusion(estimate: Estimate, *, bar: float = 0.0) -> Conclusion:
    """Of the claim that what is estimated lies above the bar: what the interval says."""
    if estimate.low is None or estimate.high is None or estimate.low <= bar <= estimate.high:
        return "not shown"
    return "holds" if estimate.low > bar else "refuted"


def smallest_detectable(difference: Estimate) -> float:
    """The difference that such an interval would leave out zero for in 80 of 100 repeats."""
    width = (difference.high or 0.0) - (difference.low or 0.0)
    return (Z95 + POWER80) * width / (2 * Z95)


def claim_record(estimate: Estimate, *, bar: float = 0.0) -> Figures:
    """As it stands in a result file: the estimate, what could have been seen, and the verdict on the claim."""
    seen = {"smallest_detectable": smallest_detectable(estimate), "verdict": conclusion(estimate, bar=bar)}
    return estimate.record() | seen


def compare_arms(values: Mapping[str, Sequence[Sequence[float]]], claims: Sequence[tuple[str, str]]) -> list[Figures]:
    """Each claim (better arm, other arm) with its difference, its verdict and what could have been seen.

    values: of each arm, [seeds, items], the same items in the same order.
    """
    tables = {name: np.asarray(rows, dtype=np.float64) for name, rows in values.items()}
    rows: list[Figures] = []
    for better, other in claims:
        found = crossed_difference(tables[other], tables[better])
        rows.append({"claim": f"{better} above {other}", "seeds": len(tables[better]), **claim_record(found)})
    return rows
