"""A run's judge is watched: some lists are shown again in reverse, and a judge that reads nothing is not paid on.

Two looks only: after the run's first 32 lists it stops where the 95% interval of the mean tau lies below 0; after 128
it stops unless the interval lies above ``black_box.min_consistency``. ``evals/judges/stop_rule.py`` simulates whom that
stops: an interval that must lie below 0 at both looks would let most coins pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.cycle.interaction import Interaction
from cyclealign.evaluation.consistency import consistency, consistency_text, reversal_tau
from cyclealign.evaluation.statistics import Estimate
from cyclealign.files.run_records import Verdict
from cyclealign.types import RunStopped, derive_seed

FIRST, LAST = 32, 128  # lists of a run at the two looks
DRAWS = 2**32


def shown_again(box: BlackBoxConfig, it: Interaction, *, seed: int) -> frozenset[str]:
    """Prompts of the interaction whose lists are also shown in reverse: the run's first 32, then a share by seed."""
    if box.judge != "openai":
        return frozenset()
    return frozenset(
        p.id for n, p in enumerate(it.active, it.before) if n < FIRST or is_drawn(box, it.round, p.id, seed=seed)
    )


def is_drawn(box: BlackBoxConfig, round_: int, prompt_id: str, *, seed: int) -> bool:
    """Whether a prompt's list of that round over its batch is one of the share ``repeat``."""
    return derive_seed(seed, "shown again", round_, prompt_id) % DRAWS < box.repeated * DRAWS


def advice(found: Estimate | None, lists: int, least: float | None) -> str | None:
    """Why the run should stop at a look after so many lists, or None. ``least``: ``black_box.min_consistency``."""
    if least is None or found is None or found.low is None or found.high is None:
        return None
    by_slot = found.high < 0
    if not by_slot and (lists < LAST or found.low > least):
        return None
    below = "" if by_slot or least == 0 else f", not surely above black_box.min_consistency={least:g}"
    return (
        f"the judge contradicts itself on the first {lists} lists: {consistency_text(found)}{below}. Try a stronger"
        " model, black_box.reasoning, black_box.passes=2 or another template in a new run (cyclealign judge compares"
        " judges), or resume with black_box.min_consistency=null to go on all the same"
    )


class JudgeWatch:
    """The run's first 128 lists, by their place in it, and what came of those that were shown twice."""

    def __init__(self, box: BlackBoxConfig) -> None:
        self._least = box.min_consistency if box.judge == "openai" else None
        self._taus: dict[int, float | None] = {}

    def saw(self, it: Interaction, verdicts: Iterable[Verdict]) -> None:
        """Note what an interaction's lists came to. Raises RunStopped where that makes a look complete."""
        if self._least is None or it.before >= LAST or len(self._taus) == LAST:
            return
        places = {p.id: n for n, p in enumerate(it.active[: LAST - it.before], it.before)}
        new = {places[v.prompt_id]: reversal_tau(v) for v in verdicts if v.prompt_id in places}
        if new.keys() <= self._taus.keys():
            return
        self._taus |= new
        for lists in (FIRST, LAST):
            if all(n in self._taus for n in range(lists)):
                taus = (self._taus[n] for n in range(lists))
                if why := advice(consistency(t for t in taus if t is not None), lists, self._least):
                    raise RunStopped(f"interaction {it.index}: {why}")
