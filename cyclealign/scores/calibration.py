"""Scores of teachers on one scale: a calibration is explicit, one per teacher, and stored with the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cyclealign.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a calibration is fitted on: all scores of a teacher. ``deviation``: the standard deviation, over n."""

    low: float
    high: float
    mean: float
    deviation: float
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """(score - shift) / scale, one for all scores of a teacher, so that margins stay comparable between lists.

    ``method``: raw, zscore (mean and standard deviation), minmax, or temperature:T. ``pairs``: how many scores it was
    fitted on.
    """

    method: str
    shift: float = 0.0
    scale: float = 1.0
    pairs: int = 0

    def __call__(self, score: float) -> float:
        return (score - self.shift) / self.scale


def fit(method: str, spread: Spread) -> Calibration:
    """The calibration of a teacher with these scores.

    Raises:
        UserError: unknown method, or scores that are all equal.
    """
    check_method(method)
    kind, _, value = method.partition(":")
    if kind == "raw":
        return Calibration(method=method, pairs=spread.pairs)
    if kind == "temperature":
        return Calibration(method=method, scale=float(value), pairs=spread.pairs)
    if spread.low == spread.high:
        raise UserError(f"--calibrate {method}: all {spread.pairs} scores are {spread.low}")
    if kind == "minmax":
        return Calibration(method=method, shift=spread.low, scale=spread.high - spread.low, pairs=spread.pairs)
    return Calibration(method=method, shift=spread.mean, scale=spread.deviation, pairs=spread.pairs)


def check_method(method: str) -> None:
    """UserError unless a calibration has this name."""
    kind, colon, value = method.partition(":")
    if kind in ("raw", "zscore", "minmax") and not colon:
        return
    try:
        fine = kind == "temperature" and math.isfinite(float(value)) and float(value) > 0
    except ValueError:
        fine = False
    if not fine:
        raise UserError(f"--calibrate: expected raw, zscore, minmax or temperature:T (T > 0), got {method!r}")
