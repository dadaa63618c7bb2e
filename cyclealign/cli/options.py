"""The options that measuring commands share: SET, PAIRS, --ranker, --ledger, --seed, --dry-run, --result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SetName = Annotated[str, typer.Argument(metavar="SET", help="JSONL file, builtin:rank, or a run directory")]
Pairs = Annotated[str, typer.Argument(metavar="PAIRS", help="Labelled pairs: HH-RLHF, TRL preference, hub id")]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the black_box section: base_url=http://… price.input=0.15"),
]
RankerName = Annotated[str, typer.Option(help="openai:MODEL", show_default=False)]
LedgerPath = Annotated[
    Path | None, typer.Option(help="Where calls are recorded (default runs/demos.ledger.sqlite)", show_default=False)
]
Seed = Annotated[int, typer.Option(help="Of the presentation orders and the choices")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what it can cost at most; call and write nothing")]
Result = Annotated[
    Path | None, typer.Option("--result", help="Write all figures and per-item records here (JSON)", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there")]
