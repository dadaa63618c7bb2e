"""ListNet: cross-entropy between the top-one distributions of teacher and student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import Needs, RankedScores, SFTWeighted, list_log_softmax
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class ListNet(SFTWeighted):
    """L = - sum_i softmax(t)_i log softmax(s)_i (Cao et al. 2007); IDCM's cross-entropy variant."""

    name: Literal["listnet"] = "listnet"

    @property
    def needs(self) -> Needs:
        return "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        target = list_log_softmax(scores.teacher, scores.valid).exp().to(scores.student.dtype)
        student = list_log_softmax(scores.student, scores.valid)
        return -torch.where(scores.valid, target * student, 0.0).sum(dim=1)
