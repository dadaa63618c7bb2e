"""How often the black box puts its own reply first, where it is among the candidates."""

from __future__ import annotations

from cyclealign.evaluation.statistics import share
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Summary


def answers_text(run: RunDir) -> str:
    """One line; empty where no list holds such a reply."""
    summaries = (read_record(Summary, i.summary) for i in run.interactions() if i.summary.exists())
    found = [s.answers for s in summaries if s.answers is not None]
    lists = sum(f.ranked for f in found)
    first = share(sum(f.first for f in found), lists)
    if first is None or first.low is None or first.high is None:
        return ""
    chance = sum(f.by_chance for f in found) / lists
    return (
        f"first in {first.value:.1%} of {lists:,} lists ({first.low:.1%} to {first.high:.1%}), {chance:.1%} by chance"
    )
