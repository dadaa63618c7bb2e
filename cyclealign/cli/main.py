"""The command line. Nothing heavy is imported before a command needs it, so that ``--help`` is instant.

Exit codes: 0 done; 1 the run stopped by one of its own rules (budget, too many unranked, a judge that is gone, a
generator that serves other weights) and can be resumed, or a fault of ours; 2 a mistake of the user's, in one readable
line; 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cyclealign.cli import demos as cli_demos
from cyclealign.cli import distill as cli_distill
from cyclealign.cli import prompts as cli_prompts
from cyclealign.cli.evals import eval_app
from cyclealign.cli.init import init
from cyclealign.cli.judge import judge
from cyclealign.cli.options import BlackBoxKeys, DryRun, RankerName, Seed
from cyclealign.cli.schema import schema
from cyclealign.cli.score import score
from cyclealign.cli.serve import serve
from cyclealign.files.outputs import check_apart, release
from cyclealign.files.printable import ForeignFormatter, one_line, readable_traceback, say
from cyclealign.models.processes import is_main, leave_process_group
from cyclealign.types import BudgetExhausted, RunStopped, UserError

if TYPE_CHECKING:
    from cyclealign.cycle.list_run import ListRun
    from cyclealign.cycle.starting import Cycle

app = typer.Typer(
    name="cyclealign",
    help="Align a language model that you own with the judgement of one that you can only call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(eval_app, name="eval")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
LONGEST_ERROR = 2000  # characters of an error's line
ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged config: quickstart, …")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides: loss.name=pro training.learning_rate=1e-5"),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory", show_default=False)]


@app.command()
def run(
    config: ConfigName,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Align a model: generate, rank twice, agree, train, repeat."""
    from cyclealign.config.loading import dump_config, load_config

    loaded = load_config(config, overrides or [])
    if dry_run:
        from cyclealign.cycle.dry_run import describe_worst_case

        _say(dump_config(loaded))
        _say("\n".join(describe_worst_case(loaded)))
        return
    from cyclealign.cycle.starting import Cycle

    _execute(lambda: Cycle.from_config(loaded), loaded.run_dir)


@app.command()
def resume(
    run: RunPath,
    overrides: Overrides = None,
    trust_host: Annotated[
        bool,
        typer.Option("--trust-host", help="Send the key to this run's API host, though you have not used it before"),
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run this run's own Python, though you have not run it before")
    ] = False,
) -> None:
    """Go on with a run. Budget, rates, concurrency, price, time limits, reporting and endpoints may change."""
    from cyclealign.cycle.starting import Cycle

    _execute(lambda: Cycle.resume(run, overrides or [], trust_host=trust_host, trust_code=trust_code), run)


@app.command()
def train(
    config: ConfigName,
    lists: Annotated[
        str,
        typer.Argument(
            metavar="LISTS",
            help="Ranked lists: rows with labels or scores (file, glob, hub id), a run directory",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
) -> None:
    """Train a policy by a ranking loss on lists that exist; nothing is sampled or judged."""
    from cyclealign.config.list_config import load_list_config
    from cyclealign.cycle.list_run import new_list_run

    loaded = load_list_config(config, lists, overrides or [])
    _execute(lambda: new_list_run(loaded), loaded.run_dir)


@app.command()
def quickstart(overrides: Overrides = None) -> None:
    """Run the whole loop with the embedded models: no key, no hub, no GPU."""
    from cyclealign.config.loading import load_config
    from cyclealign.cycle.starting import Cycle

    first = load_config("quickstart", overrides or [])
    names = [first.name, *(f"{first.name}-{n}" for n in range(2, 1000))]
    name = next((n for n in names if not (first.output_dir / n).exists()), None)
    if name is None:
        raise UserError(f"output_dir: {first.output_dir} holds {len(names)} runs called {first.name}; give name=...")
    config = first.model_copy(update={"name": name})
    _execute(lambda: Cycle.from_config(config), config.run_dir)


@app.command()
def status(run: RunPath) -> None:
    """Where a run stands, live or not."""
    from cyclealign.files.run_dir import open_run
    from cyclealign.reporting.alarms import alarm_lines
    from cyclealign.reporting.status import read_status, status_lines

    found = open_run(run)
    _say("\n".join([*status_lines(read_status(found)), *alarm_lines(found)]))


@app.command()
def rank(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL: prompt or messages, and candidates")],
    ranker: RankerName,
    options: BlackBoxKeys = None,
    out: Annotated[Path | None, typer.Option(help="Write here, not to stdout", show_default=False)] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Record of paid calls, not beside FILE", show_default=False)
    ] = None,
    seed: Seed = 42,
) -> None:
    """Rank any JSONL of candidate sets."""
    from cyclealign.rankers.rank_file import RankJob, rank_file

    job = RankJob(file=file, ranker=ranker, options=tuple(options or ()), out=out, ledger=ledger, seed=seed)
    print(rank_file(job), file=sys.stderr)


@app.command()
def export(
    run: RunPath,
    pairs: Annotated[
        Literal["best_worst", "adjacent", "all"] | None,
        typer.Option(help="TRL preference pairs of all rankings", show_default=False),
    ] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="The kept adapter, with a model card")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="A copy of the model with the adapter merged")] = False,
    out: Annotated[Path | None, typer.Option(help="Directory (default RUN/export)", show_default=False)] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Publish the model on the Hugging Face hub, with its card (log in with `hf auth login`, or HF_TOKEN)",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: nobody else may see it")] = False,
) -> None:
    """Write preference pairs and the kept model; without a choice, best-worst pairs and the adapter."""
    from cyclealign.cycle.export import Exports, export_run
    from cyclealign.cycle.hub import HubRepo

    if private and push is None:
        raise UserError("--private: is for --push OWNER/NAME, which is not given")
    repo = None if push is None else HubRepo(id=push, private=private)
    wanted = Exports(pairs=pairs, adapter=adapter, merged=merged, push=repo)
    if not (pairs or adapter or merged):
        wanted = Exports(pairs="best_worst", adapter=True, push=repo)
    for path in export_run(run, wanted, out or run / "export"):
        _say(str(path))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Page of several runs (default comparison.html)", show_default=False),
    ] = None,
) -> None:
    """Write the run's page (report.html) and print its figures, at any moment of a run; compare several runs."""
    from cyclealign.files.run_dir import open_run
    from cyclealign.reporting.summary import show_comparison, show_summary

    found = [open_run(run) for run in runs]
    if len(found) > 1:
        check_apart(out or Path("comparison.html"), runs)
        show_comparison(found, out or Path("comparison.html"))
        return
    if out is not None:
        raise UserError("report: --out is for several runs; one run's page is its report.html")
    show_summary(found[0])


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="A config to examine too")] = None,
    overrides: Overrides = None,
) -> None:
    """Check versions, GPU, vLLM, key, chat template and the judge's prompt. Calls and writes nothing."""
    from cyclealign.config.loading import load_config
    from cyclealign.cycle.doctor import examine

    broken = []
    for finding in examine(load_config(config, overrides or []) if config else None):
        detail = finding.detail.replace("\n", "\n    ")
        _say(f"{finding.state:>6}  {finding.about}: {detail}")
        if finding.state == "broken":
            broken.append(finding)
    if broken:
        raise UserError("; ".join(f"{f.about}: {f.detail}" for f in broken))


