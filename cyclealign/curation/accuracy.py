"""A judge's accuracy on labelled pairs and paired differences, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyclealign.curation.asking import Outcome
from cyclealign.evaluation.intervals import wilson
from cyclealign.evaluation.statistics import Estimate, paired_difference


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


def gain(first: Sequence[Outcome], second: Sequence[Outcome]) -> Estimate | None:
    """Second accuracy minus the first, over the pairs that both ranked; None where there is no such pair."""
    both = zip(first, second, strict=True)
    scores = [(a.score, b.score) for a, b in both if a.score is not None and b.score is not None]
    return paired_difference([a for a, _ in scores], [b for _, b in scores])
