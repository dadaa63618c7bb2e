"""Pairs chosen/rejected of labelled prompts, and a ranker's accuracy on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cyclealign.files.run_figures import Accuracy
from cyclealign.types import (
    Candidate,
    CandidateSet,
    Generator,
    PolicyTrainer,
    Prompt,
    Ranker,
    Ranking,
    Unranked,
)

if TYPE_CHECKING:
    from typing import Protocol

    class Measured(Protocol):
        """The parts that an evaluation needs."""

        @property
        def generator(self) -> Generator: ...
        @property
        def black_box(self) -> Ranker: ...
        @property
        def white_box(self) -> PolicyTrainer: ...


# Labelled pairs that each evaluation asks both rankers about; the black box's share of them is paid for.
LABELLED_PAIRS = 64


def labelled_pairs(prompts: Sequence[Prompt], limit: int | None = LABELLED_PAIRS) -> list[CandidateSet]:
    """Pairs ``chosen``/``rejected`` of the prompts that carry labels, at most ``limit``."""
    found = [
        CandidateSet(p, (Candidate("chosen", p.chosen), Candidate("rejected", p.rejected)))
        for p in prompts
        if p.chosen and p.rejected and p.chosen != p.rejected
    ]
    return found[:limit]


def accuracy(verdicts: Sequence[Ranking | Unranked]) -> Accuracy | None:
    """Mean ``labelled_credit`` of labelled pairs, over the ranked ones; a tie counts half."""
    ranked = [v for v in verdicts if isinstance(v, Ranking)]
    if not ranked:
        return None
    right = math.fsum(map(labelled_credit, ranked))
    return Accuracy(accuracy=right / len(ranked), ranked=len(ranked), asked=len(verdicts))


def labelled_credit(ranking: Ranking) -> float:
    """``credit`` of a list whose best candidate by label is the one with the id ``chosen``, whatever K."""
    return credit(ranking, dict.fromkeys(ranking.order, 0.0) | {"chosen": 1.0})


def credit(ranking: Ranking, grades: Mapping[str, float]) -> float:
    """Share of the ranking's first tier that is best by label: 1 right, 0 wrong, 1/2 for a tied pair."""
    best = max(grades.values())
    top = ranking.tiers[0]
    return sum(grades[i] == best for i in top) / len(top)
