"""Where the presentation orders of a call's sets come from."""

from __future__ import annotations

from cyclealign.judge.prompting import presentations
from cyclealign.types import Candidate, CandidateSet, derive_seed


class Seeds:
    """The seed of each set's presentation orders in one call of ``Ranker.rank``; ask in the order of the sets.

    A prompt that stands once has the seed of its id, whatever else is in the call. Where it stands again with other
    candidates, the first list keeps that seed, and each other list's comes from the set as well: a prompt with many
    lists would else show its judge the same place first in all of them. The same candidates again, before which other
    demonstrations are shown, are shown in the same orders, so that the two verdicts are paired.
    """

    def __init__(self, seed: int, run: str, interaction: int) -> None:
        self._context = (seed, run, interaction)
        self._first: dict[str, tuple[Candidate, ...]] = {}

    def of(self, item: CandidateSet) -> int:
        prompt_id = item.prompt.id
        if self._first.setdefault(prompt_id, item.candidates) == item.candidates:
            return derive_seed(*self._context, prompt_id)
        return derive_seed(*self._context, prompt_id, CandidateSet(item.prompt, item.candidates).id)


def orders_of_judge(number: int, k: int, passes: int, *, seed: int) -> tuple[tuple[int, ...], ...]:
    """The presentation orders of one judge of several. Judges stand in twos, the second of which is shown the reverse
    of what the first is: a taste for a slot that both have cancels."""
    orders = presentations(k, passes, seed=derive_seed(seed, "judges", number // 2))
    return tuple(order[::-1] for order in orders) if number % 2 else orders
