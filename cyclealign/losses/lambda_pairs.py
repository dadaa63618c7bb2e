"""Pairs weighted by what their order is worth in nDCG: the shape of mathematics of the LambdaLoss family.

Gains come from places, not from scores: a teacher's best candidate of n has gain min(k, n), the next one less, and
0 from place k + 1 on, so that an order is enough.
"""

from __future__ import annotations

import math
from dataclasses import replace

from jaxtyping import Float, Int

from cyclealign.losses.base import RankedScores
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.pairs import student_margins
from cyclealign.losses.suffix_softmax import best_first
from cyclealign.losses.tiers import tier_levels


def place_gains(scores: RankedScores, k: int | None) -> Float[Tensor, "B K"]:
    """min(k, n) for the teacher's best down to 1, 0 after place k; tied candidates share the mean of their places."""
    count = scores.valid.sum(dim=1, keepdim=True)
    top = count if k is None else count.clamp(max=k)
    gains = (top - places(best_first(scores)) + 1).clamp(min=0).to(scores.student.dtype)
    rank, valid = tier_levels(scores.teacher, scores.valid), scores.valid.to(gains.dtype)
    total = torch.zeros_like(gains).scatter_add(1, rank, gains * valid)
    shared = total / torch.zeros_like(gains).scatter_add(1, rank, valid).clamp(min=1)
    return torch.where(scores.valid, shared.gather(1, rank), 0.0)


def student_places(scores: RankedScores) -> Int[Tensor, "B K"]:
    """Place of each candidate by the student's score, 1 the highest; of equals, the teacher's better one first."""
    roles_exchanged = replace(scores, student=scores.teacher, teacher=scores.student.detach())
    return places(best_first(roles_exchanged))


def places(order: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """Place of each column in an order of columns, from 1: the inverse permutation."""
    return order.argsort(dim=1) + 1


def discount(place: Tensor) -> Tensor:
    """log2(1 + place)."""
    return (1 + place).log2()


def gain_shares(gains: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """(2^g - 1) / maxDCG: what each candidate adds to nDCG at place 1. 0 for a list without gains."""
    top = torch.nn.functional.pad(gains, (0, 1)).amax(
        dim=1, keepdim=True
    )  # padded: amax refuses a bundle without columns
    # Divided by 2^top on both sides: 2^g of a long list has no float.
    worth = torch.exp2(gains - top) - torch.exp2(-top)
    place = torch.arange(1, gains.shape[1] + 1, device=gains.device, dtype=gains.dtype)
    ideal = (worth.sort(dim=1, descending=True).values / discount(place)).sum(dim=1, keepdim=True)
    return torch.where(ideal > 0, worth / torch.where(ideal > 0, ideal, 1.0), 0.0)


def weighted_pairs(
    scores: RankedScores, gains: Float[Tensor, "B K"], weights: Float[Tensor, "B K K"]
) -> Float[Tensor, " B"]:
    """- sum over pairs with g_i > g_j of w_ij log2 sigmoid(s_i - s_j). Weights are finite everywhere."""
    better = (gains[:, :, None] > gains[:, None, :]) & scores.valid[:, :, None] & scores.valid[:, None, :]
    losses = -weights * torch.nn.functional.logsigmoid(student_margins(scores)) / math.log(2)
    return torch.where(better, losses, 0.0).sum(dim=(1, 2))


def differences(values: Float[Tensor, "B K"]) -> Float[Tensor, "B K K"]:
    """Entry [b, i, j]: |v_i - v_j|."""
    return (values[:, :, None] - values[:, None, :]).abs()
