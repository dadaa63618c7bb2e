"""The figures of one interaction or evaluation under the names by which experiment trackers get them.

Transformers' integrations write names that begin with ``eval_`` as ``eval/…`` and all others as ``train/…``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cyclealign.files.jsonl import read_json
from cyclealign.files.run_dir import RunDir
from cyclealign.judge.ledger import Ledger

SUMMARY = ("ranked", "settled", "accepted", "pool", "agreement", "agreement_corrected", "pass_tau")
CASCADE = ("pruned", "alone", "audited", "calls_saved", "tokens_saved", "tau", "best_first")
EVALUATION = ("reward", "reward_choosing", "nll_start", "mean_words", "distinct1", "distinct2")


class Tracker(Protocol):
    """Takes figures as they come; called on the main process only."""

    def log(self, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """For runs that report to nobody."""

    def log(self, figures: Mapping[str, float]) -> None:
        """Nobody asked."""

    def close(self) -> None:
        """Nothing is open."""


def interaction_metrics(run: RunDir, index: int) -> dict[str, float]:
    """Of a summary that is on disk: agreement, counts, what was spent so far, and what a cascade saved and lost."""
    summary = read_json(run.interaction(index).summary)
    unranked = float(sum(summary["unranked"].values()))
    figures = {"interaction": float(index), "unranked": unranked, **_numbers(summary, SUMMARY), **_spent(run)}
    cascade = _numbers(summary.get("cascade") or {}, CASCADE)
    figures |= {f"cascade_{name}": value for name, value in cascade.items()}
    return {f"cycle/{name}": value for name, value in figures.items()}


def evaluation_metrics(run: RunDir, trained: int) -> dict[str, float]:
    """Of an evaluation that is on disk: reward, drift, and both rankers' accuracy on labelled pairs."""
    metrics = read_json(run.evaluation(trained) / "metrics.json")
    boxes = {box: metrics[box]["accuracy"] for box in ("white_box_accuracy", "black_box_accuracy") if metrics.get(box)}
    figures = {**_numbers(metrics, EVALUATION), **boxes, "interactions_trained": float(trained)}
    return {f"eval_{name}": float(value) for name, value in figures.items()}


def _numbers(record: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(record[name]) for name in names if record.get(name) is not None}


def _spent(run: RunDir) -> dict[str, float]:
    if not run.ledger.exists():
        return {}
    with Ledger(run.ledger, read_only=True) as ledger:
        spend = ledger.spend()
    tokens = spend.input_tokens + spend.output_tokens
    return {"usd": spend.usd, "calls": float(spend.calls), "judge_tokens": float(tokens)}
