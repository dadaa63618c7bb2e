"""What a policy's own likelihood says of ranked lists that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from cyclealign.evaluation.labelled_pairs import credit
from cyclealign.evaluation.likelihood import k3_estimate
from cyclealign.evaluation.ranker import pair_accuracy
from cyclealign.files.held_out_lists import HeldOutList
from cyclealign.models.token_scorer import mean_logprob
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.types import CandidateSet, Ranking

if TYPE_CHECKING:
    from torch import Tensor


def held_out_list(item: CandidateSet, teacher: Ranking, own: Sequence[Tensor], start: Sequence[Tensor]) -> HeldOutList:
    """The figures of one list; ``own`` and ``start``: of each candidate the log p of its tokens, in nats, under the
    policy and under the start model."""
    grades = {i: -float(n) for n, tier in enumerate(teacher.tiers) for i in tier}
    means = {i: mean_logprob(row) for i, row in zip(item.ids, own, strict=True) if i in grades}
    ranking = Ranking.from_scores(item.prompt.id, means)
    others = [-means[i] for i, grade in grades.items() if grade != 0]
    ratios = [(a.double() - b.double()).tolist() for a, b in zip(own, start, strict=True)]
    return HeldOutList(
        prompt_id=item.prompt.id,
        first=credit(ranking, grades),
        pairs=pair_accuracy(ranking, grades),
        tau=kendall_tau(ranking, teacher),
        nll=fmean(-means[i] for i, grade in grades.items() if grade == 0),
        nll_others=fmean(others) if others else None,
        kl=fmean(map(k3_estimate, ratios)),
    )
