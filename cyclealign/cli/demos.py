"""``cyclealign demos``: demonstrations built, read, changed, checked and measured before a run pays for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cyclealign.cli.measure import measure, search
from cyclealign.cli.options import Force, Seed, SetName, TokenBudget
from cyclealign.files.printable import say
from cyclealign.types import UserError

if TYPE_CHECKING:
    from cyclealign.curation.sets import DemonstrationSet

app = typer.Typer(no_args_is_help=True, help="Demonstrations: build, read, change, check, measure and review them.")
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, or their first digits")]
Template = Annotated[str, typer.Option(help="Packaged ranking template, or a YAML file")]


@app.command()
def build(
    source: Annotated[str, typer.Argument(metavar="PAIRS_OR_RUN", help="Labelled pairs, or a run directory")],
    out: Annotated[Path, typer.Option(help="Write the set here", show_default=False)],
    size: Annotated[int, typer.Option(min=1, help="How many demonstrations")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of one, by estimate")] = 240,
    held_out: Annotated[
        str | None,
        typer.Option(help="Eval data that must not be shown: near-copies are passed over", show_default=False),
    ] = None,
    missed: Annotated[
        Path | None,
        typer.Option(help="Result of demos eval: pairs that the judge got wrong come first", show_default=False),
    ] = None,
    gate: Annotated[float, typer.Option(help="Of a run: least chance-corrected agreement")] = 0.3,
    encoder: Annotated[Literal["auto", "minilm", "tfidf"], typer.Option(help="What compares texts")] = "auto",
    limit: Annotated[int, typer.Option(help="Most prompts to choose from")] = 2000,
    template: Template = "rank",
    seed: Seed = 42,
    force: Force = False,
) -> None:
    """Choose a small, varied, balanced set from labelled pairs or from a run's agreements. Pays for nothing."""
    from cyclealign.curation.build import BuildPlan, build, from_pairs, from_run
    from cyclealign.curation.embedding import encoder as encoder_of
    from cyclealign.curation.sets import new_file
    from cyclealign.curation.worth import missed_prompts
    from cyclealign.files.prompts import load_prompts
    from cyclealign.judge.template import load_template

    held = load_prompts(held_out) if held_out else []
    wrong = missed_prompts(missed) if missed else frozenset()
    run = Path(source).is_dir() and (Path(source) / "config.yaml").exists()
    options = from_run(Path(source), gate=gate, seed=seed) if run else from_pairs(load_prompts(source, limit=limit))
    plan = BuildPlan(size=size, max_tokens=max_tokens, seed=seed, missed=wrong)
    _changed(new_file(out, build(options, plan, load_template(template), encoder_of(encoder), held), force=force))


@app.command()
def show(found: SetName, ids: Ids = None, template: Template = "rank") -> None:
    """List a set, or print demonstrations in full."""
    from cyclealign.curation.sets import chosen, open_set
    from cyclealign.curation.showing import overview, whole
    from cyclealign.judge.template import load_template

    opened = open_set(found)
    if ids:
        say("\n\n".join("\n".join(whole(d)) for d in chosen(opened, ids)))
    else:
        say("\n".join(overview(opened, load_template(template))))


@app.command()
def add(
    found: SetName,
    source: Annotated[str, typer.Argument(metavar="FROM", help="Set to take them from")],
    ids: Ids = None,
) -> None:
    """Add demonstrations of another set, all or some, at the end."""
    from cyclealign.curation.sets import add, chosen, open_set

    other = open_set(source)
    _changed(add(open_set(found), chosen(other, ids) if ids else other.demonstrations))


@app.command()
def remove(
    found: SetName, ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, or their first digits")]
) -> None:
    """Remove demonstrations."""
    from cyclealign.curation.sets import open_set, remove

    _changed(remove(open_set(found), ids))


