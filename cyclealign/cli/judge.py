"""``cyclealign judge``: is this judge any good, before a run pays it?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cyclealign.cli.options import DryRun, Limit, Out, Seed
from cyclealign.cli.results import checked, finish
from cyclealign.files.printable import one_line, say
from cyclealign.types import UserError

LONGEST_LINE = 2000  # characters


def judge(
    judges: Annotated[
        list[str],
        typer.Argument(
            metavar="JUDGE... [KEY=VALUE]...",
            help="Models of an API, YAML files with a black_box section, or local, reward_model:PATH, …; keys of"
            " the black_box section for all of them",
        ),
    ],
    data: Annotated[str, typer.Option(help="Labelled lists: path, glob, hub id")] = "builtin:judge-lists",
    subset: Annotated[str | None, typer.Option(help="Only subsets whose name begins so")] = None,
    limit: Limit = None,
    out: Out = Path("judges.json"),
    seed: Seed = 42,
    dry_run: DryRun = False,
) -> None:
    """Judges side by side on labelled lists: accuracy, consistency, biases, tokens, time and money."""
    from cyclealign.evaluation.judges import drawn, judges_result, measure_judges, named_judges
    from cyclealign.evaluation.judging import price
    from cyclealign.files.labelled import load_labelled
    from cyclealign.reporting.judge_table import show_judges

    named = named_judges(judges, seed=seed)
    items = drawn(load_labelled(data, subset=subset), limit, seed=seed)
    if dry_run:
        for each in named:
            say("\n".join(f"{each.name}: {line}" for line in price([i.set for i in items], each.judge)))
        return
    checked(out, data)
    rows, failed = measure_judges(named, items, out)
    if rows:
        result = judges_result(rows, failed, items, data=data, seed=seed)
        show_judges(result)
        finish(result, out, show=False)
    for failure in failed:
        print(f"error: {one_line(failure.line, LONGEST_LINE)}", file=sys.stderr)
    if failed:
        raise typer.Exit(2 if any(isinstance(failure.error, UserError) for failure in failed) else 1)
