"""Does the corrected win rate's interval hold the true one? Judges of known errors, 1,000 simulated evals each.

    python evals/judges/corrected_win_rate.py --out evals/results/corrected_win_rate.json

Side a is better in a share theta of the pairs, drawn from [0.2, 0.8]; the judge is right on q1 of these and on q0 of
the others, both drawn from [0.75, 0.95]. It judges 300 pairs, and labels of other pairs measure it, by the functions
of ``cyclealign eval winrate --calibration``. Labels by side: so many pairs of each class. Labels of any pairs: the
errors depend on the slot of the better reply instead, every pair is judged in both orders (a tie where they differ),
and half of the pairs are hard or easy in both orders alike. Beside each: the raw win rate with its own interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cyclealign.evaluation.calibration import Calibration, corrected
from cyclealign.evaluation.statistics import Estimate, Vector, share
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode

JUDGES, PAIRS, LABELS = 1_000, 300, 150
THETA, RIGHT = (0.2, 0.8), (0.75, 0.95)
ALIKE = 0.5  # of the pairs that are judged in both orders, those whose two answers are one
Eval = tuple[list[float], Calibration, float]
Draw = Callable[[np.random.Generator, int, int], Eval]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judges", type=int, default=JUDGES)
    arguments = parser.parse_args()
    sizes = [(PAIRS, LABELS), (PAIRS, 50), (PAIRS, 400), (100, LABELS), (2_000, LABELS)]
    rows = [row(name, arguments.judges, *size) for name in DESIGNS for size in sizes]
    write_json(arguments.out, {"judges": arguments.judges, "rows": rows, "environment": encode(environment())})
    for found in rows:
        print(found)


def row(design: str, judges: int, pairs: int, labels: int) -> dict[str, Any]:
    """In how many evals the interval holds theta; how far off the estimates are."""
    found = [simulated(DESIGNS[design], seed, pairs, labels) for seed in range(judges)]
    return {
        "labels": design,
        "pairs": pairs,
        "labels a class": labels,
        "corrected": coverage([(estimate, theta) for estimate, _, theta in found]),
        "raw": coverage([(raw, theta) for _, raw, theta in found]),
    }


def simulated(draw: Draw, seed: int, pairs: int, labels: int) -> tuple[Estimate, Estimate, float]:
    values, errors, theta = draw(np.random.default_rng(seed), pairs, labels)
    estimate, raw = corrected(values, errors), share(sum(values), len(values))
    assert estimate is not None
    assert raw is not None
    return estimate, raw, theta


def coverage(found: Sequence[tuple[Estimate, float]]) -> dict[str, Any]:
    held = share(sum(e.low is not None and e.high is not None and e.low <= t <= e.high for e, t in found), len(found))
    assert held is not None
    return {
        "interval holds theta": held.record(),
        "mean error": round(fmean(e.value - t for e, t in found), 4),
        "mean width": round(fmean((e.high or 0) - (e.low or 0) for e, _ in found), 4),
    }


def by_side(rng: np.random.Generator, pairs: int, labels: int) -> Eval:
    """Labels of the same two sides: the judge favours one of them."""
    theta, q0, q1 = rng.uniform(*THETA), *rng.uniform(*RIGHT, size=2)
    better = rng.random(pairs) < theta
    right = rng.random(pairs) < np.where(better, q1, q0)
    a, b = (tuple(map(float, rng.random(labels) < q)) for q in (q1, q0))
    values = [float(x) for x in np.where(right, better, ~better)]
    return values, Calibration(a_better=a, b_better=b, shared=False), float(theta)


def of_any_pairs(rng: np.random.Generator, pairs: int, labels: int) -> Eval:
    """Labels of any pairs, each judged in both orders: the judge favours a slot."""
    theta, q0, q1 = rng.uniform(*THETA), *rng.uniform(*RIGHT, size=2)

    def credits(n: int) -> Vector:
        """Mean of the two answers about each pair, 1 where the better reply won."""
        looks = rng.random((2, n))
        looks[1] = np.where(rng.random(n) < ALIKE, looks[0], looks[1])
        found: Vector = ((looks[0] < q1).astype(np.float64) + (looks[1] < q0)) / 2
        return found

    better = rng.random(pairs) < theta
    found = credits(pairs)
    measured = tuple(map(float, credits(labels)))
    values = [float(x) for x in np.where(better, found, 1 - found)]
    return values, Calibration(a_better=measured, b_better=measured, shared=True), float(theta)


DESIGNS: dict[str, Draw] = {"by side": by_side, "of any pairs, both orders": of_any_pairs}


if __name__ == "__main__":
    main()