app.add_typer(cli_demos.app, name="demos")
app.add_typer(cli_prompts.app, name="prompts")
app.command()(init)
app.command()(schema)
app.command()(judge)
app.command()(score)
app.command()(serve)
app.add_typer(cli_distill.app, name="distill")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; mistakes of the user's become one line on stderr."""
    _keep_foreign_text_harmless()
    # Of the next major version of transformers; peft and trl have to mind it.
    warnings.filterwarnings(
        "ignore", r"`?(is_)?(gradient_checkpointing\w*|past_key_values)`? is deprecated", FutureWarning
    )
    logging.getLogger("cyclealign").setLevel(logging.INFO if is_main() else logging.ERROR)
    if not sys.stderr.isatty():
        # Progress bars are for people who watch; in a file they bury the one line that matters.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(args=arguments, prog_name="cyclealign", standalone_mode=False)
    except UserError as error:
        return _fail(str(error), 2)
    except typer.TyperException as error:
        return _fail(error.format_message(), 2)
    except (RunStopped, BudgetExhausted) as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _fail(f"{error.filename or 'the disk'}: {error.strerror}; make room and start the command again", 1)
        # A fault of ours. Typer would print the traceback as it is, with whatever a server wrote.
        print(readable_traceback(error), end="", file=sys.stderr)
        return 1
    finally:
        release()
    return int(code or 0)


def _execute(make: Callable[[], Cycle | ListRun], path: Path) -> None:
    """Make a run and run it, showing its progress; then what came of it."""
    from cyclealign.files.run_dir import RunDir
    from cyclealign.reporting.progress import shown
    from cyclealign.reporting.summary import show_summary

    run = RunDir(path)
    if not is_main():
        make().run()
        leave_process_group()
        return
    try:
        with shown(run):
            make().run()
    except (BudgetExhausted, RunStopped) as error:
        then = f"continue with: cyclealign resume {path}"
        if isinstance(error, BudgetExhausted):
            raise BudgetExhausted(f"{error}; {then} {error.key}=MORE") from error
        raise RunStopped(f"{error}; {then}") from error
    except KeyboardInterrupt:
        print(f"continue with: cyclealign resume {path}", file=sys.stderr)
        raise
    leave_process_group()
    show_summary(run)


def _say(text: str) -> None:
    if is_main():
        say(text)


def _fail(message: str, code: int) -> int:
    if is_main():
        print(f"error: {one_line(message, LONGEST_ERROR)}", file=sys.stderr)
    return code


def _keep_foreign_text_harmless() -> None:
    """What servers, files and models wrote reaches a log printable and without keys, tracebacks too."""
    handler = logging.StreamHandler()
    handler.setFormatter(ForeignFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
