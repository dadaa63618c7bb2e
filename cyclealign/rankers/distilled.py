"""A local ranker distilled from the rankings of a judge: pairwise logistic regression on a few frozen features.

Fitted in a fraction of a second, exactly (a convex problem), and small enough to be read: a weight for each feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cyclealign.files.run_figures import CascadeFit
from cyclealign.rankers.scored import ranked_by
from cyclealign.types import CandidateSet, RankContext, Ranking, Unranked, derive_seed

Vector = NDArray[np.float64]
FOLDS = 5
RIDGE = 1.0  # on standardised weights: matters while there are few pairs
STEPS = 50


class Features(Protocol):
    """What a local ranker sees of the candidates of a list: numbers [K, F], the same whatever their order."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, item: CandidateSet) -> Vector: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """Weights by feature; the difference of two scores is the log-odds that the judge prefers the first.

    lists: rankings that it was fitted on. accuracy: mean over lists of the share of pairs that a fit on other
    prompts orders as the judge did; error: its standard error. alone_from: expected agreement from which on it may
    answer alone; None: never. calibration: lists that it was not fitted on, by which that was found.
    """

    weights: Mapping[str, float]
    lists: int
    accuracy: float
    error: float
    alone_from: float | None = None
    calibration: int | None = None

    @property
    def useful(self) -> bool:
        """Whether it orders unseen pairs better than chance, by 1.96 standard errors: else it must not prune."""
        return self.accuracy - 1.96 * self.error > 0.5

    def scores(self, features: Features, item: CandidateSet) -> dict[str, float]:
        """Score of each candidate id, higher is better."""
        weights = np.array([self.weights[name] for name in features.names])
        return {i: math.fsum(row * weights) for i, row in zip(item.ids, features(item), strict=True)}

    def record(self) -> CascadeFit:
        return CascadeFit(
            lists=self.lists,
            accuracy=self.accuracy,
            error=self.error,
            useful=self.useful,
            weights=self.weights,
            alone_from=self.alone_from,
            calibration=self.calibration,
        )

    @staticmethod
    def from_record(record: CascadeFit) -> Distilled | None:
        """None where nothing was fitted yet."""
        if record.weights is None or record.lists is None or record.accuracy is None or record.error is None:
            return None
        return Distilled(
            weights=record.weights,
            lists=record.lists,
            accuracy=record.accuracy,
            error=record.error,
            alone_from=record.alone_from,
            calibration=record.calibration,
        )


def expected_agreement(scores: Mapping[str, float]) -> float:
    """Share of a list's pairs that the judge is expected to order as the scores do: mean of sigmoid |s_i - s_j|."""
    return fmean(1 / (1 + math.exp(-abs(a - b))) for a, b in combinations(scores.values(), 2))


def distil(lists: Iterable[tuple[CandidateSet, Ranking]], features: Features) -> Distilled | None:
    """Fit on the pairs that the judge ordered; what a cascade added to its rankings takes no part.

    Scores are scaled by what the fits of five folds make of the fold left out, all lists of one prompt in one fold:
    in-sample scores would be too sure of themselves. None where fewer than two folds have pairs.
    """
    found = [(item, _differences(item, ranking, features)) for item, ranking in lists]
    pairs = [(derive_seed("fold", item.prompt.id) % FOLDS, rows) for item, rows in found if len(rows)]
    folds = sorted({fold for fold, _ in pairs})
    if len(folds) < 2:
        return None
    everything = np.concatenate([rows for _, rows in pairs])
    held_out = []
    for fold in folds:
        weights = _fit(np.concatenate([rows for other, rows in pairs if other != fold]))
        held_out += [rows @ weights for other, rows in pairs if other == fold]
    margins = np.concatenate(held_out)
    shares = [float(np.mean((m > 0) + 0.5 * (m == 0))) for m in held_out]
    # A fit that others do not bear out at all has scale 0: it is then sure of nothing.
    scale = max(0.0, float(_fit(margins[:, None])[0]))
    weights = scale * _fit(everything)
    return Distilled(
        weights=dict(zip(features.names, weights.tolist(), strict=True)),
        lists=len(pairs),
        accuracy=fmean(shares),
        error=stdev(shares) / math.sqrt(len(shares)),
    )


def _differences(item: CandidateSet, ranking: Ranking, features: Features) -> Vector:
    """Features of the preferred minus those of the other, for each pair that the judge ordered [P, F]."""
    rows = dict(zip(item.ids, features(item), strict=True))
    place = {i: n for n, tier in enumerate(ranking.tiers) for i in tier}
    ordered = [(a, b) for a, b in combinations(ranking.judged, 2) if place[a] < place[b]]
    found = [rows[a] - rows[b] for a, b in ordered]
    return np.array(found, dtype=np.float64).reshape(len(ordered), len(features.names))


def _fit(differences: Vector) -> Vector:
    """Weights [F] that minimise the sum of log(1 + exp(-w.d)) + RIDGE/2 |w std|^2, by Newton's method."""
    spread = np.sqrt(np.mean(differences**2, axis=0))
    x = differences / np.where(spread > 0, spread, 1.0)
    weights = np.zeros(x.shape[1])
    value = _objective(x, weights)
    for _ in range(STEPS):
        wrong = 1 / (1 + np.exp(np.clip(x @ weights, -700, 700)))
        gradient = RIDGE * weights - wrong @ x
        curvature = (x * (wrong * (1 - wrong))[:, None]).T @ x + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (lower := _objective(x, weights - size * step)) > value and size > 1e-6:
            size /= 2  # a full step may overshoot where the pairs are separable
        weights, value = weights - size * step, lower
        if float(np.abs(size * step).max()) < 1e-10:
            break
    return np.asarray(weights / np.where(spread > 0, spread, 1.0), dtype=np.float64)


def _objective(x: Vector, weights: Vector) -> float:
    return float(np.logaddexp(0.0, -(x @ weights)).sum() + RIDGE / 2 * weights @ weights)


class DistilledRanker:
    """Ranks by the local ranker alone, as a cascade does where it is sure; implements ``types.Ranker``."""

    gives: Literal["order", "magnitude"] = "magnitude"

    def __init__(self, distilled: Distilled, features: Features) -> None:
        self._distilled, self._features = distilled, features

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings in the order of the sets; equal scores share a tier."""
        return ranked_by(lambda item: self._distilled.scores(self._features, item), sets)


def lists_of(
    sets: Mapping[str, CandidateSet], rankings: Mapping[str, Ranking]
) -> Sequence[tuple[CandidateSet, Ranking]]:
    """Lists of which the judge ordered at least two, in the order of their prompt ids."""
    return [(sets[i], rankings[i]) for i in sorted(rankings) if i in sets and len(rankings[i].judged) >= 2]
