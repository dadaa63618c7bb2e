"""What each judge of several said: a line for the terminal and a row of the report, by judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from statistics import fmean

from cyclealign.config.endpoints import judge_names
from cyclealign.evaluation.consistency import consistency, vote_tau
from cyclealign.evaluation.statistics import Estimate
from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import VerdictRecord
from cyclealign.judge.call import Spend
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.reporting.markup import Html, join, table, tag
from cyclealign.types import UserError, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFigures:
    """Of one judge, over the ranked lists. votes: lists on which it has one, of ``lists``. tau: mean Kendall tau of its
    orders with those of the others; itself: with its own of a list's reverse. why: what the last list without its vote
    says of that."""

    judge: str
    lists: int
    votes: int
    tau: Estimate | None
    itself: Estimate | None
    spend: Spend
    why: str

    @property
    def broken(self) -> bool:
        """Whether it has no vote on any list."""
        return self.lists > 0 and self.votes == 0


def judges_of(run: RunDir) -> list[JudgeFigures]:
    """Of each judge of a run with several, in the order in which the config names them; empty where one was asked."""
    files = [i.black_box for i in run.interactions()]
    records = chain.from_iterable(read_records(VerdictRecord, file, having="jury") for file in files)
    lists = [r.jury for r in records if r.jury]
    names = dict.fromkeys(vote.judge for votes in lists for vote in votes)
    spent = _spent(run) if lists else {}
    return [_figures(name, lists, spent.get(name, Spend())) for name in names]


def _figures(name: str, lists: Sequence[Sequence[Vote]], spend: Spend) -> JudgeFigures:
    own = [(vote, [v for v in votes if v.judge != name]) for votes in lists for vote in votes if vote.judge == name]
    given = [(vote, others) for vote, others in own if vote.passes]
    without = [vote.detail or vote.unranked or "" for vote, _ in own if not vote.passes]
    return JudgeFigures(
        judge=name,
        lists=len(own),
        votes=len(given),
        tau=consistency(fmean(taus) for vote, others in given if (taus := list(_taus(vote, others)))),
        itself=consistency(tau for vote, _ in given if (tau := vote_tau(vote)) is not None),
        spend=spend,
        why=without[-1] if without else "",
    )


def _taus(vote: Vote, others: Sequence[Vote]) -> Iterator[float]:
    for other in others:
        yield from (kendall_tau(a, b) for a, b in product(vote.passes, other.passes))


def _spent(run: RunDir) -> Mapping[str, Spend]:
    if not run.ledger.exists():
        return {}
    try:
        with Ledger(run.ledger, read_only=True) as ledger:
            found = ledger.spend_by_judge()
    except UserError:  # what is paid is another line's, which says so
        return {}
    return dict(zip(judge_names(list(found)), found.values(), strict=True))


def jury_lines(run: RunDir) -> list[str]:
    """For the terminal: a line a judge."""
    return [_line(figures) for figures in judges_of(run)]


def _line(f: JudgeFigures) -> str:
    if f.broken:
        return f"judge {f.judge}: BROKEN, no vote on any of {f.lists:,} lists ({f.why})"
    parts = [f"votes on {f.votes:,} of {f.lists:,} lists"]
    parts += [f"tau {f.tau.value:+.2f} with the others"] if f.tau is not None else []
    parts += [f"{f.itself.value:+.2f} with itself in reverse"] if f.itself is not None else []
    parts += [f"${f.spend.usd:.4f}, {f.spend.calls:,} calls"] if f.spend.calls else []
    parts += [f"last without: {f.why}"] if f.why else []
    return f"judge {f.judge}: {', '.join(parts)}"


def jury_section(run: RunDir) -> Html | None:
    """A row a judge; a broken one is named above the table."""
    found = judges_of(run)
    if not found:
        return None
    broken = [
        tag("p", f"{f.judge} is broken: no vote on any of {f.lists:,} lists ({f.why}).", class_="status")
        for f in found
        if f.broken
    ]
    head = ["judge", "lists", "votes", "tau with the others", "tau with itself", "calls", "USD", "last without a vote"]
    rows = [
        (
            f.judge,
            f"{f.lists:,}",
            f"{f.votes:,}",
            _interval(f.tau),
            _interval(f.itself),
            f"{f.spend.calls:,}",
            f"{f.spend.usd:.4f}",
            f.why,
        )
        for f in found
    ]
    note = (
        "Over the lists that were ranked. Tau with the others: Kendall's, of its orders with those of every other judge"
        " on the same list; with itself: of the lists that it was also shown in reverse; means with 95% intervals."
    )
    return join([*broken, table(head, rows), tag("p", note, class_="note")])


def _interval(found: Estimate | None) -> str:
    if found is None:
        return ""
    ends = "" if found.low is None or found.high is None else f" ({found.low:+.2f} to {found.high:+.2f})"
    return f"{found.value:+.2f}{ends}"
