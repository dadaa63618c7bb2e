"""CPRD: contrastive partial ranking distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float

from cyclealign.losses.base import (
    ListLoss,
    Needs,
    RankedScores,
    require_count,
    require_positive,
)
from cyclealign.losses.lazy_torch import Tensor, torch
from cyclealign.losses.suffix_softmax import best_first, suffix_softmax


@dataclass(frozen=True, kw_only=True)
class CPRD(ListLoss):
    """Each valid hard candidate in turn against all that the teacher ranks below it.

    L = - sum_{j < J} log [ exp(z_j) / sum_{k >= j} exp(z_k) ], z = s / ``temperature``, over the hard candidates
    in the teacher's order, J the first invalid one (Chen et al. 2024, arXiv 2407.07479): Plackett-Luce cut off at
    J. The order within the invalid tail is never used, its members stay in the denominators.

    The published text leaves open which candidates are hard and valid, so these are choices:

    hard: how many candidates, those that the STUDENT scores highest (and any it ties with the last of them);
        None: all are hard.
    threshold: valid is who has at least this teacher score, "mean" the list's own mean. rank_cut: valid is who
        is among the teacher's first so many of the hard. Both: who passes both; neither: all are valid.
    include_easy: the other candidates, and those ``outside`` of the list, stand in every denominator.
    """

    name: Literal["cprd"] = "cprd"
    """Contrastive partial ranking distillation: each valid hard candidate against all that the teacher ranks below
    it."""
    hard: int | None = None
    """Candidates that are hard: so many that the student scores highest; null: all."""
    threshold: float | Literal["mean"] | None = None
    """Valid is who has at least this teacher score, ``mean`` the list's own mean; null: no bound."""
    rank_cut: int | None = None
    """Valid is who is among the teacher's first so many of the hard; null: no bound."""
    include_easy: bool = True
    """The other candidates stand in every denominator."""
    temperature: float = 1.0
    """The student's scores are divided by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("hard", self.hard)
        require_count("rank_cut", self.rank_cut)
        require_positive("temperature", self.temperature)
        if not (self.threshold is None or self.threshold == "mean" or _is_finite(self.threshold)):
            raise ValueError(f"threshold: expected a finite number, mean or null, got {self.threshold!r}")

    @property
    def needs(self) -> Needs:
        return "order" if self.threshold is None else "magnitude"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        hard = self._hard(scores)
        order = best_first(replace(scores, valid=hard))
        student = scores.student / self.temperature
        beside = self._easy(scores, hard) if self.include_easy else None
        weights = self._counts(scores, hard).gather(1, order)
        if self.rank_cut is not None:
            weights = weights & (torch.arange(order.shape[1], device=order.device) < self.rank_cut)
        return suffix_softmax(student.gather(1, order), hard.gather(1, order), weights.to(student.dtype), beside=beside)

    def _hard(self, scores: RankedScores) -> Bool[Tensor, "B K"]:
        if self.hard is None or scores.valid.shape[1] <= self.hard:
            return scores.valid
        student = scores.student.detach().masked_fill(~scores.valid, -math.inf)
        # Ties with the last one count as well: which of them are hard must not hang on the order of the columns.
        return scores.valid & (student >= student.topk(self.hard, dim=1).values[:, -1:])

    def _easy(self, scores: RankedScores, hard: Bool[Tensor, "B K"]) -> Float[Tensor, " B"] | None:
        """Their logsumexp, at the loss's temperature; None where no list can have any."""
        if self.hard is None and scores.outside is None:
            return None
        easy = scores.student.masked_fill(hard | ~scores.valid, -math.inf)
        if scores.outside is not None:
            easy = torch.cat([easy, scores.outside], dim=1)
        return _logsumexp(easy / self.temperature, easy > -math.inf)

    def _counts(self, scores: RankedScores, hard: Bool[Tensor, "B K"]) -> Bool[Tensor, "B K"]:
        """Who is good enough, in the teacher's own width."""
        if self.threshold is None:
            return hard
        if self.threshold == "mean":
            bound = scores.teacher.sum(dim=1, keepdim=True) / scores.valid.sum(dim=1, keepdim=True).clamp(min=1)
            return hard & (scores.teacher >= bound)
        return hard & (scores.teacher >= self.threshold)


def _logsumexp(values: Float[Tensor, "B K"], chosen: Bool[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """Over the chosen entries; the least finite number where there are none, so that its gradient is 0, not NaN."""
    least = torch.finfo(values.dtype).min
    result = values.masked_fill(~chosen, least).logsumexp(dim=1)
    return torch.where(chosen.any(dim=1), result, least)


def _is_finite(value: float | str) -> bool:
    return not isinstance(value, str) and math.isfinite(value)
