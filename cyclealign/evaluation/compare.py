"""``cyclealign eval compare``: several results, or runs, in one table, with paired tests and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.result import Difference, Result, make_result, read_result
from cyclealign.evaluation.statistics import Estimate, bootstrap_mean, holm, paired_difference
from cyclealign.files.run_dir import RunDir
from cyclealign.types import UserError

RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One column: ``values`` of the eval's primary figure by item; ``mean``: the figure as its own file has it."""

    name: str
    eval: str
    primary: str
    values: Mapping[str, float]
    mean: Estimate | None = None


def load_compared(paths: Sequence[Path]) -> list[Compared]:
    """Result files, and runs (reward of the start and of the kept model on the reporting half).

    Raises:
        UserError: a file that is no result, results of different evals, or fewer than two of them.
    """
    found = [c for path in paths for c in (_of_run(path) if path.is_dir() else _of_result(path))]
    if len(found) < 2:
        raise UserError("compare needs two results at least")
    kinds = {(c.eval, c.primary) for c in found}
    if len(kinds) > 1:
        raise UserError(f"compare: results of one eval only; got {', '.join(sorted(' '.join(k) for k in kinds))}")
    names = [c.name for c in found]
    if len(set(names)) < len(names):
        raise UserError("compare: the results must have different file names")
    return found


def _of_result(path: Path) -> list[Compared]:
    result = read_result(path)
    found = [_column(path, result, arm) for arm in result.arms or (None,)]
    if not any(c.values for c in found):
        raise UserError(f"{path}: its items have no values to compare (eval {result.eval})")
    return found


def _column(path: Path, result: Result, arm: str | None) -> Compared:
    values: dict[str, list[float]] = {}
    for item in result.items:
        value = item.value if arm is None else item.values.get(arm)
        if value is not None:
            values.setdefault(item.key, []).append(value)
    # An item that stands twice in the data counts once, with its mean.
    means = {key: fmean(v) for key, v in values.items()}
    mean = (result.metrics if arm is None else result.subsets.get(arm, {})).get(result.primary)
    return Compared(
        name=path.stem if arm is None else f"{path.stem}@{arm}",
        eval=result.eval,
        primary=result.primary,
        values=means,
        mean=mean if isinstance(mean, Estimate) else None,
    )


def _of_run(path: Path) -> list[Compared]:
    run = RunDir(path)
    evaluations, kept = run.evaluations(), run.kept()
    if kept is None or not evaluations:
        raise UserError(f"{path}: no finished run with evaluations")
    halves = Halves.of(run.eval_prompts())
    columns = {"start": 0, "kept": kept.trained}
    found = []
    for name, trained in columns.items():
        rewards = evaluations[trained].rewards if trained in evaluations else {}
        reporting = {i: rewards[i] for i in halves.reporting(rewards)}
        if not reporting:
            raise UserError(f"{path}: its evaluations have no reward (cycle.scorer)")
        found.append(Compared(name=f"{path.name}@{name}", eval="run", primary="reward", values=reporting))
    return found


def compare(found: Sequence[Compared], *, seed: int) -> Result:
    """Means, and for every two results the paired difference, a randomisation test, and Holm's adjustment over all.

    Pairs are over the items that both have; the test draws signs of the differences (exact where they are few).

    Raises:
        UserError: two results without a common item.
    """
    gaps: list[tuple[str, Estimate | None, float]] = []
    for first, second in combinations(found, 2):
        keys = [k for k in first.values if k in second.values]
        if not keys:
            raise UserError(f"compare: {first.name} and {second.name} have no item in common")
        a, b = [first.values[k] for k in keys], [second.values[k] for k in keys]
        gaps.append((f"{second.name} - {first.name}", paired_difference(a, b), paired_p(a, b, seed)))
    adjusted = holm([p for _, _, p in gaps])
    return make_result(
        "compare",
        about={"results": ", ".join(c.name for c in found), "eval": found[0].eval},
        seed=seed,
        metrics={},
        subsets={c.name: {c.primary: c.mean or bootstrap_mean(list(c.values.values()), seed=seed)} for c in found},
        differences={
            name: Difference(difference=gap, p=p, p_holm=q) for (name, gap, p), q in zip(gaps, adjusted, strict=True)
        },
        items=(),
        primary=found[0].primary,
    )


def paired_p(first: Sequence[float], second: Sequence[float], seed: int) -> float:
    """Two-sided p-value of a paired randomisation test of the mean difference; 1.0 where nothing differs."""
    from scipy.stats import permutation_test

    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    moved = differences[differences != 0]
    if len(moved) < 2:  # the one difference has two signs, both as large
        return 1.0
    zeros = np.zeros_like(moved)

    def mean_difference(a: Any, b: Any, axis: int) -> Any:
        return (a - b).mean(axis=axis)

    test = permutation_test(
        (moved, zeros),
        mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(moved)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)
