"""What ``cyclealign judge`` says on the terminal: one row a judge, then how far they differ."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cyclealign.evaluation.result import Result
from cyclealign.evaluation.statistics import Estimate, Figure, Figures
from cyclealign.files.printable import printable

WIDE = 180  # columns where nobody's window says how many there are
COLUMNS = (
    "judge",
    "accuracy",
    "hard lists",
    "consistency",
    "first slot",
    "length",
    "unusable, refused, failed",
    "tokens in / thinking / out",
    "seconds",
    "USD",
    "answers as",
)
NOTE = "tokens, seconds and USD: for 1,000 lists; length: how much more often the longer wins than by label"


def show_judges(result: Result, console: Console | None = None) -> None:
    """Print the table of a result with an arm for each judge."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    chance = result.metrics.get("accuracy_of_chance")
    by_chance = f"accuracy by chance: {chance:.1%}; " if isinstance(chance, float) else ""
    table = Table(title=f"judges on {result.metrics['items']} lists, each in two orders", caption=by_chance + NOTE)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for name in result.arms:
        # Names may hold brackets, which rich would take for markup.
        table.add_row(*(Text(printable(cell)) for cell in (name, *judge_cells(result.subsets[name]))))
    console.print(table)
    for pair, found in result.differences.items():
        gap = found.difference
        ends = gap.interval if gap else None
        said = f"{gap.value:+.1%} ({ends[0]:+.1%} to {ends[1]:+.1%})" if gap and ends else "no interval"
        console.print(Text(printable(f"accuracy, {pair}: {said}")))


def judge_cells(figures: Figures) -> tuple[str, ...]:
    """The row of a judge, after its name; a dash where there is no such figure."""
    position, length, none, cost = (
        found if isinstance(found := figures.get(name), Mapping) else {}
        for name in ("position_bias", "length_bias", "unranked", "per_1000_lists")
    )
    excess = length.get("excess")
    return (
        _share(figures.get("accuracy")),
        _share(figures.get("accuracy_hard")),
        _plain(figures.get("consistency")),
        _first_slot(position),
        f"{excess:+.2f}" if isinstance(excess, float) else "-",
        ", ".join(str(none.get(reason, 0)) for reason in ("unusable", "refusal", "error")),
        " / ".join(_count(cost.get(f"{name}_tokens")) for name in ("input", "thinking", "output")),
        _count(cost.get("seconds")),
        f"{usd:.2f}" if isinstance(usd := cost.get("usd"), float) else "-",
        str(cost.get("form", "-")),
    )


def _first_slot(position: Figures) -> str:
    found, chance = position.get("first_slot_share"), position.get("first_slot_chance")
    if not isinstance(found, Estimate) or not isinstance(chance, float):
        return "-"
    return f"{found.value:.0%} (chance {chance:.0%})"


def _share(found: Figure) -> str:
    if not isinstance(found, Estimate):
        return "-"
    ends = found.interval
    return f"{found.value:.1%} ({ends[0]:.1%} to {ends[1]:.1%})" if ends else f"{found.value:.1%}"


def _plain(found: Figure) -> str:
    if not isinstance(found, Estimate):
        return "-"
    ends = found.interval
    return f"{found.value:.2f} ({ends[0]:.2f} to {ends[1]:.2f})" if ends else f"{found.value:.2f}"


def _count(found: Figure) -> str:
    return f"{found:,.0f}" if isinstance(found, int | float) else "-"
