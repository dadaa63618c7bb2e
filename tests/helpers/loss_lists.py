"""Ragged lists for the loss tests, and softmax in plain Python."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from cyclealign.losses import RankedScores


def softmax(values: Sequence[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


@st.composite
def ragged(draw: st.DrawFn) -> list[list[tuple[float, float]]]:
    """Lists of 0 to 5 (student, teacher), half of them with tied teachers."""
    number = st.floats(-4, 4, allow_nan=False, width=32)
    teacher = draw(st.sampled_from([number, st.integers(0, 2).map(float)]))
    return draw(st.lists(st.lists(st.tuples(number, teacher), max_size=5), min_size=1, max_size=4))


def bundle(lists: list[list[tuple[float, float]]], seed: int, width: int = 6) -> RankedScores:
    """The lists in shuffled columns, NaN in all other places."""
    rng = random.Random(seed)
    student, teacher = torch.full((2, len(lists), width), math.nan, dtype=torch.float64)
    valid = torch.zeros(len(lists), width, dtype=torch.bool)
    for b, entries in enumerate(lists):
        columns = rng.sample(range(width), len(entries))
        for column, (s, t) in zip(columns, entries, strict=True):
            student[b, column], teacher[b, column], valid[b, column] = s, t, True
    return RankedScores(student=student.requires_grad_(), teacher=teacher, valid=valid)
