"""What a run paid and how long it took: one line, a table, and bars stacked by stage."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Timing
from cyclealign.judge.call import Spend
from cyclealign.judge.ledger import Ledger
from cyclealign.reporting.charts import BarChart
from cyclealign.reporting.figures import Facts
from cyclealign.reporting.markup import Html, table
from cyclealign.reporting.status import tokens
from cyclealign.types import UserError

STAGES = ("generate_and_rank", "white_box", "train", "evaluate")  # in the order of their bars; others above
PURPOSES = {
    "rank": "ranking",
    "again": "lists shown again",
    "repair": "repairs",
    "answer": "own replies",
    "eval": "measuring the judge",
    "witness": "witness",
    "probe": "probe",
}
Groups = dict[tuple[int | None, str], Spend]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """Totals over ``all`` calls, those of the judge and those of the witness; and by interaction and purpose."""

    all: Spend
    judge: Spend
    witness: Spend
    groups: Groups


def spending(run: RunDir) -> Paid | str:
    """What a run paid, or why it paid nothing."""
    if not run.ledger.exists():
        return "no paid calls"
    try:
        with Ledger(run.ledger, read_only=True) as ledger:
            return Paid(
                all=ledger.spend(),
                judge=ledger.spend("judge"),
                witness=ledger.spend("witness"),
                groups=ledger.spend_by_stage(),
            )
    except (UserError, sqlite3.Error) as error:
        return f"the ledger cannot be read: {error}"


def spend_text(run: RunDir, facts: Facts) -> str:
    """One line on what was paid for, the witness apart from the judge."""
    found, known = spending(run), facts.settings
    backend = known.backend or "unknown"
    if isinstance(found, str):
        return f"{found} (black box: {backend})"
    none = f"no paid calls (black box: {backend})"
    judge = _account_text(found.judge, known.priced, known.budget_usd) if found.judge.calls else none
    if not found.witness.calls:
        return judge
    return f"{judge}; the witness {_account_text(found.witness, known.witness_priced, known.witness_budget_usd)}"


def _account_text(spend: Spend, priced: bool, budget_usd: float | None) -> str:
    money = f"{spend.usd:.4f} USD" if priced else "no price given"
    if priced and budget_usd is not None:
        money += f" of {budget_usd:g}"
    waiting = f"; {spend.unfinished} without a reply, at most {spend.reserved_usd:.4f} USD" if spend.unfinished else ""
    return f"{money}, {spend.calls:,} calls ({spend.failed:,} failed), {tokens(spend)}{waiting}"


def spend_table(run: RunDir) -> Html | None:
    """Calls, tokens and money by purpose."""
    found = spending(run)
    if isinstance(found, str) or not found.all.calls:
        return None
    head = [
        "calls",
        "failed",
        "no reply",
        "sent again",
        "tokens in",
        "of them cached",
        "tokens out",
        "of them thinking",
    ]
    head += ["USD", "USD at most, no reply"]
    by_purpose: dict[str, list[Spend]] = defaultdict(list)
    for (_, purpose), spend in found.groups.items():
        by_purpose[purpose].append(spend)
    rows = [(PURPOSES.get(p, p), *_cells(by_purpose[p])) for p in _ordered(by_purpose)]
    return table(["purpose", *head], [*rows, ("all", *_cells([found.all]))])


def _cells(spends: list[Spend]) -> list[str]:
    outcomes = ("calls", "failed", "unfinished", "repeated")
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "thinking_tokens")
    money = ("usd", "reserved_usd")
    return [
        *(f"{sum(getattr(s, name) for s in spends):,}" for name in (*outcomes, *tokens)),
        *(f"{sum(getattr(s, name) for s in spends):.4f}" for name in money),
    ]


def spend_chart(run: RunDir) -> BarChart | None:
    """Money by interaction, stacked by what it was for; tokens where no call had a price."""
    found = spending(run)
    if isinstance(found, str) or not found.all.calls:
        return None
    total, groups = found.all, found.groups
    purposes = _ordered({purpose for _, purpose in groups})
    interactions = sorted({n for n, _ in groups}, key=lambda n: -1 if n is None else n)
    money = total.usd + total.reserved_usd > 0
    open_calls = money and total.reserved_usd > 0

    def bar(n: int | None) -> tuple[float, ...]:
        spends = [groups.get((n, p), Spend()) for p in purposes]
        paid = [s.usd if money else float(s.input_tokens + s.output_tokens) for s in spends]
        return (*paid, sum(s.reserved_usd for s in spends)) if open_calls else tuple(paid)

    by_evaluation = {"eval", "witness"} & set(purposes)
    return BarChart(
        key="spend",
        title="Spend by stage",
        x_label="interaction",
        y_label="USD" if money else "tokens (no price given)",
        parts=(*(PURPOSES.get(p, p) for p in purposes), *(("without a reply, at most",) if open_calls else ())),
        bars=tuple(("probe" if n is None else str(n), bar(n)) for n in interactions),
        note="What evaluation n has paid for is counted with interaction n." if by_evaluation else "",
    )


def _ordered(purposes: Collection[str]) -> list[str]:
    return [*(p for p in PURPOSES if p in purposes), *sorted(p for p in purposes if p not in PURPOSES)]


def time_chart(run: RunDir) -> BarChart | None:
    """Minutes per stage; evaluation n, which comes before interaction n, stands in its bar."""
    seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in read_records(Timing, run.timings):
        seconds[row.interaction][row.stage] += row.seconds
    if not seconds:
        return None
    stages = list(dict.fromkeys([*STAGES, *(stage for s in seconds.values() for stage in s)]))
    unit, size = ("minutes", 60.0) if max(sum(s.values()) for s in seconds.values()) >= 120 else ("seconds", 1.0)
    return BarChart(
        key="time",
        title="Time by stage",
        x_label="interaction",
        y_label=unit,
        parts=tuple(s.replace("_", " ") for s in stages),
        bars=tuple((str(n), tuple(seconds[n][stage] / size for stage in stages)) for n in sorted(seconds)),
        note="Evaluation n, of the policy that interaction n starts from, stands in bar n. A stage that a kill cut"
        " short is not counted.",
    )
