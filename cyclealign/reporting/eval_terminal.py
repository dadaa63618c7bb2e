"""What an eval says on the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cyclealign.evaluation.result import Result
from cyclealign.files.printable import printable
from cyclealign.reporting.eval_figures import Row, differences_of, figure_rows


def show_result(result: Result, console: Console | None = None) -> None:
    """Print warnings and figures; of subsets only what the eval is about (the page has the rest)."""
    console = console or Console()
    for warning in result.warnings:
        console.print(Text(printable(f"warning: {warning}"), style="bold"))
    subsets = {name: own.get(result.primary) for name, own in result.subsets.items()}
    found = {**result.metrics, "subsets": subsets, "differences": differences_of(result)}
    show_rows(result.eval if " " in result.eval else f"eval {result.eval}", figure_rows(found), console)


def show_rows(title: str, rows: Iterable[Row], console: Console) -> None:
    """A table of figures. Names and values may hold brackets, which rich would take for markup: they are Text."""
    table = Table(title=Text(printable(title)))
    table.add_column("figure", overflow="fold")
    for column in ("value", "95% interval", "n"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
