"""Are the intervals of win rates and paired differences honest, and does length control take a length bias away?

    python evals/judges/interval_honesty.py --out evals/results/interval_honesty.json

Coverage: of 1,000 simulated evals with wins, ties and losses of known shares, in how many the 95% interval holds the
true win rate. Paired: of 4,000 pairs of samples, in how many the interval of the paired difference holds the true one,
and how wide it is; beside the interval of the package the plain and the expanded bootstrap, Student's and the adjusted
Wald. Length control: judges that in a set share of their verdicts prefer the longer answer and otherwise toss
a coin, on sides of which one is longer; how often the raw and the length-controlled interval hold 50%.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cyclealign.evaluation.length_control import length_controlled
from cyclealign.evaluation.statistics import Estimate, bootstrap_mean, expanded_tails, paired_difference
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode

Rows = NDArray[np.float64]

REPEATS = 1_000
LENGTH_REPEATS = 100
PAIRED_REPEATS = 4_000
# Items; shares of losses, ties and wins.
SETTINGS = (
    (50, (0.45, 0.1, 0.45)),
    (100, (0.5, 0.0, 0.5)),
    (100, (0.3, 0.1, 0.6)),
    (200, (0.35, 0.05, 0.6)),
    (200, (0.1, 0.1, 0.8)),
    (500, (0.4, 0.2, 0.4)),
    (1000, (0.45, 0.05, 0.5)),
)
SIZES = (20, 50, 100, 200)
# Paired verdicts: gains (second less first) of each size with their shares.
VERDICT_GAINS = {
    "2% better, 2% worse": ((-1.0, 1.0), (0.02, 0.02)),
    "5% better": ((1.0,), (0.05,)),
    "10% better, 2% worse": ((-1.0, 1.0), (0.02, 0.1)),
    "20% better, 10% worse": ((-1.0, 1.0), (0.1, 0.2)),
    "40% better, 40% worse": ((-1.0, 1.0), (0.4, 0.4)),
    "60% better, 10% worse": ((-1.0, 1.0), (0.1, 0.6)),
    "with ties": ((-1.0, -0.5, 0.5, 1.0), (0.05, 0.1, 0.1, 0.15)),
}
# Other paired values: gains drawn, and their true mean.
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
GAINS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(0.3, 1.0, shape), 0.3),
    "Student's t, 3 degrees": (lambda rng, shape: rng.standard_t(3, shape), 0.0),
    "two of three unmoved": (lambda rng, shape: rng.normal(0.3, 1.0, shape) * (rng.random(shape) < 1 / 3), 0.1),
    "rewards in [0, 1]": (lambda rng, shape: rng.beta(5, 2, shape) - rng.beta(4, 2, shape), 5 / 7 - 4 / 6),
    "exponential": (lambda rng, shape: rng.exponential(1.0, shape), 1.0),
    "lognormal": (lambda rng, shape: rng.lognormal(0.0, 1.0, shape), float(np.exp(0.5))),
}
# Items; share of verdicts by length alone; how much longer the first side is (log of the ratio of medians), its spread.
LENGTHS = ((400, 0.3, 0.3, 0.5), (400, 0.7, 0.3, 0.5), (400, 0.5, 0.6, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [coverage(*setting, seed=n) for n, setting in enumerate(SETTINGS)]
    paired = [*verdict_rows(), *value_rows()]
    biased = [length_bias(*setting, seed=n) for n, setting in enumerate(LENGTHS)]
    found = {"repeats": REPEATS, "coverage": rows, "paired": paired, "length_control": biased}
    write_json(arguments.out, found | {"environment": encode(environment())})
    for row in [*rows, *paired, *biased]:
        print(row)


def coverage(n: int, shares: tuple[float, float, float], *, seed: int) -> dict[str, Any]:
    """In how many repeats the win rate's bootstrap interval holds the truth."""
    rng = np.random.default_rng(seed)
    truth = shares[2] + shares[1] / 2
    draws = rng.choice([0.0, 0.5, 1.0], (REPEATS, n), p=shares)
    found = [bootstrap_mean(row.tolist(), seed=number) for number, row in enumerate(draws)]
    return {"items": n, "loss_tie_win": shares, "true_win_rate": truth, "covered": sum(holds(e, truth) for e in found)}


