"""KL divergence of the student's top-one distribution from the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, Needs, RankedScores, list_log_softmax, require_positive
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class KL(ListLoss):
    """L = T^2 sum_i p_i (log p_i - log q_i), p = softmax(t / T), q = softmax(s / T), T ``temperature``.

    Hinton et al. 2015 (arXiv 1503.02531), whose T^2 keeps the gradient's size; at T = 1 the gradient is ListNet's.
    """

    name: Literal["kl"] = "kl"
    """KL divergence of the student's top-one distribution from the teacher's."""
    temperature: float = 1.0
    """Both sides' scores are divided by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("temperature", self.temperature)

    @property
    def needs(self) -> Needs:
        return "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        target = list_log_softmax(scores.teacher / self.temperature, scores.valid).to(scores.student.dtype)
        student = list_log_softmax(scores.student / self.temperature, scores.valid)
        terms = torch.where(scores.valid, target.exp() * (target - student), 0.0)
        return self.temperature**2 * terms.sum(dim=1)
