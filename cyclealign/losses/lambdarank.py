"""LambdaRank: each pair weighted by what swapping it would change in nDCG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, RankedScores, require_count
from cyclealign.losses.lambda_pairs import (
    differences,
    discount,
    gain_shares,
    place_gains,
    student_places,
    weighted_pairs,
)
from cyclealign.losses.lazy_torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LambdaRank(ListLoss):
    """L = - sum_{g_a > g_b} |1 / D(a) - 1 / D(b)| |G_a - G_b| log2 sigmoid(s_a - s_b).

    D(p) = log2(1 + p), a and b places by the student, gains as in ``NDCG2`` (``k`` None: n, ..., 1), weights without
    gradient (Burges 2010, MSR-TR-2010-82, in the form of LambdaLoss, Wang et al. 2018). With log-ratios it has the
    form of LiPO-lambda (Liu et al. 2024, arXiv 2402.01878), whose gains come from scores; here they come from places.
    """

    name: Literal["lambdarank"] = "lambdarank"
    """Pairs weighted by what swapping them changes in nDCG."""
    k: int | None = None
    """Only the teacher's first so many have gains; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("k", self.k)

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        gains = place_gains(scores, self.k)
        swaps = differences(1 / discount(student_places(scores).to(gains.dtype)))
        return weighted_pairs(scores, gains, swaps * differences(gain_shares(gains)))
