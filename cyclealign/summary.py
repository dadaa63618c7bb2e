"""What a finished run says on the terminal: the before/after table, what was kept, and where the page lies."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cyclealign.report import headline, write_report
from cyclealign.run_dir import RunDir


def show_summary(run: RunDir, console: Console | None = None) -> None:
    """Write the report and print the figures that stand at its top; works at any moment of a run."""
    console = console or Console()
    figures = headline(run)
    if figures["rows"]:
        table = Table(title=f"{figures['name']}: held-out prompts, start model against {figures['label']}")
        table.add_column("measure")
        for column in ("start", figures["label"], "change", "95% interval"):
            table.add_column(column, justify="right")
        for row in figures["rows"]:
            table.add_row(row["measure"], *row["text"])
        console.print(table)
    # Names and paths may hold brackets, which rich would take for markup; and a path must not be wrapped.
    for line in (figures["status"], _kept(figures["kept"]), figures["spend"], f"report: {write_report(run)}"):
        if line:
            console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def _kept(kept: dict[str, object] | None) -> str:
    if kept is None:
        return ""
    which = "the start model" if kept["trained"] == 0 else f"the model after {kept['trained']} interactions"
    return f"kept: {which}; {kept['why']}"
