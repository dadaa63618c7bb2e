"""From how sure on a cheap ranker may answer alone: bounds by value, the sequence of tests, and what it keeps."""

from __future__ import annotations

import importlib
import itertools
import math
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from cyclealign.rankers.calibration import (
    FIRST_SHARE,
    STAKES,
    Compared,
    evidence,
    pair_agreement,
    threshold,
    unanimity,
)

EVALS = Path(__file__).resolve().parents[2] / "evals" / "judges"


def test_the_share_of_pairs_ordered_alike() -> None:
    judge = (("a",), ("b",), ("c", "d"))
    assert pair_agreement((("a",), ("b",), ("d",), ("c",)), judge) == 1.0  # c and d: the judge does not say
    assert pair_agreement((("b",), ("a",), ("c",), ("d",)), judge) == pytest.approx(4 / 5)
    assert pair_agreement((("a", "b"), ("c",), ("d",)), judge) == pytest.approx(4 / 5)  # a tie is not alike
    assert pair_agreement((("a",), ("b",)), (("a", "b"),)) is None


def test_how_sure_passes_are() -> None:
    assert unanimity(["abc", "abc"]) == 1.0
    assert unanimity(["abc", "cba"]) == 0.5
    assert unanimity(["abc", "acb"]) == pytest.approx((1 + 1 + 0.5) / 3)
    assert unanimity(["abc", "abc", "cba"]) == pytest.approx(2 / 3)


def test_evidence_by_value_and_in_any_order() -> None:
    losses = [0.0, 0.5, 0.1, 1.0]
    by_hand = fmean(math.prod(1 + s / 0.9 * (0.1 - loss) for loss in losses) for s in STAKES)
    for order in itertools.permutations(losses):
        assert evidence(order, 0.1) == pytest.approx(by_hand)
    assert evidence([], 0.1) == 1.0
    assert evidence([0.0] * 100_000, 0.5) > 1e300  # and no overflow


@pytest.mark.parametrize("n", [1, 3, 6])
@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5), (0.1,), (0.0, 0.05, 1.0)])
def test_under_the_hypothesis_the_mean_of_the_evidence_is_at_most_one(n: int, values: tuple[float, ...]) -> None:
    """Over all draws of n losses of mean 0.1, the least that the hypothesis allows, exactly."""
    low, high = min(values), max(values)
    share = 1.0 if low == high else (0.1 - low) / (high - low)
    drawn = {low: 1 - share, high: share} if low != high else {low: 1.0}
    mean = 0.0
    for losses in itertools.product(drawn, repeat=n):
        mean += math.prod(drawn[loss] for loss in losses) * evidence(losses, 0.1)
    assert mean == pytest.approx(1.0)


def lists(sure: float, agreement: float, n: int) -> list[Compared]:
    return [Compared(sure, agreement)] * n


def test_thresholds_go_down_until_the_first_that_cannot_be_shown() -> None:
    def found(*parts: list[Compared], alpha: float = 0.1) -> float | None:
        return threshold([c for part in parts for c in part], min_agreement=0.9, alpha=alpha)

    assert found(lists(1.0, 1.0, 100), lists(0.7, 0.5, 100)) == 0.71  # any threshold above 0.7 is the same
    assert found(lists(1.0, 1.0, 100), lists(0.7, 0.95, 100)) == 0.5
    assert found(lists(1.0, 0.8, 100), lists(0.7, 1.0, 140)) is None  # all together would do; the surest do not
    assert found(lists(1.0, 1.0, 10), lists(0.7, 1.0, 100)) == 0.5  # ten are too few to begin with
    assert found(lists(1.0, 1.0, 12)) is None
    assert found(lists(1.0, 1.0, 40), alpha=0.1) == 0.5
    assert found(lists(1.0, 1.0, 40), alpha=0.01) is None
    assert found() is None
    assert 0 < FIRST_SHARE <= 0.4


def test_a_third_is_no_rounding_error_below_a_third() -> None:
    third = [Compared(fmean([1.0, 0.5, 0.5]), 1.0)] * 60  # 0.666…
    level = threshold(third, min_agreement=0.9, alpha=0.1)
    assert level == 0.5
    assert threshold(lists(0.7 - 1e-12, 1.0, 100) + lists(0.6, 0.0, 100), min_agreement=0.9, alpha=0.1) == 0.61


@pytest.fixture
def guarantee(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EVALS)
    script = importlib.import_module("cascade_guarantee")
    monkeypatch.setattr(script, "TRUTH", 2_000)
    return script


@pytest.mark.parametrize("world", ["edge", "pairs", "whole"])
def test_what_is_stated_is_broken_in_at_most_27_of_200(guarantee: Any, world: str) -> None:
    worlds = {
        "edge": guarantee.edge(0.89),
        "pairs": guarantee.planted(0.89, whole=False),
        "whole": guarantee.planted(0.89, whole=True),
    }
    row = guarantee.row(worlds[world], 200)
    assert 200 * row["broken"]["value"] <= 27


def test_a_judge_that_agrees_in_95_percent_spares_two_lists_of_five(guarantee: Any) -> None:
    reads = guarantee.row(guarantee.reader(0.95, 2), 20)
    assert reads["agreement"] == pytest.approx(0.95, abs=0.015)
    assert reads["alone in at least 40%"] == 1.0
    assert guarantee.row(guarantee.planted(0.95, whole=False), 25)["alone in at least 40%"] >= 0.8


def test_no_more_is_broken_than_alpha_where_the_truth_is_exactly_the_limit() -> None:
    """The bound itself, at its hardest: all of a list right or none, 10% wrong."""
    draw, broken = random.Random(3), 0
    for _ in range(1_000):
        losses = [float(draw.random() < 0.1) for _ in range(100)]
        broken += evidence(losses, 0.1) >= 10
    assert broken <= 130  # 100 expected at most, three deviations
