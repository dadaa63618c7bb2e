"""ListNet: cross-entropy between the top-one distributions of teacher and student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, Needs, RankedScores, list_log_softmax, require_positive
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class ListNet(ListLoss):
    """L = - sum_i softmax(t / T)_i log softmax(s)_i (Cao et al. 2007; T ``temperature``, there 1).

    IDCM's cross-entropy variant. With log-ratios it is InfoNCA, T its alpha (Chen et al. 2024, arXiv 2402.05369).
    """

    name: Literal["listnet"] = "listnet"
    """Cross-entropy of the top-one distributions of teacher and student."""
    temperature: float = 1.0
    """The teacher's scores are divided by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("temperature", self.temperature)

    @property
    def needs(self) -> Needs:
        return "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        target = list_log_softmax(scores.teacher / self.temperature, scores.valid).exp().to(scores.student.dtype)
        student = list_log_softmax(scores.student, scores.valid)
        return -torch.where(scores.valid, target * student, 0.0).sum(dim=1)
