"""Error bars and tests of the evals, against closed forms, published values and simulation."""

from __future__ import annotations

import math
import random
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from cyclealign.evaluation.length_control import length_controlled
from cyclealign.evaluation.statistics import (
    VERDICTS,
    Estimate,
    bootstrap_mean,
    expanded_tails,
    holm,
    paired_difference,
    share,
    sign_test,
)


def test_wilson_has_its_published_values() -> None:
    """Newcombe 1998, table I: 81 of 263 and 15 of 148, at 95%."""
    for r, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        estimate = share(r, n)
        assert estimate is not None
        assert (round(estimate.low or 0, 4), round(estimate.high or 0, 4)) == (low, high)


def test_no_trials_have_no_share() -> None:
    assert share(0, 0) is None
    assert bootstrap_mean([]) is None


def test_sign_test_is_the_binomial_tail() -> None:
    for wins, losses in ((0, 0), (5, 0), (3, 7), (10, 10), (9, 1)):
        n = wins + losses
        tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n if n else 1.0
        assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * tail))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_never_below_a_p_value_and_keeps_their_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b and a <= 1 for a, b in zip(adjusted, p, strict=True))
    for i, j in product(range(len(p)), repeat=2):
        assert p[i] >= p[j] or adjusted[i] <= adjusted[j]


def test_bootstrap_agrees_with_students_interval_on_a_large_sample() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, 400)
    estimate = bootstrap_mean(values.tolist(), seed=3)
    assert estimate is not None
    half = 1.966 * values.std(ddof=1) / math.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_tails_widen_as_items_get_few() -> None:
    tails = [expanded_tails(n)[0] for n in (5, 20, 1000)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, abs=3e-4)


def test_equal_values_get_wilsons_interval_or_none() -> None:
    always = bootstrap_mean([1.0] * 20)
    assert always is not None
    assert always.high == 1.0
    assert always.low == pytest.approx(0.8389, abs=1e-4)
    split = bootstrap_mean([0.5] * 20)
    assert split is not None
    assert split.low is None


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=30), st.randoms())
def test_paired_difference_is_students(pairs: list[tuple[float, float]], order: random.Random) -> None:
    """Against SciPy's; in any order of the items, and turned about, it is the same interval."""
    first, second = zip(*pairs, strict=True)
    found = paired_difference(first, second)
    gains = np.subtract(second, first)
    assume(not VERDICTS.issuperset([*first, *second]) and np.ptp(gains) > 1e-6)
    assert found is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy warns where the gains are nearly equal
        wanted = ttest_rel(second, first).confidence_interval(0.95)
    assert (found.value, found.n) == (pytest.approx(gains.mean()), len(pairs))
    assert found.interval == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    turned = paired_difference(second, first)
    assert turned is not None
    assert turned.interval == pytest.approx((-wanted.high, -wanted.low), abs=1e-9)
    order.shuffle(pairs)
    again = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    assert again is not None
    assert again.interval == pytest.approx(found.interval, abs=1e-9)


