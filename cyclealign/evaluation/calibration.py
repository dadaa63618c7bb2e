"""A win rate corrected for the errors of its judge, as labelled pairs show them (Lee et al. 2025, arXiv 2511.21140).

A judge that is right on a share q1 of the pairs whose a is better, and on q0 of those whose b is, prefers a in
p = theta q1 + (1 - theta)(1 - q0) of the pairs where a is better in a share theta of them, so that
theta = (p + q0 - 1) / (q0 + q1 - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclealign.evaluation.intervals import Z95
from cyclealign.evaluation.judging import Judge
from cyclealign.evaluation.result import Item, Result, read_result
from cyclealign.evaluation.statistics import Estimate, Figure, share
from cyclealign.types import UserError

LEAST = 1.3  # q0 + q1 below which a correction is mostly noise
MADE_UP = 2.0  # outcomes that the interval adds to each class of labels, half of them each way
SIDES = frozenset("ab")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a judge made of labelled pairs: 1 right, 1/2 tied, 0 wrong.

    a_better, b_better: the pairs whose one side is better. shared: the same pairs stand for both, since the judge saw
    each in both orders and nothing else tells the sides apart. source: the result that they are from.
    """

    a_better: tuple[float, ...]
    b_better: tuple[float, ...]
    shared: bool
    source: str = ""

    @property
    def power(self) -> float:
        """q0 + q1: 2 for a judge without error, 1 for a coin."""
        return sum(self.a_better) / len(self.a_better) + sum(self.b_better) / len(self.b_better)

    @property
    def sure_power(self) -> float:
        """The same as the interval has it, with made-up outcomes: less, the fewer labels there are."""
        return _mean(self.a_better, MADE_UP).value + _mean(self.b_better, MADE_UP).value

    def figures(self) -> dict[str, Figure]:
        """As they stand in a result file."""
        return {
            "q1": share(sum(self.a_better), len(self.a_better)),
            "q0": share(sum(self.b_better), len(self.b_better)),
            "labels": len(self.a_better) + (0 if self.shared else len(self.b_better)),
            "by_side": not self.shared,
        }


@dataclass(frozen=True, slots=True)
class _Mean:
    """A mean, and the variance of that mean."""

    value: float
    variance: float


def corrected(values: Sequence[float], errors: Calibration) -> Estimate | None:
    """theta with its 95% interval, both within [0, 1]; None without values.

    Args:
        values: 1 where the judge prefers a, 1/2 for a tie (of its two orders), 0 where it prefers b.

    The interval is the paper's (as of Lang and Reiczigel 2014, for the prevalence of a disease): every share with
    a few made-up outcomes, half of them each way, and the middle moved towards where the variance is. Where the same
    pairs stand for both classes their errors are the same, and the covariance takes out what cancels.
    """
    if not values:
        return None
    theta = _clipped(_theta(*(_mean(v, 0.0).value for v in (values, errors.b_better, errors.a_better))))
    p, q0, q1 = _mean(values, Z95 * Z95), _mean(errors.b_better, MADE_UP), _mean(errors.a_better, MADE_UP)
    middle = _clipped(_theta(p.value, q0.value, q1.value))
    both = q0.variance if errors.shared else 0.0
    variance = p.variance + (1 - middle) ** 2 * q0.variance + middle**2 * q1.variance - 2 * middle * (1 - middle) * both
    moved = 2 * Z95 * Z95 * (middle * q1.variance - (1 - middle) * q0.variance + (1 - 2 * middle) * both)
    half = Z95 * math.sqrt(max(0.0, variance)) / (q0.value + q1.value - 1)
    low, high = _clipped(middle + moved - half), _clipped(middle + moved + half)
    return Estimate(theta, min(low, theta), max(high, theta), len(values))


def _theta(p: float, q0: float, q1: float) -> float:
    return (p + q0 - 1) / (q0 + q1 - 1)


def _mean(values: Sequence[float], more: float) -> _Mean:
    """Of the values and ``more`` made-up ones, half of them 1 and half 0."""
    n = len(values) + more
    mean = (math.fsum(values) + more / 2) / n
    square = (math.fsum(v * v for v in values) + more / 2) / n
    return _Mean(mean, max(0.0, square - mean * mean) / n)


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))


def load_calibration(path: Path, judge: Judge) -> Calibration:
    """The errors of this judge on the pairs of an ``eval ranker`` result.

    Pairs whose replies are called ``a`` and ``b`` are of the same two sides, and each label counts for its side; all
    others count for both.

    Raises:
        UserError: no such result, one of another judge, no pair in it that was judged in both orders, or a judge that
            errs so often that nothing can be corrected.
    """
    result = read_result(path)
    if result.eval != "ranker" or result.arms or not isinstance(result.about.get("judge"), str):
        raise UserError(f"--calibration {path}: expected a result of cyclealign eval ranker, got one of {result.eval}")
    if result.about["judge"] != judge.digest:
        raise UserError(
            f"--calibration {path}: is of another judge ({_named(result)}) than this one"
            f" ({' '.join((judge.spec, *judge.settings))}), or of other words or code; run eval ranker with this one"
        )
    pairs = [i for i in result.items if len(i.grades) == 2 and i.value is not None]
    if judge.paid and any(len({tuple(order) for order in i.shown}) < 2 for i in pairs):
        raise UserError(f"--calibration {path}: its pairs were shown in one order only; use passes=2 for both evals")
    return _checked(pairs, path)


def _checked(pairs: Sequence[Item], path: Path) -> Calibration:
    by_side = all(i.grades.keys() == SIDES for i in pairs)
    values = [(i.grades, i.value) for i in pairs if i.value is not None]
    a = tuple(v for grades, v in values if not by_side or grades["a"] > grades["b"])
    b = tuple(v for grades, v in values if not by_side or grades["a"] < grades["b"])
    if not a or not b:
        which = "pair" if not values else f"pair whose {'b' if a else 'a'} is better"
        raise UserError(f"--calibration {path}: holds no labelled {which} on which the judge gave a verdict")
    found = Calibration(a_better=a, b_better=b, shared=not by_side, source=str(path))
    if found.power < LEAST:
        raise UserError(
            f"--calibration {path}: this judge is right on {sum(a) / len(a):.1%} of the pairs (whose b is better:"
            f" {sum(b) / len(b):.1%}); below {LEAST:g} for the two together no correction is worth anything: take a"
            " better judge"
        )
    if found.sure_power < LEAST:
        raise UserError(
            f"--calibration {path}: {len(a)} labels (whose b is better: {len(b)}) are too few to know that this judge"
            f" ({sum(a) / len(a):.1%} and {sum(b) / len(b):.1%} right) is better than {LEAST:g} for the two together;"
            " label more pairs"
        )
    return found


def _named(result: Result) -> str:
    options = result.about.get("options")
    return " ".join(map(str, [result.about.get("ranker"), *(options if isinstance(options, list) else [])]))
