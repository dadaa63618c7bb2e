"""``cyclealign eval``: the offline evals as commands. Heavy imports are inside, as in ``cli``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cyclealign.evaluation.result import Result

eval_app = typer.Typer(help="Offline preference evals with error bars.", no_args_is_help=True)

RankerName = Annotated[
    str,
    typer.Option("--ranker", help="local, reward_model:PATH, replay:PATH, policy:PATH or openai:MODEL"),
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the black_box section: base_url=http://… passes=2"),
]
Out = Annotated[Path, typer.Option(help="Result file; its page and ledger lie beside it")]
Seed = Annotated[int, typer.Option(help="Of presentation orders and bootstraps")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show calls, tokens and money; call and write nothing")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many items")]


@eval_app.command()
def ranker(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled pairs or lists: path, glob or hub id")],
    ranker: RankerName,
    options: Options = None,
    subset: Annotated[str | None, typer.Option(help="Only subsets whose name begins so")] = None,
    limit: Limit = None,
    repeats: Annotated[int, typer.Option(min=1, help="Put all questions so often, for self-consistency")] = 1,
    out: Out = Path("eval_ranker.json"),
    seed: Seed = 42,
    dry_run: DryRun = False,
) -> None:
    """A ranker on labelled pairs and lists: accuracy, position and length bias, cost."""
    from cyclealign.evaluation.judging import Judge, price
    from cyclealign.evaluation.labelled import load_labelled
    from cyclealign.evaluation.ranker import RankerEval, evaluate_ranker

    judge = Judge(spec=ranker, options=tuple(options or ()), seed=seed)
    items = load_labelled(data, subset=subset, limit=limit)
    if dry_run:
        _say(price([i.set for i in items], judge, repeats=repeats))
        return
    _checked(out)
    job = RankerEval(data=data, judge=judge, repeats=repeats)
    _finish(evaluate_ranker(job, items, out), out)


def _checked(out: Path) -> None:
    from cyclealign.evaluation.result import check_output

    check_output(out)


def _finish(result: Result, out: Path) -> None:
    """Write result and page, and say what came of it."""
    from cyclealign.evaluation.page import write_page
    from cyclealign.evaluation.result import write_result
    from cyclealign.evaluation.terminal import show_result

    write_result(out, result)
    page = write_page(out.with_suffix(".html"), result)
    show_result(result)
    _say([f"result: {out}", f"page: {page}"])


def _say(lines: Sequence[str]) -> None:
    print("\n".join(lines))
