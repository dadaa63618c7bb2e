"""PRO: preference ranking optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from cyclealign.losses.base import Needs, RankedScores, RankingLoss, Reduction, require_non_negative
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.suffix_softmax import best_first, suffix_softmax


@dataclass(frozen=True, kw_only=True)
class PRO(RankingLoss):
    """Each candidate against all worse ones, sharpened by the gaps of the teacher's utilities.

    L = - sum_{k<n} log[ exp(p_k / T_k^k) / sum_{i>=k} exp(p_i / T_k^i) ], T_k^i = 1 / (r_k - r_i),
    T_k^k = min_{i>k} T_k^i (Song et al. 2023, arXiv 2306.17492, section 3; as its code computes it, but by
    logsumexp, without its 1e-10). ``gap_temperature=False`` sets every T to 1 (then an order is enough).
    A tied later candidate enters with gap 0: a constant, no gradient (as published).

    The SFT term weighs ``sft_weight`` * (n - 1)^2, n the list's valid candidates. The published NLL is a sum
    over the tokens (``sft_reduction="sum"``); the default here is the mean per token.
    """

    name: Literal["pro"] = "pro"
    """Preference ranking optimisation: each candidate against all worse ones."""
    gap_temperature: bool = True
    """Gaps of the teacher's scores sharpen the comparisons; false: an order is enough."""
    sft_weight: float = 0.05
    """Weight of the NLL of the teacher-best candidate, times (n - 1)^2 of a list of n."""
    sft_reduction: Reduction = "mean"
    """That NLL is the mean per token, or the sum over the tokens as published."""

    def __post_init__(self) -> None:
        require_non_negative("sft_weight", self.sft_weight)
        if self.sft_reduction not in ("mean", "sum"):
            raise ValueError(f"sft_reduction: expected mean or sum, got {self.sft_reduction!r}")

    @property
    def needs(self) -> Needs:
        return "magnitude" if self.gap_temperature else "order"

    @property
    def sft(self) -> float:
        return self.sft_weight

    def sft_weights(self, scores: RankedScores) -> Float[Tensor, " B"]:
        worse = (scores.valid.sum(dim=1) - 1).clamp(min=0).to(scores.student.dtype)
        return self.sft_weight * worse.square()

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        order = best_first(scores)
        student, valid = scores.student.gather(1, order), scores.valid.gather(1, order)
        if not self.gap_temperature:
            return suffix_softmax(student, valid, torch.ones_like(student))
        coefficients = gap_coefficients(scores.teacher.gather(1, order), valid).to(student.dtype)
        # The published sum ends before the last candidate, whose own coefficient is 0.
        has_worse = (valid[:, None, :] & valid[:, :, None]).triu(1).any(dim=2)
        return suffix_softmax(student, valid, has_worse.to(student.dtype), coefficients)


def gap_coefficients(teacher: Float[Tensor, "B K"], valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B K K"]:
    """1 / T: r_k - r_i for i > k, their maximum on the diagonal. Lists sorted best first, masked last."""
    gaps = torch.where(valid[:, None, :], teacher[:, :, None] - teacher[:, None, :], 0.0).triu(1)
    largest = torch.nn.functional.pad(gaps, (0, 1)).amax(dim=2)  # padded: amax refuses a bundle without columns
    return gaps + torch.diag_embed(largest)