def verdict_rows() -> Iterator[dict[str, Any]]:
    for n in SIZES:
        for name, (sizes, shares) in VERDICT_GAINS.items():
            rng = np.random.default_rng(n)
            gains = rng.choice((*sizes, 0.0), (PAIRED_REPEATS, n), p=(*shares, 1 - sum(shares)))
            # Verdicts that differ by so much: a gain of 1/2 is from a tie.
            first = np.where(np.abs(gains) == 0.5, 0.5, (gains < 0).astype(np.float64))
            truth = float(np.dot(sizes, shares))
            yield paired_row(name, first, gains, truth) | {"adjusted_wald": honesty(adjusted_wald(gains), truth)}


def value_rows() -> Iterator[dict[str, Any]]:
    for n in SIZES:
        for name, (draw, truth) in GAINS.items():
            rng = np.random.default_rng(n)
            gains = draw(rng, (PAIRED_REPEATS, n))
            yield paired_row(name, rng.normal(0.0, 1.0, gains.shape), gains, truth)


def paired_row(name: str, first: Rows, gains: Rows, truth: float) -> dict[str, Any]:
    """Coverage in percent and mean width of each interval of the difference."""
    n = gains.shape[1]
    found = [paired_difference(a, b) for a, b in zip(first.tolist(), (first + gains).tolist(), strict=True)]
    ours = [e.interval or (e.value, e.value) for e in found if e is not None]
    half = stats.t.ppf(0.975, n - 1) * gains.std(axis=1, ddof=1) / np.sqrt(n)
    means = gains.mean(axis=1)
    return {
        "gains": name,
        "items": n,
        "ours": honesty(np.asarray(ours).T, truth),
        "student": honesty(np.stack([means - half, means + half]), truth),
        "bootstrap": honesty(bootstrap(gains, (0.025, 0.975)), truth),
        "expanded_bootstrap": honesty(bootstrap(gains, expanded_tails(n)), truth),
    }


def honesty(ends: Rows, truth: float) -> tuple[float, float]:
    """Coverage in percent, mean width."""
    held = (ends[0] <= truth) & (truth <= ends[1])
    return round(100 * float(held.mean()), 1), round(float((ends[1] - ends[0]).mean()), 4)


def adjusted_wald(gains: Rows) -> Rows:
    """As published: half an item more in each of the four cells."""
    n = gains.shape[1] + 2
    mean = gains.sum(axis=1) / n
    half = stats.norm.ppf(0.975) * np.sqrt((((gains**2).sum(axis=1) + 1) / n - mean**2) / n)
    return np.stack([np.maximum(-1, mean - half), np.minimum(1, mean + half)])


def bootstrap(gains: Rows, tails: tuple[float, float]) -> Rows:
    """Of 1,000 resamples, the same for all repeats: their means are then one product."""
    n = gains.shape[1]
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=1_000) / n
    return np.concatenate([np.quantile(part @ drawn.T, tails, axis=1) for part in np.split(gains, 8)], axis=1)


def length_bias(n: int, p: float, longer: float, spread: float, *, seed: int) -> dict[str, Any]:
    """Raw and length-controlled win rate of a side that is no better, only longer, over both orders of every item."""
    rng = np.random.default_rng(seed)
    raw: list[Estimate | None] = []
    controlled: list[Estimate | None] = []
    first_is_longer = 0.0
    for number in range(LENGTH_REPEATS):
        mine, other = (rng.lognormal(5 + shift, spread, n).round() for shift in (longer, 0.0))
        by_length = (np.sign(mine - other) + 1) / 2
        verdicts = [np.where(rng.random(n) < p, by_length, rng.integers(0, 2, n)) for _ in range(2)]
        outcomes = ((verdicts[0] + verdicts[1]) / 2).tolist()
        raw.append(bootstrap_mean(outcomes, seed=number))
        controlled.append(length_controlled(outcomes, mine.tolist(), other.tolist(), seed=number))
        first_is_longer += float((mine > other).mean()) / LENGTH_REPEATS
    return {
        "items": n,
        "share_by_length": p,
        "first_is_longer": round(first_is_longer, 3),
        "raw_mean": round(float(np.mean([e.value for e in raw if e])), 4),
        "raw_holds_half": sum(holds(e, 0.5) for e in raw) / LENGTH_REPEATS,
        "controlled_mean": round(float(np.mean([e.value for e in controlled if e])), 4),
        "controlled_holds_half": sum(holds(e, 0.5) for e in controlled) / LENGTH_REPEATS,
    }


def holds(estimate: Estimate | None, truth: float) -> bool:
    return estimate is not None and estimate.low is not None and estimate.low <= truth <= (estimate.high or 0.0)


if __name__ == "__main__":
    main()
