"""Arms against each other: the crossed bootstrap against its closed form, verdicts, what could have been seen."""

from __future__ import annotations

import numpy as np
import pytest

from cyclealign.evaluation.arms import compare_arms, conclusion, crossed_difference, smallest_detectable
from cyclealign.evaluation.statistics import Estimate


def test_the_interval_has_the_spread_of_seeds_and_of_items() -> None:
    rng = np.random.default_rng(1)
    seeds, items = 8, 300
    gains = 0.1 + 0.2 * rng.standard_normal((seeds, 1)) + rng.standard_normal((1, items))
    found = crossed_difference(np.zeros((seeds, items)), gains)
    # Additive: the variance of the mean is the sum of both parts' own.
    spread = np.sqrt(gains.mean(axis=1).var() / seeds + gains.mean(axis=0).var() / items)
    assert found.value == pytest.approx(gains.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.05)
    assert smallest_detectable(found) == pytest.approx(2.8 * spread, rel=0.05)


def test_equal_seeds_leave_the_interval_of_the_items() -> None:
    items = np.random.default_rng(2).standard_normal(200)
    found = crossed_difference(np.zeros((3, 200)), np.tile(items, (3, 1)))
    assert found.low == pytest.approx(items.mean() - 1.96 * items.std() / np.sqrt(200), abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.2, "holds"), (-0.2, -0.01, "refuted"), (-0.1, 0.1, "not shown"), (0.0, 0.1, "not shown")],
)
def test_verdicts(low: float, high: float, expected: str) -> None:
    assert conclusion(Estimate((low + high) / 2, low, high, 10)) == expected
    assert conclusion(Estimate((low + high) / 2 - 0.5, low - 0.5, high - 0.5, 10), bar=-0.5) == expected


def test_claims_name_the_better_arm_first() -> None:
    values = {"a": [[0.0, 0.0, 1.0]] * 3, "b": [[1.0, 1.0, 2.0]] * 3}
    (row,) = compare_arms(values, [("b", "a")])
    assert (row["claim"], row["value"], row["verdict"], row["seeds"], row["n"]) == ("b above a", 1.0, "holds", 3, 3)
    assert row["smallest_detectable"] == 0.0


def test_tables_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the same \[seeds, items\] twice, got \(2, 3\) and \(2, 4\)"):
        crossed_difference(np.zeros((2, 3)), np.zeros((2, 4)))
