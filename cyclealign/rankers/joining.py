"""A ranker's verdicts, joined to the sets that it was asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cyclealign.types import CandidateSet, RankContext, Ranker, Ranking, Unranked, UserError


def joined(
    ranker: Ranker, sets: Sequence[CandidateSet], context: RankContext
) -> Iterator[tuple[int, Ranking | Unranked]]:
    """The place of each set with its verdict, in order of completion.

    One prompt may stand in ``sets`` with several lists. Sets of one id are one question: it is asked once, and its
    verdict counts for each of them. Sets that the ranker leaves out have no verdict here either.

    Raises:
        UserError: a verdict answers no set that was asked about, or one that was answered before.
        BudgetExhausted: as the ranker.
    """
    places: dict[str, list[int]] = {}
    for place, item in enumerate(sets):
        places.setdefault(item.id, []).append(place)
    questions = [sets[own[0]] for own in places.values()]
    for verdict in ranker.rank(iter(questions), context):
        if verdict.set_id not in places:
            which = f"prompt {verdict.prompt_id} (set {verdict.set_id or 'unnamed'})"
            raise UserError(
                f"{type(ranker).__name__} gave a verdict on {which} that nobody waits for;"
                " expected one a set, with the set's id"
            )
        yield from ((place, verdict) for place in places.pop(verdict.set_id))
