"""PLD: Plackett-Luce distillation, weighted by the teacher's confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, Needs, RankedScores, list_log_softmax, require_positive
from cyclealign.losses.lazy_torch import Tensor
from cyclealign.losses.suffix_softmax import best_first, suffix_softmax


@dataclass(frozen=True, kw_only=True)
class PLD(ListLoss):
    """Plackett-Luce likelihood of the teacher's order, each place weighted by the teacher's softmax there.

    L = sum_k alpha_k [ logsumexp_{l >= k} s_l - s_k ], alpha = softmax(t / ``teacher_temperature``) over the
    valid candidates, order: the known positive first where ``positive`` is given, then by descending t
    (Bassam et al. 2025, arXiv 2506.12542, section 4.1). The temperature does not touch the student. Ties: see
    ``best_first``.
    """

    name: Literal["pld"] = "pld"
    """Plackett-Luce distillation: ListMLE weighted by the teacher's confidence."""
    teacher_temperature: float = 1.0
    """The teacher's scores are divided by it before their softmax weighs the places."""

    def __post_init__(self) -> None:
        require_positive("teacher_temperature", self.teacher_temperature)
        super().__post_init__()

    @property
    def needs(self) -> Needs:
        return "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        order = best_first(scores, positive_first=True)
        student, valid = scores.student.gather(1, order), scores.valid.gather(1, order)
        logits = scores.teacher.gather(1, order) / self.teacher_temperature
        alpha = list_log_softmax(logits, valid).exp()
        return suffix_softmax(student, valid, alpha.to(student.dtype))
