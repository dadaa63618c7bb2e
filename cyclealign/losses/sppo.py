"""SPPO: self-play preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import (
    Needs,
    RankedScores,
    RankingLoss,
    Reference,
    StudentScore,
    require_one_of,
    require_positive,
)
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class SPPO(RankingLoss):
    """Mean over the candidates of (h_i - eta (P_i - 1/2))^2: each log-ratio is drawn to its own target.

    h = log pi - log pi_ref in nats, summed over the tokens of the response; P_i the share of the comparisons with the
    list's other candidates that candidate i won, over the passes (Wu et al. 2024, arXiv 2405.00675, eq. 4.7; P is
    there an average over samples of the policy, itself among them). pi_ref is published as the policy that sampled
    the candidates: ``reference: previous``. ``eta``: target of a candidate that wins always, twice over, in nats; 10
    is what a DPO beta of 0.1 comes to, the published code takes 1000.
    """

    name: Literal["sppo"] = "sppo"
    """Self-play preference optimisation: each log-ratio is drawn to its candidate's win rate."""
    eta: float = 10.0
    """Target of a candidate that wins always, twice over, in nats."""
    reference: Reference = "previous"
    """Of the log-ratio: the start model, or the weights before this interaction."""

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        require_one_of("reference", self.reference, Reference)

    @property
    def needs(self) -> Needs:
        return "votes"

    @property
    def student_score(self) -> StudentScore:
        return "log_ratio"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        target = self.eta * (scores.teacher.to(scores.student.dtype) - 0.5)
        squares = torch.where(scores.valid, scores.student - target, 0.0).square()
        return squares.sum(dim=1) / scores.valid.sum(dim=1).clamp(min=1)
