"""nDCG2: the teacher's top k on top, IDCM's loss for the model that selects passages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import RankedScores, SFTWeighted, require_count
from cyclealign.losses.lambda_pairs import (
    differences,
    discount,
    gain_shares,
    place_gains,
    student_places,
    weighted_pairs,
)
from cyclealign.losses.lazy_torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NDCG2(SFTWeighted):
    """LambdaLoss with the weights nDCG-Loss2 (Wang et al. 2018, CIKM) on gains from the teacher's first ``k``.

    Gains g = min(k, n), ..., 1 for the teacher's best, 0 for the rest; G = (2^g - 1) / maxDCG, D(p) = log2(1 + p),
    a and b places by the student:

    L = - sum_{g_a > g_b} |1 / D(|a - b|) - 1 / D(|a - b| + 1)| |G_a - G_b| log2 sigmoid(s_a - s_b)

    (IDCM: Hofstätter et al. 2021, arXiv 2105.09816, where k is 4.) The weights carry no gradient. IDCM's other two
    variants are ``PointwiseMSE`` and ``ListNet``. Ties: see ``place_gains`` and ``student_places``.
    """

    name: Literal["idcm"] = "idcm"
    """nDCG-Loss2: the teacher's first ``k`` on top."""
    k: int = 4
    """Only the teacher's first so many have gains."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("k", self.k)

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        gains = place_gains(scores, self.k)
        # A pair has at least distance 1; the diagonal is raised to it so that its (unused) weight is finite.
        apart = differences(student_places(scores).to(gains.dtype)).clamp(min=1)
        steps = 1 / discount(apart) - 1 / discount(apart + 1)
        return weighted_pairs(scores, gains, steps * differences(gain_shares(gains)))
