"""ListMLE: likelihood of the teacher's order under Plackett-Luce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import RankedScores, SFTWeighted
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.suffix_softmax import best_first, suffix_softmax


@dataclass(frozen=True, kw_only=True)
class ListMLE(SFTWeighted):
    """Negative log-likelihood of the teacher's order under the Plackett-Luce model of the student's scores.

    L = sum_k [ logsumexp_{i >= k} s_i - s_k ], candidates best first (Xia et al. 2008, "Listwise approach to
    learning to rank"); the same as PRO without temperatures. Ties: see ``best_first``.
    """

    name: Literal["listmle"] = "listmle"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        order = best_first(scores)
        student = scores.student.gather(1, order)
        return suffix_softmax(student, scores.valid.gather(1, order), torch.ones_like(student))
