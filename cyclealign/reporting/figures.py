"""What the small files of a run say, and the intervals that its figures have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclealign.evaluation.intervals import Z95, wilson
from cyclealign.files.jsonl import read_json
from cyclealign.files.run_dir import RunDir
from cyclealign.files.strict_yaml import read_yaml

PORTION = 500  # bootstrap draws that are held at once


@dataclass(frozen=True)
class Facts:
    """What the small files of a run say. ``evaluations``: metrics by number of interactions trained.

    ``kept``: ``best/kept.json``, None while the run goes on. ``position``: place of each eval prompt, by id.
    """

    config: dict[str, Any]
    state: dict[str, Any]
    kept: dict[str, Any] | None
    evaluations: dict[int, dict[str, Any]]
    position: dict[str, int]

    @property
    def compared(self) -> int | None:
        """The evaluation that stands against the start: the kept one's, before the end the latest one's."""
        if self.kept is not None:
            trained = int(self.kept["trained"])
            return trained if trained in self.evaluations else None
        return max((n for n in self.evaluations if n > 0), default=None)

    @property
    def label(self) -> str:
        return "kept" if self.kept is not None else "latest"


def read_facts(run: RunDir) -> Facts:
    """Read them; what is not there yet is empty."""
    kept = run.best / "kept.json"
    config = read_yaml(run.config.read_text(encoding="utf-8"), str(run.config)) if run.config.exists() else {}
    return Facts(
        config=config if isinstance(config, dict) else {},
        state=run.state(),
        kept=read_json(kept) if kept.exists() else None,
        evaluations=run.evaluations(),
        position={p.id: n for n, p in enumerate(run.eval_prompts())},
    )


def paired_interval(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """Mean of ``after - before`` over paired items, with the 95% percentile bootstrap interval over the items.

    Raises:
        ValueError: no items, or not as many before as after.
    """
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"expected pairs, got {len(before)} values before and {len(after)} after")
    gain = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # In portions: the indices of all draws at once take gigabytes for large eval sets.
    portions = [min(PORTION, draws - first) for first in range(0, draws, PORTION)]
    means = np.concatenate([gain[rng.integers(0, len(gain), (n, len(gain)))].mean(axis=1) for n in portions])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(gain.mean()), float(low), float(high)


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
    """Eval prompts of the reporting half (odd positions) that have a reward both at the start and then.

    All of them where none has an odd position, which is what an evaluation of a single prompt reports.
    """
    start, then = (facts.evaluations.get(n, {}).get("reward_by_prompt", {}) for n in (0, trained))
    both = [i for i in start if i in then]
    return [i for i in both if facts.position.get(i, 0) % 2 == 1] or both


def reward_change(facts: Facts, trained: int) -> tuple[float, float, float, tuple[float, float] | None] | None:
    """Mean reward at the start and then, the change and its paired interval; None where there is no reward."""
    ids = paired_ids(facts, trained)
    if not ids:
        return None
    before, after = ([facts.evaluations[n]["reward_by_prompt"][i] for i in ids] for n in (0, trained))
    change, low, high = paired_interval(before, after)
    return float(np.mean(before)), float(np.mean(after)), change, (low, high) if len(ids) > 1 else None
