"""A judge's accuracy on labelled pairs and paired differences, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyclealign.curation.asking import Outcome
from cyclealign.evaluation.intervals import Z95, wilson


@dataclass(frozen=True)
class Accuracy:
    """Over the pairs that got a verdict; the interval is Wilson's, 95%. ``asked`` counts all."""

    value: float | None
    low: float
    high: float
    ranked: int
    asked: int
    unranked: Mapping[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        interval = {"accuracy": self.value, "low": self.low, "high": self.high}
        return interval | {"ranked": self.ranked, "asked": self.asked, "unranked": dict(self.unranked)}


def accuracy_of(outcomes: Sequence[Outcome]) -> Accuracy:
    """Mean score of the ranked pairs. Where ties give half points, the interval runs from that of the floor to that of
    the ceiling."""
    scores = [o.score for o in outcomes if o.score is not None]
    reasons: list[str] = [o.unranked for o in outcomes if o.unranked is not None]
    unranked = {r: reasons.count(r) for r in sorted(set(reasons))}
    if not scores:
        return Accuracy(None, 0.0, 1.0, 0, len(outcomes), unranked)
    total = sum(scores)
    n = len(scores)
    low, high = wilson(math.floor(total) / n, n)[0], wilson(math.ceil(total) / n, n)[1]
    return Accuracy(total / len(scores), low, high, len(scores), len(outcomes), unranked)


@dataclass(frozen=True)
class Difference:
    """First accuracy minus second, over the pairs that both ranked; 95%."""

    value: float
    low: float
    high: float
    pairs: int

    def record(self) -> dict[str, float | int]:
        return {"difference": self.value, "low": self.low, "high": self.high, "pairs": self.pairs}


def paired_difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> Difference | None:
    """With the adjusted Wald interval for matched pairs (Agresti and Min 2005, Statistics in Medicine 24:729).

    It adds half a pair to each of the four cells, so that it has a width where no pair differs. None where no pair got
    a verdict from both.
    """
    both = zip(first, second, strict=True)
    gaps = [a.score - b.score for a, b in both if a.score is not None and b.score is not None]
    if not gaps:
        return None
    n = len(gaps) + 2
    mean = sum(gaps) / n  # the added pairs sum to 0
    variance = (sum(g * g for g in gaps) + 1) / n - mean * mean
    half = Z95 * math.sqrt(variance / n)
    return Difference(sum(gaps) / len(gaps), max(-1.0, mean - half), min(1.0, mean + half), len(gaps))
