"""When a run ends because its witness falls while the ranker is ever better pleased: a pure rule on metrics.

The best evaluation so far is a maximum, and a run has many looks at it: an ordinary 95% interval would stop 30% of the
runs of 20 evaluations whose witness does not move. The interval here holds for all pairs of the evaluations so far at
once (Bonferroni), and two in a row must lie below 0: ``evals/policies/witness_rule.py`` simulates whom that stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.statistics import Estimate, paired_difference
from cyclealign.files.run_figures import Metrics

Evaluations = Mapping[int, Metrics]
ERROR = 0.05  # of all intervals of a look together


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """An evaluation against the best before it, on the choosing half.

    change: of the witness, with an interval that holds for all ``pairs`` of evaluations so far at once. ranker: its own
    gain over the start model, then and ``ranker_best`` at the best; None where it is not known.
    """

    best: int
    change: Estimate
    pairs: int
    ranker: float | None
    ranker_best: float | None

    @property
    def fell(self) -> bool:
        """The witness surely, and the ranker stands higher, or as high as it can."""
        if self.change.high is None or self.change.high >= 0 or self.ranker is None or self.ranker_best is None:
            return False
        return self.ranker > self.ranker_best or self.ranker == self.ranker_best == 1.0


def look(evaluations: Evaluations, trained: int, halves: Halves) -> Look | None:
    """At the evaluation after ``trained`` interactions; None where there is nothing to compare it with."""
    rewards = {n: m.reward_choosing for n, m in evaluations.items() if n < trained}
    known = {n: reward for n, reward in rewards.items() if reward is not None}
    if not known:
        return None
    best = max(known, key=lambda n: (known[n], -n))
    then, now = evaluations[best], evaluations[trained]
    ids = halves.choosing(i for i in then.rewards if i in now.rewards)
    pairs = len(known) * (len(known) + 1) // 2
    change = paired_difference([then.rewards[i] for i in ids], [now.rewards[i] for i in ids], level=1 - ERROR / pairs)
    if change is None:
        return None
    ranker_best, ranker = _ranker(then, now)
    return Look(best=best, change=change, pairs=pairs, ranker=ranker, ranker_best=ranker_best)


def witness_fell(evaluations: Evaluations, trained: int, halves: Halves) -> str | None:
    """Why a run should end after the evaluation of ``trained`` interactions, or None."""
    before = max((n for n in evaluations if n < trained), default=0)
    if trained not in evaluations or not before:
        return None
    first, second = (look(evaluations, n, halves) for n in (before, trained))
    if first is None or second is None or not (first.fell and second.fell):
        return None
    low, high = second.change.low, second.change.high
    best = f"after {second.best} interactions" if second.best else "of the start model"
    return (
        f"the witness ({evaluations[trained].scorer}) stands {-second.change.value:.4f} below its best, that {best}"
        f" (95% interval {low:+.4f} to {high:+.4f}, for all {second.pairs} pairs of evaluations at once), as at the"
        f" evaluation before, while the ranker's own gain over the start model went from {second.ranker_best:+.4f} to"
        f" {second.ranker:+.4f}: the policy learns what deceives the ranker"
    )


def _ranker(then: Metrics, now: Metrics) -> tuple[float | None, float | None]:
    """Mean gain of the ranker over the prompts that it has ranked at both."""
    first, second = then.ranker_by_prompt or {}, now.ranker_by_prompt or {}
    ids = [i for i in first if i in second]
    if not ids:
        return None, None
    return fmean(first[i] for i in ids), fmean(second[i] for i in ids)