@app.command()
def edit(found: SetName) -> None:
    """Open a set in $EDITOR; it is checked when it comes back, and nothing typed is lost."""
    from cyclealign.curation.editing import edit
    from cyclealign.curation.sets import open_set

    _changed(edit(open_set(found)))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Set")],
    second: Annotated[str, typer.Argument(metavar="B", help="Set")],
) -> None:
    """What B has that A has not, and the other way round."""
    from cyclealign.curation.sets import open_set
    from cyclealign.curation.showing import differences

    say("\n".join(differences(open_set(first), open_set(second))))


@app.command()
def lint(
    found: SetName,
    held_out: Annotated[
        str | None, typer.Option(help="Prompts or pairs that measurements use: look for leaks", show_default=False)
    ] = None,
    static: Annotated[
        str | None, typer.Option(help="Static set that calls begin with anyway: look for copies", show_default=False)
    ] = None,
    template: Template = "rank",
    token_budget: TokenBudget = 2048,
) -> None:
    """Look for copies, leaks, skew and what would not be shown. Exit code 1 where something is wrong."""
    from cyclealign.config.schema import DemonstrationsConfig
    from cyclealign.curation.lint import lint
    from cyclealign.curation.sets import open_set
    from cyclealign.files.prompts import load_prompts
    from cyclealign.judge.template import load_template

    opened = open_set(found)
    problems = lint(
        opened.demonstrations,
        load_template(template),
        static=open_set(static).demonstrations if static else (),
        held_out=load_prompts(held_out) if held_out else (),
        budget=DemonstrationsConfig(token_budget=token_budget),
    )
    for problem in problems:
        say(f"{problem.level:>7}  {problem.about}: {problem.message}")
    errors = sum(p.level == "error" for p in problems)
    say(f"{opened.name} {opened.version}: {errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@app.command("export")
def export_(
    found: SetName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write")],
    format: Annotated[
        Literal["demonstrations", "preference"],
        typer.Option(help="A set again, or TRL preference rows (best over worst)"),
    ] = "demonstrations",
    force: Force = False,
) -> None:
    """Copy a set (packaged, of a run, yours) to a file."""
    from cyclealign.curation.exchange import write_preferences
    from cyclealign.curation.sets import free, new_file, open_set

    opened = open_set(found)
    if format == "demonstrations":
        _changed(new_file(out, opened.demonstrations, force=force))
    else:
        rows = write_preferences(free(out, force=force), opened.demonstrations)
        say(f"{out}: {rows} preference rows")


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Demonstrations, or labelled pairs in any known format")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Set to write")],
    limit: Annotated[int, typer.Option(help="Most demonstrations")] = 1000,
    seed: Seed = 42,
    force: Force = False,
) -> None:
    """Make a set of all pairs of a file, unchosen (build chooses)."""
    from cyclealign.curation.exchange import imported
    from cyclealign.curation.sets import new_file

    _changed(new_file(out, imported(source, limit=limit, seed=seed), force=force))


@app.command()
def review(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_RESULT", help="Run directory, or a result of eval ranker")],
    most: Annotated[int, typer.Option(min=1, help="Most lists")] = 50,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled data of a result, where it is no longer where it was", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Write the lists here (.jsonl); the page lies beside it")] = Path(
        "review.jsonl"
    ),
    force: Force = False,
) -> None:
    """The lists that judge, policy, labels or passes disagree on most, as JSONL and as a page to mark by hand."""
    from cyclealign.curation.sets import free
    from cyclealign.evaluation.disagreement import most_contested
    from cyclealign.files.jsonl import write_jsonl
    from cyclealign.reporting.review_page import write_review

    page = out.with_suffix(".html")
    if page == out:
        raise UserError(f"--out {out}: the page would take its place; expected a file of lists, .jsonl")
    for file in (out, page):
        free(file, force=force)
    lists = most_contested(source, most, data=data)
    if not lists:
        raise UserError(f"{source}: nobody disagrees on any list of it")
    write_jsonl(out, [one.record() for one in lists])
    write_review(page, lists, str(source))
    say(f"{out}: {len(lists)} lists\n{page}: to mark by hand, in a browser")


app.command("eval")(measure)
app.command()(search)


def _changed(new: DemonstrationSet) -> None:
    say(f"{new.name}: {len(new.demonstrations)} demonstrations, version {new.version}")
