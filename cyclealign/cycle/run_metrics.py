"""The figures of one interaction or evaluation under the names by which experiment trackers get them.

Transformers' integrations write names that begin with ``eval_`` as ``eval/…`` and all others as ``train/…``.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Protocol

from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Accuracy, CascadeFigures, Metrics, Summary
from cyclealign.judge.ledger import Ledger

Figures = Mapping[str, float | None]


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
    s = read_record(Summary, run.interaction(index).summary)
    figures: Figures = {
        "interaction": index,
        "unranked": sum(s.unranked.values()),
        "ranked": s.ranked,
        "settled": s.settled,
        "accepted": s.accepted,
        "pool": s.pool,
        "agreement": s.agreement,
        "agreement_corrected": s.agreement_corrected,
        "pass_tau": s.pass_tau,
    }
    return numbers("cycle/", {**figures, **_spent(run), **({} if s.cascade is None else _saved(s.cascade))})


def _saved(c: CascadeFigures) -> Figures:
    return {
        "cascade_pruned": c.pruned,
        "cascade_alone": c.alone,
        "cascade_audited": c.audited,
        "cascade_calls_saved": c.calls_saved,
        "cascade_tokens_saved": c.tokens_saved,
        "cascade_tau": c.tau,
        "cascade_best_first": c.best_first,
    }


def evaluation_metrics(run: RunDir, trained: int) -> dict[str, float]:
    """Of an evaluation that is on disk: reward, drift, and both rankers' accuracy on labelled pairs."""
    m = read_record(Metrics, run.evaluation(trained) / "metrics.json")
    figures: Figures = {
        "reward": m.reward,
        "reward_choosing": m.reward_choosing,
        "ranker_gain": fmean(m.ranker_by_prompt.values()) if m.ranker_by_prompt else None,
        "nll_start": m.nll_start,
        "mean_words": m.mean_words,
        "distinct1": m.distinct1,
        "distinct2": m.distinct2,
        "white_box_accuracy": _share(m.white_box_accuracy),
        "black_box_accuracy": _share(m.black_box_accuracy),
        "interactions_trained": trained,
    }
    return numbers("eval_", figures)


def _share(found: Accuracy | None) -> float | None:
    return None if found is None else found.accuracy


def numbers(prefix: str, figures: Figures) -> dict[str, float]:
    """The figures that there are, with their names' beginning."""
    return {f"{prefix}{name}": float(value) for name, value in figures.items() if value is not None}


def _spent(run: RunDir) -> dict[str, float]:
    if not run.ledger.exists():
        return {}
    with Ledger(run.ledger, read_only=True) as ledger:
        spend, watching = ledger.spend("judge"), ledger.spend("witness")
    tokens = spend.input_tokens + spend.output_tokens
    witness = {"witness_usd": watching.usd, "witness_calls": float(watching.calls)} if watching.calls else {}
    return {"usd": spend.usd, "calls": float(spend.calls), "judge_tokens": float(tokens), **witness}
