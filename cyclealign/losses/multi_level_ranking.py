"""Multi-level ranking: keep levels of quality apart, each level together, and the levels in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from cyclealign.losses.base import Needs, RankedScores, SFTWeighted, require_non_negative
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class MultiLevelRanking(SFTWeighted):
    """Stage-1 loss of QuantiDCE (Ye et al. 2021, arXiv 2106.00507) over one context's candidates.

    Candidates stand in levels, 0 the best.

    With c_l the mean score of level l and s_lj its members:

    - separation  sum_{l<m} max(0, (m - l) * lambda - |c_l - c_m|)
    - compactness sum_l max(0, mean_j |s_lj - c_l| - mu), the mean taken before the hinge
    - ordering    sum_{l<m} max(0, c_m - c_l)

    ``per_list`` is their sum with unit weights; a level without valid members takes no part. ``separation``
    is lambda and ``compactness`` mu, in units of the score. The published scores are in (0, 1):
    ``squash="sigmoid"`` maps logits there, ``"none"`` takes the scores as they come.
    """

    name: Literal["quantidce"] = "quantidce"
    """Multi-level ranking: levels of quality apart, each together, and in order."""
    separation: float = 0.3
    """Least distance of neighbouring levels' centres, in units of the score."""
    compactness: float = 0.1
    """Mean distance within a level that costs nothing, in units of the score."""
    squash: Literal["none", "sigmoid"] = "none"
    """``sigmoid`` maps scores to (0, 1) first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_non_negative("separation", self.separation)
        require_non_negative("compactness", self.compactness)

    @property
    def needs(self) -> Needs:
        return "levels"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        """Sum of the three terms per list.

        Raises:
            ValueError: the bundle has no levels, or a valid entry has a negative one.
        """
        student = scores.student.sigmoid() if self.squash == "sigmoid" else scores.student
        member = _membership(scores).to(student.dtype)  # [B, K, L]
        size = member.sum(dim=1)  # [B, L]
        centre = (student[:, :, None] * member).sum(dim=1) / size.clamp(min=1)
        deviation = ((student[:, :, None] - centre[:, None, :]).abs() * member).sum(dim=1) / size.clamp(min=1)

        present = size > 0
        rank = torch.arange(member.shape[2], device=student.device)
        steps = rank[None, :] - rank[:, None]  # m - l
        pair = present[:, :, None] & present[:, None, :] & (steps > 0)
        gap = centre[:, :, None] - centre[:, None, :]  # c_l - c_m
        apart = (steps * self.separation - gap.abs()).clamp(min=0)
        order = (-gap).clamp(min=0)
        compact = torch.where(present, (deviation - self.compactness).clamp(min=0), 0.0).sum(dim=1)
        return torch.where(pair, apart + order, 0.0).sum(dim=(1, 2)) + compact


def _membership(scores: RankedScores) -> Bool[Tensor, "B K L"]:
    """Which valid candidate is in which level; L is the number of levels in the batch."""
    if scores.levels is None:
        raise ValueError(
            "multi-level ranking expected levels (0 is best) and got none; "
            "give levels, or use a loss that needs only an order (rrhf, pro, listmle, simpo, dpo)"
        )
    # Masked entries may hold any level; -1 matches none.
    levels = torch.where(scores.valid, scores.levels, -1)
    if bool((scores.valid & (levels < 0)).any()):
        raise ValueError("multi-level ranking expected levels >= 0 (0 is best) and got a negative one")
    count = int(levels.max()) + 1 if levels.numel() else 0
    rank = torch.arange(max(count, 1), device=levels.device)
    return levels[:, :, None] == rank