def test_paired_difference_where_little_is_known() -> None:
    assert paired_difference([], []) is None
    assert paired_difference([0.2], [0.9]) == Estimate(pytest.approx(0.7), None, None, 1)
    assert paired_difference([0.25, 0.5, 3.0], [0.25, 0.5, 3.0]) == Estimate(0.0, None, None, 3)  # nothing was moved
    verdicts = paired_difference([1, 0, 0.5], [1, 0, 0.5])
    assert verdicts == Estimate(0.0, pytest.approx(-0.391993), pytest.approx(0.391993), 3)  # 1.96 sqrt(1/5 / 5)
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize("kind", ["binary", "rare", "normal", "unmoved"])
def test_paired_differences_cover_as_they_say(n: int, kind: str) -> None:
    """The true difference of 1,000 simulated samples is in at least 92% of the 95% intervals."""
    rng = np.random.default_rng(n)
    first = rng.random((1000, n))
    if kind in ("binary", "rare"):
        moved = {"binary": (0.1, 0.2), "rare": (0.02, 0.05)}[kind]
        first = (first < 0.5).astype(float)
        up, down = moved[1] * (1 - first), moved[0] * first
        draw = rng.random((1000, n))
        second = np.where(draw < up + down, 1 - first, first)
        truth = 0.5 * (moved[1] - moved[0])
    else:
        second = first + rng.normal(0.3, 1.0, (1000, n)) * (1.0 if kind == "normal" else rng.random((1000, n)) < 0.3)
        truth = 0.3 if kind == "normal" else 0.09
    found = [paired_difference(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    hits = sum(e is not None and e.interval is not None and e.interval[0] <= truth <= e.interval[1] for e in found)
    assert hits >= (900 if kind == "unmoved" and n == 20 else 920)


def test_the_interval_of_a_win_rate_is_honest() -> None:
    """Over 1,000 simulated evals with ties the 95% interval covers the true win rate in 93 to 97%."""
    rng = np.random.default_rng(20240)
    for n, shares in ((60, (0.35, 0.15, 0.5)), (200, (0.5, 0.05, 0.45))):
        truth = shares[2] + shares[1] / 2
        found = [bootstrap_mean(rng.choice([0.0, 0.5, 1.0], n, p=shares).tolist(), draws=1000) for _ in range(1000)]
        covered = sum(e is not None and (e.low or 0) <= truth <= (e.high or 1) for e in found)
        assert 930 <= covered <= 970, (n, covered)


def biased_towards_length(n: int, p: float, seed: int) -> tuple[list[float], list[float], list[float]]:
    """Two orders each: with probability p the longer wins, else a coin; the first side is longer more often."""
    rng = np.random.default_rng(seed)
    mine, other = rng.lognormal(5.5, 0.5, n).round(), rng.lognormal(5.1, 0.5, n).round()
    by_length = np.sign(mine - other) / 2 + 0.5
    wins = [np.where(rng.random(n) < p, by_length, rng.integers(0, 2, n)) for _ in range(2)]
    return ((wins[0] + wins[1]) / 2).tolist(), mine.tolist(), other.tolist()


@pytest.mark.parametrize("p", [0.3, 0.7])
def test_length_control_takes_a_length_biased_judge_back_to_half(p: float) -> None:
    held = 0
    for seed in range(20):
        outcomes, mine, other = biased_towards_length(600, p, seed)
        raw, controlled = bootstrap_mean(outcomes), length_controlled(outcomes, mine, other)
        assert raw is not None
        assert controlled is not None
        assert (raw.low or 0) > 0.5
        held += (controlled.low or 0) <= 0.5 <= (controlled.high or 0)
    assert held >= 17


def test_length_control_leaves_a_real_difference_alone() -> None:
    rng = np.random.default_rng(5)
    mine, other = rng.integers(50, 400, 500), rng.integers(50, 400, 500)
    outcomes = (rng.random(500) < 0.7).astype(float)
    estimate = length_controlled(outcomes.tolist(), mine.tolist(), other.tolist())
    assert estimate is not None
    assert estimate.value == pytest.approx(0.7, abs=0.05)
    assert estimate.low is not None
    assert estimate.low > 0.6


def test_length_control_of_what_cannot_be_controlled() -> None:
    assert length_controlled([1.0, 1.0], [3, 4], [1, 2]) is None
    equal = length_controlled([1.0, 0.0, 1.0, 1.0], [5] * 4, [5] * 4)
    assert equal is not None
    assert equal.value == pytest.approx(0.75, abs=0.05)
    decided_by_length = length_controlled([1.0, 0.0] * 20, [9, 1] * 20, [1, 9] * 20)
    assert decided_by_length is not None
    assert decided_by_length.value == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="one length difference"):
        length_controlled([1.0, 0.0], [1.0], [2.0])
