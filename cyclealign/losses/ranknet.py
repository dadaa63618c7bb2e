"""RankNet: logistic loss on every pair that the teacher orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, RankedScores
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.pairs import chosen_pairs, mean_over_pairs, student_margins


@dataclass(frozen=True, kw_only=True)
class RankNet(ListLoss):
    """Mean over the pairs t_i > t_j of -log sigmoid(s_i - s_j) (Burges et al. 2005); tied pairs do not count."""

    name: Literal["ranknet"] = "ranknet"
    """Logistic loss on every pair that the teacher orders."""

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        return mean_over_pairs(-torch.nn.functional.logsigmoid(student_margins(scores)), chosen_pairs(scores, "all"))
