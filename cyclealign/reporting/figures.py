"""What the small files of a run say, and the intervals that its figures have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.intervals import Z95, wilson
from cyclealign.evaluation.statistics import paired_difference
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Metrics
from cyclealign.files.run_state import Kept, State
from cyclealign.reporting.settings import Settings, read_settings


@dataclass(frozen=True)
class Facts:
    """What the small files of a run say. ``evaluations``: metrics by number of interactions trained.

    ``kept``: ``best/kept.json``, None while the run goes on. ``halves``: of the eval prompts.
    """

    settings: Settings
    state: State | None
    kept: Kept | None
    evaluations: Mapping[int, Metrics]
    halves: Halves

    @property
    def compared(self) -> int | None:
        """The evaluation that stands against the start: the kept one's, before the end the latest one's."""
        if self.kept is not None:
            return self.kept.trained if self.kept.trained in self.evaluations else None
        return max((n for n in self.evaluations if n > 0), default=None)

    @property
    def label(self) -> str:
        return "kept" if self.kept is not None else "latest"

    @property
    def judge(self) -> str | None:
        """The back end that was asked; None before the run began."""
        return None if self.state is None else self.state.judge

    def rewards(self, trained: int | None) -> Mapping[str, float]:
        """Reward by prompt of an evaluation; empty where there is none."""
        found = None if trained is None else self.evaluations.get(trained)
        return {} if found is None else found.rewards


def read_facts(run: RunDir) -> Facts:
    """Read them; what is not there yet is empty."""
    return Facts(
        settings=read_settings(run),
        state=run.state(),
        kept=run.kept(),
        evaluations=run.evaluations(),
        halves=Halves.of(run.eval_prompts()),
    )


def newcombe(before: float, n_before: int, after: float, n_after: int) -> tuple[float, float]:
    """95% interval of the difference ``after - before`` of two independent shares (Newcombe 1998, method 10)."""
    (l1, u1), (l2, u2) = wilson(before, n_before), wilson(after, n_after)
    change = after - before
    return change - math.hypot(after - l2, u1 - before), change + math.hypot(u2 - after, before - l1)


def jackknife(whole: float, without: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of a statistic from its values without each item in turn (Efron 1982, ch. 3); None below two."""
    n = len(without)
    if n < 2:
        return None
    half = Z95 * math.sqrt((n - 1) / n * float(np.sum((np.asarray(without) - np.mean(without)) ** 2)))
    return whole - half, whole + half


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and its normal 95% interval; no interval below two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def paired_ids(facts: Facts, trained: int) -> list[str]:
    """Eval prompts of the reporting half (``evaluation.halves``) that have a reward both at the start and then."""
    start, then = facts.rewards(0), facts.rewards(trained)
    return facts.halves.reporting(i for i in start if i in then)


def reward_change(facts: Facts, trained: int) -> tuple[float, float, float, tuple[float, float] | None] | None:
    """Mean reward at the start and then, the change and its paired interval; None where there is no reward."""
    ids = paired_ids(facts, trained)
    before, after = ([facts.rewards(n)[i] for i in ids] for n in (0, trained))
    gain = paired_difference(before, after)
    if gain is None:
        return None
    return float(np.mean(before)), float(np.mean(after)), gain.value, gain.interval
