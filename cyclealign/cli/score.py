"""``cyclealign score``: the command line of ``score_job``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cyclealign.cli.options import BlackBoxKeys, Seed
from cyclealign.config.ranker_kinds import kinds_help


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Candidates: Margin-MSE TSV, triples, BGE JSONL, …")],
    store: Annotated[Path, typer.Option(help="Score store (SQLite), made where there is none", show_default=False)],
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{kinds_help()}. Or file: the scores in FILE. Several are averaged",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="coherence:PATH: 1 to 5, by a model of distill quantidce", show_default=False),
    ] = None,
    options: BlackBoxKeys = None,
    format: Annotated[
        str,
        typer.Option(
            help="margin_mse, margin_mse_text, triples, rerank, trec, bge, rankllm, ntuples, lighton, sets, dialogues"
        ),
    ] = "auto",
    queries: Annotated[Path | None, typer.Option(help="Texts of query ids: TSV, JSONL", show_default=False)] = None,
    documents: Annotated[
        Path | None, typer.Option(help="Texts of document ids: TSV, JSONL", show_default=False)
    ] = None,
    file_gives: Annotated[
        Literal["order", "magnitude", "levels"] | None,
        typer.Option(help="What the scores in FILE are", show_default=False),
    ] = None,
    calibrate: Annotated[str, typer.Option(help="raw, zscore, minmax or temperature:T")] = "raw",
    write: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT:PATH",
            help="Write the scores: margin_mse, margin_mse_text, trec, bge, rankllm, ntuples, lighton",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option("--for", metavar="LOSS", help="Refuse teachers that cannot feed it")
    ] = None,
    seed: Seed = 42,
) -> None:
    """Score candidates once with any teacher, into a store; write the scores in any published format."""
    from cyclealign.files.printable import printable
    from cyclealign.scores.job import run_score_job
    from cyclealign.scores.plan import ScoreJob, checked_metric

    job = ScoreJob(
        file=file,
        store=store,
        teachers=(*(teacher or ()), *(() if metric is None else (checked_metric(metric),))),
        format=format,
        queries=queries,
        documents=documents,
        file_gives=file_gives,
        calibrate=calibrate,
        write=write,
        loss=loss,
        options=tuple(options or ()),
        seed=seed,
    )
    for line in run_score_job(job):
        print(printable(line), file=sys.stderr)
