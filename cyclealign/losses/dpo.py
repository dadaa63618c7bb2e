"""DPO: direct preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import RankedScores, RankingLoss, Reference, StudentScore, require_one_of, require_positive
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.pairs import Pairs, chosen_pairs, mean_over_pairs, paired, require_pairs, student_margins


@dataclass(frozen=True, kw_only=True)
class DPO(RankingLoss):
    """Logistic loss on the difference of log-ratios to the reference model.

    l = -log sigmoid(beta (h_w - h_l)), h = log pi(y|x) - log pi_ref(y|x) in nats, summed over the tokens of
    the response (Rafailov et al. 2023, arXiv 2305.18290, eq. 7). Mean over the chosen pairs.
    ``reference``: the start model, as published, or the weights before this interaction.
    """

    name: Literal["dpo"] = "dpo"
    """Direct preference optimisation: logistic loss on log-ratios to the reference."""
    beta: float = 0.1
    """Factor of the log-ratio."""
    pairs: Pairs = "best_worst"
    """Which pairs of a list count: the best against the worst, neighbours, or all."""
    reference: Reference = "start"
    """Of the log-ratio: the start model, or the weights before this interaction."""

    @property
    def student_score(self) -> StudentScore:
        return "log_ratio"

    def __post_init__(self) -> None:
        require_one_of("reference", self.reference, Reference)
        require_positive("beta", self.beta)
        require_pairs(self.pairs)

    def read(self, teacher: Sequence[float]) -> tuple[int, ...]:
        return paired(teacher, self.pairs)

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        losses = -torch.nn.functional.logsigmoid(student_margins(scores))
        return mean_over_pairs(losses, chosen_pairs(scores, self.pairs))
