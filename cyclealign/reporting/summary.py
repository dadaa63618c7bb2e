"""What a finished run says on the terminal: the before/after table, what was kept, and where the page lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cyclealign.files.printable import printable
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.alarms import alarm_line
from cyclealign.reporting.comparison import columns_of, differences, ends, write_comparison
from cyclealign.reporting.headline import headline
from cyclealign.reporting.jury import jury_lines
from cyclealign.reporting.page import write_report


def show_summary(run: RunDir, console: Console | None = None) -> None:
    """Write the report and print the figures that stand at its top; works at any moment of a run."""
    console = console or Console()
    figures = headline(run)
    if figures.rows:
        what = "lists" if figures.lists else "prompts"
        table = Table(title=f"{figures.name}: held-out {what}, start model against {figures.label}")
        table.add_column("measure")
        for column in ("start", figures.label, "change", "95% interval"):
            table.add_column(column, justify="right")
        for row in figures.rows:
            table.add_row(row.measure, *row.text)
        console.print(table)
    # Names and paths may hold brackets, which rich would take for markup; and a path must not be wrapped.
    judge = f"judge: {figures.judge}" if figures.judge else ""
    cascade = f"cascade: {figures.cascade}" if figures.cascade else ""
    own = f"its own replies: {figures.answers}" if figures.answers else ""
    kept = f"kept: {figures.kept_text}" if figures.kept_text else ""
    keeps = f"keeps: {figures.keeps}" if figures.keeps else ""
    page = f"report: {write_report(run)}"
    judges = [judge, *jury_lines(run)]
    lines = (figures.status, kept, keeps, figures.spend, *judges, cascade, own, *map(alarm_line, figures.alarms), page)
    for line in lines:
        if line:
            console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def show_comparison(runs: Sequence[RunDir], out: Path, console: Console | None = None) -> None:
    """Write the page of several runs and print their figures side by side."""
    console = console or Console()
    columns = columns_of(runs)
    table = Table(title="change from the start model to the kept one, with 95% intervals")
    table.add_column("measure")
    for column in columns:
        table.add_column(Text(printable(column.name)), justify="right", overflow="fold")
    rows = {(c.name, row.measure): row.text for c in columns for row in c.figures.rows}
    for measure in dict.fromkeys(measure for _, measure in rows):
        texts = [rows.get((c.name, measure), ("",) * 4) for c in columns]
        table.add_row(Text(measure), *(f"{change}\n{interval}" for _, _, change, interval in texts))
    console.print(table)
    for first, second, gap in differences(columns):
        line = f"kept reward, {second} - {first}: {gap.value:+.4f} ({ends(gap)}) over {gap.n} prompts"
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    page = write_comparison(out, columns)
    console.print(printable(f"comparison: {page}"), markup=False, highlight=False, soft_wrap=True)
