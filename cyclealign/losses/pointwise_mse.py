"""Pointwise MSE: the teacher's scores themselves, regressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, Needs, RankedScores
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class PointwiseMSE(ListLoss):
    """Mean over the candidates of (s_i - t_i)^2.

    The baseline of Margin-MSE (arXiv 2010.02666) and the MSE variant of IDCM's selection loss (arXiv 2105.09816),
    there with padding counted as 0 = 0, here without. The only ranking loss that asks for the teacher's level too.
    """

    name: Literal["mse"] = "mse"
    """The teacher's scores themselves, regressed."""

    @property
    def needs(self) -> Needs:
        return "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        difference = scores.student - scores.teacher.to(scores.student.dtype)
        squares = torch.where(scores.valid, difference, 0.0).square()
        return squares.sum(dim=1) / scores.valid.sum(dim=1).clamp(min=1)
