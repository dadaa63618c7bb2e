"""SimPO: simple preference optimisation with a reference-free reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import RankedScores, RankingLoss, require_non_negative, require_positive
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.pairs import Pairs, chosen_pairs, mean_over_pairs, paired, require_pairs, student_margins


@dataclass(frozen=True, kw_only=True)
class SimPO(RankingLoss):
    """Logistic loss with a target margin on length-normalised log-likelihoods.

    l = -log sigmoid(beta (p_w - p_l) - gamma), gamma = ``gamma_ratio`` * beta, p in nats per token (Meng et
    al. 2024, arXiv 2405.14734; its code's advice: beta 2 to 10, ratio 0 to 1, start at 0.5). Mean over the
    chosen pairs.
    """

    name: Literal["simpo"] = "simpo"
    """Simple preference optimisation: logistic loss with a margin on log-likelihoods per token."""
    beta: float = 2.0
    """Factor of the difference of log-likelihoods per token."""
    gamma_ratio: float = 0.5
    """Target margin, as a multiple of ``beta``."""
    pairs: Pairs = "best_worst"
    """Which pairs of a list count: the best against the worst, neighbours, or all."""

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_non_negative("gamma_ratio", self.gamma_ratio)
        require_pairs(self.pairs)

    def read(self, teacher: Sequence[float]) -> tuple[int, ...]:
        return paired(teacher, self.pairs)

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        losses = -torch.nn.functional.logsigmoid(student_margins(scores) - self.gamma_ratio * self.beta)
        return mean_over_pairs(losses, chosen_pairs(scores, self.pairs))
