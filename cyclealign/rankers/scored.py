"""Rankings from scores, for rankers that score one list at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from cyclealign.types import CandidateSet, Ranking, Unranked


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
    return Unranked(item.prompt.id, "too_few", f"{len(item.candidates)} distinct candidates", set_id=item.id)
