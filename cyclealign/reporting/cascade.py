"""What a cascade saved and what it lost: one line, and a table by interaction."""

from __future__ import annotations

from collections.abc import Sequence

from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import CascadeFigures, Summary
from cyclealign.files.run_records import read_rankings
from cyclealign.rankers.pruning import audit_tau, audits, best_first
from cyclealign.reporting.figures import mean_interval
from cyclealign.reporting.first_judge import first_judge_text
from cyclealign.reporting.markup import Html, join, table, tag

Audits = tuple[list[float], list[float]]
"""Of the audited lists: tau, and whether the judge's first choice would still be first."""


def cascade_text(run: RunDir) -> str:
    """One line; empty where no list met a cascade."""
    counts, lost = _counts(run), _lost(run)
    if not counts:
        return ""
    found = counts.values()
    line = (
        f"{sum(c.pruned for c in found):,} lists pruned, {sum(c.alone for c in found):,} answered alone;"
        f" {sum(c.calls_saved for c in found):,} calls and about {sum(c.tokens_saved for c in found):,} tokens saved"
    )
    taus, first = ([value for columns in lost.values() for value in columns[n]] for n in (0, 1))
    if not taus:
        return f"{line}; no list audited yet"
    return f"{line}; on {len(taus)} audited lists tau {_mean(taus)}, the judge's first choice first in {_mean(first)}"


def cascade_section(run: RunDir) -> Html | None:
    """What the first judge's calibration says, and a row an interaction."""
    counts, lost = _counts(run), _lost(run)
    first = [tag("p", f"The first judge: {text}.")] if (text := first_judge_text(run)) else []
    if not counts:
        return join(first) if first else None
    head = ["interaction", "whole", "pruned", "alone", "audited", "calls saved", "tokens saved", "tau", "best first"]
    rows = [
        (
            str(n),
            *(f"{n:,}" for n in (c.whole, c.pruned, c.alone, c.audited, c.calls_saved, c.tokens_saved)),
            *(_mean(column) for column in lost.get(n, ([], []))),
        )
        for n, c in counts.items()
    ]
    note = (
        "Tau and best first: what the cascade would have said of the audited lists against the judge's order of all"
        " their candidates, means with 95% intervals. Tokens saved: an estimate of the texts that were not sent."
    )
    return join([*first, table(head, rows), tag("p", note, class_="note")])


def _counts(run: RunDir) -> dict[int, CascadeFigures]:
    found = [(int(i.path.name), read_record(Summary, i.summary)) for i in run.interactions() if i.summary.exists()]
    return {n: summary.cascade for n, summary in found if summary.cascade is not None}


def _lost(run: RunDir) -> dict[int, Audits]:
    if run.lists_file.exists():  # no cascade, and any number of lists
        return {}
    found = {int(i.path.name): audits(read_rankings(i.black_box).values()) for i in run.interactions()}
    return {n: ([audit_tau(p) for p in pairs], [best_first(p) for p in pairs]) for n, pairs in found.items() if pairs}


def _mean(values: Sequence[float]) -> str:
    """``0.82 (0.74 to 0.90)``; empty without values."""
    if not values:
        return ""
    mean, interval = mean_interval(values)
    return f"{mean:.2f} ({interval[0]:.2f} to {interval[1]:.2f})" if interval else f"{mean:.2f}"
