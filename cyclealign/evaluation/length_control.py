"""The win rate that would be left if both sides wrote equally long answers.

As AlpacaEval 2 does (Dubois et al. 2024, arXiv 2404.04475): a logistic model of who wins, read off at a length
difference of zero. Without its term for the difficulty of each instruction, which needs many models on the
same prompts; so it works on the user's own prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cyclealign.evaluation.statistics import Estimate, expanded_tails

Matrix = NDArray[np.float64]

DRAWS = 1_000  # each is a fit of its own
PORTION = 2_000_000  # cells of one step
STEPS = 50
TOLERANCE = 1e-7
# Of the two slopes: a tenth of an observation keeps a fit finite where length decides every item.
RIDGE = 0.1


def length_controlled(
    outcomes: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float], *, seed: int = 0
) -> Estimate | None:
    """Win rate at equal length, with its bootstrap interval over items; None without two different outcomes.

    logit P(win) = a + b tanh(d / sd(d)) + c sign(d), d the difference of lengths; the estimate is sigmoid(a). The tanh
    is AlpacaEval's: a preference that grows with the difference and levels off. The sign is a preference
    for whichever is longer, by however little; leaving it out puts such a judge's bias into the intercept as soon as
    one side is longer more often.

    Args:
        outcomes: 1 where the first side won, 0 where the other, fractions for ties and split orders.
        lengths, other_lengths: of the first side's and the other's responses, in any one unit.

    Raises:
        ValueError: not as many of the one as of the others.
    """
    won = np.asarray(outcomes, dtype=np.float64)
    difference = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    if won.shape != difference.shape:
        raise ValueError(f"expected one length difference an outcome, got {difference.shape} and {won.shape}")
    n = len(won)
    if n < 2 or float(np.ptp(won)) == 0.0:
        return None
    features = _features(difference)
    (value,) = _sigmoid(_fit(features, won, np.ones((1, n)))[:, 0])
    rng = np.random.default_rng(seed)
    step = max(1, PORTION // n)
    portions = [min(step, DRAWS - first) for first in range(0, DRAWS, step)]
    even = np.full(n, 1 / n)
    drawn = [_fit(features, won, rng.multinomial(n, even, size).astype(np.float64))[:, 0] for size in portions]
    low, high = np.quantile(_sigmoid(np.concatenate(drawn)), expanded_tails(n))
    return Estimate(float(value), float(low), float(high), n)


def _features(difference: Matrix) -> Matrix:
    """[n, 3]: one, tanh of the standardised difference, its sign. All lengths equal: the last two are zero."""
    spread = float(difference.std())
    scale = spread or float(np.abs(difference).max()) or 1.0
    return np.stack([np.ones_like(difference), np.tanh(difference / scale), np.sign(difference)], axis=1)


def _fit(features: Matrix, won: Matrix, weights: Matrix) -> Matrix:
    """[D, 3] coefficients of D weighted logistic regressions, by Newton's method on all of them at once.

    Outcomes are smoothed by a quarter of an observation each way on the intercept (as Agresti and Coull do for shares),
    so that a resample with wins alone stays finite.
    """
    ridge = np.diag([0.0, RIDGE, RIDGE])
    intercept = np.zeros(features.shape[1])
    intercept[0] = 1.0
    coefficients = np.zeros((len(weights), features.shape[1]))
    for _ in range(STEPS):
        expected = _sigmoid(coefficients @ features.T)
        prior = _sigmoid(coefficients[:, 0])
        gradient = (weights * (won - expected)) @ features - coefficients @ ridge
        gradient += 0.5 * (0.5 - prior)[:, None] * intercept
        spread = weights * expected * (1 - expected)
        curvature = np.stack([spread @ (features * column[:, None]) for column in features.T], axis=1) + ridge
        curvature += (0.5 * prior * (1 - prior))[:, None, None] * np.outer(intercept, intercept)
        change = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        coefficients += np.clip(change, -2.0, 2.0)
        if float(np.abs(change).max()) < TOLERANCE:
            break
    return coefficients


def _sigmoid(x: Matrix) -> Matrix:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float64)
