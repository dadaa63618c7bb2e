"""Passes of rows of like length: the least padding for the number of passes."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.models.passes import like_lengths


def cost(lengths: list[int], parts: list[list[int]], pass_tokens: int) -> int:
    return sum(len(part) * max(lengths[i] for i in part) + pass_tokens for part in parts)


def least(lengths: list[int], pass_tokens: int, most: int | None) -> int:
    """By every way to cut the sorted rows: parts that interleave are never cheaper."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    found = []
    for cuts in range(len(order)):
        for places in combinations(range(1, len(order)), cuts):
            bounds = [0, *places, len(order)]
            parts = [order[a:b] for a, b in pairwise(bounds)]
            if most is None or max(map(len, parts)) <= most:
                found.append(cost(lengths, parts, pass_tokens))
    return min(found)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=9),
    st.integers(0, 80),
    st.none() | st.integers(1, 9),
)
def test_no_other_passes_cost_less(lengths: list[int], pass_tokens: int, most: int | None) -> None:
    parts = like_lengths(lengths, pass_tokens=pass_tokens, most=most)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert most is None or max(map(len, parts)) <= most
    assert cost(lengths, parts, pass_tokens) == least(lengths, pass_tokens, most)


@pytest.mark.parametrize("most", [None, 1, 7, 300])
def test_very_many_rows_are_parted_too_and_never_more_at_once_than_allowed(most: int | None) -> None:
    lengths = [(37 * i) % 1000 + 1 for i in range(1000)]
    parts = like_lengths(lengths, pass_tokens=64, most=most)
    assert sorted(i for part in parts for i in part) == list(range(1000))
    assert max(map(len, parts)) <= (most or 1000)
    padding = sum(len(part) * max(lengths[i] for i in part) for part in parts) / sum(lengths)
    assert padding < (1.05 if most != 1 else 1.0001)


def test_rows_run_together_unless_their_padding_costs_more_than_a_pass() -> None:
    assert like_lengths([5, 5, 5], pass_tokens=1) == [[0, 1, 2]]
    assert like_lengths([30, 300, 30, 300], pass_tokens=64) == [[1, 3], [0, 2]]
    assert like_lengths([30, 60, 30, 60], pass_tokens=64) == [[1, 3, 0, 2]]
