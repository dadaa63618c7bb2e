"""Rankings from scores: of whole lists, and of replies that are scored each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, Protocol

from cyclealign.types import CandidateSet, Message, RankContext, Ranking, Unranked

Pair = tuple[Sequence[Message], str]
SETS_ON_GPU = 16


class PairScorer(Protocol):
    """Scores each (messages, reply) by itself, higher is better; what the number means is the scorer's own."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """One score for each (messages, reply), in order."""
        ...


class ScoreRanker:
    """Any scorer of replies as a ranker, which still scores; implements ``types.Ranker``.

    ``together``: prompts whose candidates are scored in one call. One on a CPU, where rounding depends on a batch's
    shape, and which prompts are left depends on when a run was killed; several keep a GPU busy.
    """

    gives: Literal["order", "magnitude"] = "magnitude"

    def __init__(self, scorer: PairScorer, *, together: int = 1) -> None:
        self._scorer, self._together = scorer, together

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings with scores, in the order of the sets; those with fewer than two candidates are Unranked."""
        return ranked_pairs(self._scorer.score, sets, together=self._together)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return self._scorer.score(pairs)


def ranked_pairs(
    score: Callable[[Sequence[Pair]], Sequence[float]], sets: Iterable[CandidateSet], *, together: int
) -> Iterator[Ranking | Unranked]:
    """Rankings in the order of the sets, by the scores of their pairs; ``together`` as in ``ScoreRanker``."""
    waiting = iter(sets)
    while group := list(islice(waiting, together)):
        pairs = [(s.prompt.messages, c.text) for s in group if len(s.candidates) > 1 for c in s.candidates]
        scores = iter(score(pairs) if pairs else ())
        for item in group:
            if len(item.candidates) < 2:
                yield too_few(item)
            else:
                yield Ranking.from_scores(item.prompt.id, {i: next(scores) for i in item.ids}, set_id=item.id)


def ranked_by(
    scores: Callable[[CandidateSet], Mapping[str, float]], sets: Iterable[CandidateSet]
) -> Iterator[Ranking | Unranked]:
    """Rankings in the order of the sets; each is scored as it comes, equal scores share a tier.

    scores: of every candidate id of a list, higher is better; not asked about lists of fewer than two candidates.
    """
    for item in sets:
        if len(item.candidates) < 2:
            yield too_few(item)
        else:
            yield Ranking.from_scores(item.prompt.id, dict(scores(item)), set_id=item.id)


def too_few(item: CandidateSet) -> Unranked:
    """The verdict on a list that leaves nothing to rank."""
    thinking = f", {item.unfinished} samples never left their thinking" if item.unfinished else ""
    return Unranked(item.prompt.id, "too_few", f"{len(item.candidates)} distinct candidates{thinking}", set_id=item.id)
