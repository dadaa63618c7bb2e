"""DPO: direct preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float

from cyclealign.losses.base import RankedScores, RankingLoss, StudentScore, require_positive
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.pairs import Pairs, chosen_pairs, mean_over_pairs, paired, require_pairs, student_margins


@dataclass(frozen=True, kw_only=True)
class DPO(RankingLoss):
    """Logistic loss on the difference of log-ratios to the reference model.

    l = -log sigmoid(beta (h_w - h_l)), h = log pi(y|x) - log pi_ref(y|x) in nats, summed over the tokens of
    the response (Rafailov et al. 2023, arXiv 2305.18290, eq. 7). Mean over the chosen pairs.
    """

    name: Literal["dpo"] = "dpo"
    beta: float = 0.1
    pairs: Pairs = "best_worst"
    student_score: ClassVar[StudentScore] = "log_ratio"

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_pairs(self.pairs)

    def read(self, teacher: Sequence[float]) -> tuple[int, ...]:
        return paired(teacher, self.pairs)

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        losses = -torch.nn.functional.logsigmoid(self.beta * student_margins(scores))
        return mean_over_pairs(losses, chosen_pairs(scores, self.pairs))
