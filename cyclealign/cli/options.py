"""The options that several commands share: each is declared here, once, and says the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cyclealign.config.ranker_kinds import kinds_help

SetName = Annotated[str, typer.Argument(metavar="SET", help="JSONL file, builtin:rank, or a run directory")]
LabelledPairs = Annotated[str, typer.Argument(metavar="PAIRS", help="Labelled pairs: HH-RLHF, TRL preference, hub id")]
BlackBoxKeys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Keys of the black_box section: base_url=http://… passes=2 price.input=0.15"
    ),
]
RankerName = Annotated[str, typer.Option("--ranker", help=kinds_help(), show_default=False)]
JudgeName = Annotated[str, typer.Option("--ranker", help=kinds_help("demonstrations"), show_default=False)]
LedgerPath = Annotated[
    Path | None, typer.Option(help="Where calls are recorded (default runs/demos.ledger.sqlite)", show_default=False)
]
Seed = Annotated[int, typer.Option(help="Of presentation orders, choices and bootstraps")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what it can cost at most; call and write nothing")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many items")]
MostPairs = Annotated[int, typer.Option("--limit", min=1, help="Most labelled pairs")]
TokenBudget = Annotated[int, typer.Option(help="demonstrations.token_budget of the run")]
ResultPath = Annotated[
    Path | None,
    typer.Option("--result", help="Write all figures and items here (.json); a page beside it", show_default=False),
]
Out = Annotated[Path, typer.Option(help="Result file; its page and ledger lie beside it")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there")]
