"""RRHF: rank responses to align with human feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import RankedScores, SFTWeighted
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.pairs import chosen_pairs, student_margins


@dataclass(frozen=True, kw_only=True)
class RRHF(SFTWeighted):
    """Zero-margin hinge over all pairs that the teacher orders strictly.

    L = sum_{r_i < r_j} max(0, p_i - p_j), p the mean log-likelihood (Yuan et al. 2023, arXiv 2304.05302,
    section 3); plus ``sft_weight`` times the NLL of the teacher-best response (the paper sums it over the
    tokens, here it is the mean per token: see docs/method.md).
    """

    name: Literal["rrhf"] = "rrhf"
    """Rank responses to align with human feedback: a hinge on every pair that the teacher orders."""
    sft_weight: float = 1.0
    """Weight of the NLL per token of the teacher-best candidate beside the loss."""

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        # relu, not clamp: at equal scores the published code has gradient 0, clamp would have 1.
        violation = torch.relu(-student_margins(scores))
        return torch.where(chosen_pairs(scores, "all"), violation, 0.0).sum(dim=(1, 2))
