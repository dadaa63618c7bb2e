"""ListMLE: likelihood of the teacher's order under Plackett-Luce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, RankedScores, require_count
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.suffix_softmax import best_first, suffix_softmax


@dataclass(frozen=True, kw_only=True)
class ListMLE(ListLoss):
    """Negative log-likelihood of the teacher's order under the Plackett-Luce model of the student's scores.

    L = sum_k [ logsumexp_{i >= k} s_i - s_k ], candidates best first (Xia et al. 2008, "Listwise approach to
    learning to rank"); the same as PRO without temperatures. Ties: see ``best_first``.

    top: only the first so many places of the product count, the order of the rest is not asked for; None: all.
    With log-ratios this is DPO under Plackett-Luce (Rafailov et al. 2023, arXiv 2305.18290, appendix A.3), at two
    candidates DPO itself, and with ``top`` KPO's top-K likelihood (Cai et al. 2025, arXiv 2506.00441).
    """

    name: Literal["listmle"] = "listmle"
    """Likelihood of the teacher's order under Plackett-Luce."""
    top: int | None = None
    """Only the first so many places count; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("top", self.top)

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        order = best_first(scores)
        student = scores.student.gather(1, order)
        weights = torch.ones_like(student)
        if self.top is not None:
            weights[:, self.top :] = 0
        return suffix_softmax(student, scores.valid.gather(1, order), weights)
