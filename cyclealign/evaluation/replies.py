"""Figures of replies alone: words, distinct-n, kept of drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from cyclealign.evaluation.words import words
from cyclealign.types import (
    CandidateSet,
    Generator,
    PolicyTrainer,
    Ranker,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyStatistics:
    """Figures of ``replies`` replies together; ``mean_words``: words a reply."""

    replies: int
    mean_words: float
    distinct1: float
    distinct2: float


def reply_statistics(replies: Sequence[str]) -> ReplyStatistics:
    """Mean length in words, distinct-1 and distinct-2 (distinct n-grams over all n-grams, lower-cased words)."""
    tokens = [words(r) for r in replies]
    return ReplyStatistics(
        replies=len(replies),
        mean_words=fmean(len(t) for t in tokens) if tokens else 0.0,
        distinct1=distinct_n(tokens, 1),
        distinct2=distinct_n(tokens, 2),
    )


def kept_of_drawn(sets: Collection[CandidateSet]) -> float:
    """Replies over samples drawn for them: empty, unfinished and repeated samples are drawn again, and show here."""
    return sum(len(s.candidates) for s in sets) / max(1, sum(s.drawn for s in sets))


def distinct_n(tokens: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055); 0 where there are none."""
    grams = [tuple(t[i : i + n]) for t in tokens for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
