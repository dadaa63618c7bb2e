"""Margin-MSE: the teacher's margins between candidates, regressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, Needs, RankedScores, centred, require_positive
from cyclealign.losses.lazy_torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MarginMSE(ListLoss):
    """Mean over unordered pairs of ((s_i - s_j) - (t_i - t_j))^2.

    Two candidates are the published loss (Hofstätter et al. 2020, arXiv 2010.02666): no temperature, the margin
    with its sign. In O(K): with d = s - t the mean is 2 n / (n - 1) times the variance of d over the list's n
    candidates. A shift of either changes nothing, their scales do: ``teacher_scale`` multiplies the teacher's margins
    (1, as published, for a student that is free to find the scale; a policy's nats per token are not).
    With log-ratios to the weights before the interaction it is REBEL, ``beta`` its 1 / eta (Gao et al. 2024,
    arXiv 2404.16767).
    """

    name: Literal["margin_mse"] = "margin_mse"
    """The teacher's margins between candidates, regressed."""
    teacher_scale: float = 1.0
    """The teacher's margins are multiplied by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("teacher_scale", self.teacher_scale)

    @property
    def needs(self) -> Needs:
        return "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        # The teacher is centred in its own width: a large common offset would eat the digits of the margins.
        teacher = self.teacher_scale * centred(scores.teacher, scores.valid).to(scores.student.dtype)
        difference = centred(centred(scores.student, scores.valid) - teacher, scores.valid)
        return 2 * difference.square().sum(dim=1) / (scores.valid.sum(dim=1) - 1).clamp(min=1)
