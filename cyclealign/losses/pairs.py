"""Pairs of one list: the shape of mathematics under RRHF, SimPO and DPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Float

from cyclealign.losses.base import RankedScores, require_one_of
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.tiers import tier_levels

Pairs = Literal["best_worst", "adjacent", "all"]


def require_pairs(value: str) -> None:
    """ValueError unless ``value`` is one of ``Pairs``."""
    require_one_of("pairs", value, Pairs)


def chosen_pairs(scores: RankedScores, pairs: Pairs) -> Bool[Tensor, "B K K"]:
    """Entry [b, i, j]: the pair (i better than j) is chosen. Tied pairs never are.

    all: every strictly ordered pair. adjacent: no valid utility lies between the two. best_worst: the best
    against the worst. Where tied candidates share a place, each of them stands in it, so that the choice does
    not depend on the order of the columns.
    """
    rank, valid = tier_levels(scores.teacher, scores.valid), scores.valid
    better = (rank[:, :, None] < rank[:, None, :]) & valid[:, :, None] & valid[:, None, :]
    if pairs == "all":
        return better
    if pairs == "adjacent":
        return better & (rank[:, :, None] + 1 == rank[:, None, :])
    worst = torch.where(valid, rank, -1)
    last = torch.nn.functional.pad(worst, (0, 1), value=-1).amax(dim=1)  # padded: amax refuses no columns
    return better & (rank == 0)[:, :, None] & (rank == last[:, None])[:, None, :]


def paired(teacher: Sequence[float], pairs: Pairs) -> tuple[int, ...]:
    """Places that stand in a chosen pair: of best_worst the best and the worst, ties included, else all."""
    ends = {max(teacher), min(teacher)}
    return tuple(i for i, utility in enumerate(teacher) if pairs != "best_worst" or utility in ends)


def student_margins(scores: RankedScores) -> Float[Tensor, "B K K"]:
    """Entry [b, i, j]: s_i - s_j."""
    return scores.student[:, :, None] - scores.student[:, None, :]


def mean_over_pairs(values: Float[Tensor, "B K K"], chosen: Bool[Tensor, "B K K"]) -> Float[Tensor, " B"]:
    """Mean of the chosen pairs' values; 0 for a list without any."""
    total = torch.where(chosen, values, 0.0).sum(dim=(1, 2))
    return total / chosen.sum(dim=(1, 2)).clamp(min=1)
