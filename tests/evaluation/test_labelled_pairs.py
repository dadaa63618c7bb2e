"""Was the labelled reply first? By value against every order that a ranking leaves open, for any K and any tiers."""

from __future__ import annotations

from itertools import permutations, product
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.curation.asking import outcome
from cyclealign.evaluation.labelled_pairs import accuracy, labelled_credit
from cyclealign.files.run_figures import Accuracy
from cyclealign.types import Ranking, Unranked

IDS = ("chosen", "rejected", "b", "c")


def ranking(*tiers: str) -> Ranking:
    return Ranking(prompt_id="p", tiers=tuple(tuple(tier.split()) for tier in tiers))


@given(st.integers(2, 4).flatmap(lambda k: st.lists(st.integers(0, 3), min_size=k, max_size=k)))
def test_credit_is_the_share_of_untied_orders_that_begin_with_the_label(levels: list[int]) -> None:
    found = Ranking.from_scores("p", {i: float(x) for i, x in zip(IDS, levels, strict=False)})
    orders = [[i for tier in parts for i in tier] for parts in product(*map(permutations, found.tiers))]
    assert labelled_credit(found) == pytest.approx(fmean(order[0] == "chosen" for order in orders))


@pytest.mark.parametrize(
    ("verdict", "credit"),
    [
        (ranking("chosen", "rejected"), 1.0),
        (ranking("rejected", "chosen"), 0.0),
        (ranking("chosen rejected"), 0.5),
        (ranking("rejected chosen"), 0.5),
        (ranking("b chosen", "rejected"), 0.5),  # a tie above a loser is a tie still
        (ranking("chosen b rejected"), 1 / 3),
        (ranking("b", "chosen rejected"), 0.0),
        (ranking("rejected b"), 0.0),  # a cut list that lost the labelled reply
    ],
)
def test_all_who_count_agree(verdict: Ranking, credit: float) -> None:
    assert labelled_credit(verdict) == pytest.approx(credit)
    assert outcome(verdict).score == pytest.approx(credit)
    found = accuracy([verdict, ranking("chosen", "rejected"), Unranked("q", "refusal")])
    assert found == Accuracy(accuracy=pytest.approx((credit + 1) / 2), ranked=2, asked=3)


def test_without_a_verdict_there_is_no_figure() -> None:
    assert accuracy([Unranked("q", "refusal")]) is None
    assert outcome(Unranked("q", "refusal")) == (None, "refusal")
