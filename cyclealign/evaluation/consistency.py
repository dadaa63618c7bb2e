"""Whether a judge reads what it ranks: one list shown in an order and in its reverse, both answers compared."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from statistics import fmean

from cyclealign.evaluation.statistics import Estimate, paired_difference
from cyclealign.files.records import read_records
from cyclealign.files.run_records import VerdictRecord
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.types import Ranking, Unranked, Vote


def reversal_tau(verdict: Ranking | Unranked) -> float | None:
    """Kendall's tau of the answers to an order and to its reverse: 1 for a judge that reads and never errs, near 0 for
    chance, -1 for one that goes by the slot; of several judges the mean. None where the list was not shown in both."""
    if isinstance(verdict, Unranked):
        return None
    if verdict.jury:
        taus = [tau for vote in verdict.jury if (tau := vote_tau(vote)) is not None]
        return fmean(taus) if taus else None
    return kendall_tau(verdict.passes[0], verdict.reverse) if verdict.reverse and verdict.passes else None


def vote_tau(vote: Vote) -> float | None:
    """``reversal_tau`` of one judge of several."""
    return kendall_tau(vote.passes[0], vote.reverse) if vote.reverse and vote.passes else None


def consistency(taus: Iterable[float]) -> Estimate | None:
    """Their mean with a 95% interval; None without any. A judge that answers by slot alone has the same tau each time:
    its interval is that point."""
    found = list(taus)
    estimate = paired_difference([0.0] * len(found), found)
    if estimate is not None and estimate.interval is None and estimate.n > 1:
        return Estimate(estimate.value, estimate.value, estimate.value, estimate.n)
    return estimate


def recorded_consistency(verdicts: Iterable[Path]) -> Estimate | None:
    """Of all lists of these files of verdicts that were shown in both orders."""
    records = chain.from_iterable(read_records(VerdictRecord, path, having="reverse") for path in verdicts)
    return consistency(tau for r in records if (tau := reversal_tau(r.verdict)) is not None)


def consistency_text(found: Estimate) -> str:
    """The figure, and what it says of the judge."""
    ends = "" if found.low is None or found.high is None else f" (95% {found.low:+.2f} to {found.high:+.2f})"
    return f"tau {found.value:+.2f}{ends} between {found.n} orders and their reverses: {_words(found)}"


def _words(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "too few lists to tell"
    if found.high < 0:
        return "it answers by the slot, not by what stands there"
    if found.low <= 0:
        return "not told from a coin"
    return "it reads what it ranks" if found.low >= 0.5 else "it reads, but often contradicts itself"
