"""``cyclealign demos``: demonstrations built, read, changed, checked and measured before a run pays for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from cyclealign.curation.sets import DemonstrationSet
    from cyclealign.demonstrations import DemonstrationPool

app = typer.Typer(no_args_is_help=True, help="Demonstrations: build, read, change, check and measure them.")
SetName = Annotated[str, typer.Argument(metavar="SET", help="JSONL file, builtin:rank, or a run directory")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, or their first digits")]
Pairs = Annotated[str, typer.Argument(metavar="PAIRS", help="Labelled pairs: HH-RLHF, TRL preference, hub id")]
Template = Annotated[str, typer.Option(help="Packaged ranking template, or a YAML file")]
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
    from cyclealign.curation.evaluate import missed_prompts
    from cyclealign.curation.sets import new_file
    from cyclealign.data import load_prompts
    from cyclealign.rank_template import load_template

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
    from cyclealign.rank_template import load_template

    opened = open_set(found)
    if ids:
        _say("\n\n".join("\n".join(whole(d)) for d in chosen(opened, ids)))
    else:
        _say("\n".join(overview(opened, load_template(template))))


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

    _say("\n".join(differences(open_set(first), open_set(second))))


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
    token_budget: Annotated[int, typer.Option(help="demonstrations.token_budget of the run")] = 2048,
) -> None:
    """Look for copies, leaks, skew and what would not be shown. Exit code 1 where something is wrong."""
    from cyclealign.config import DemonstrationsConfig
    from cyclealign.curation.lint import lint
    from cyclealign.curation.sets import open_set
    from cyclealign.data import load_prompts
    from cyclealign.rank_template import load_template

    opened = open_set(found)
    problems = lint(
        opened.demonstrations,
        load_template(template),
        static=open_set(static).demonstrations if static else (),
        held_out=load_prompts(held_out) if held_out else (),
        budget=DemonstrationsConfig(token_budget=token_budget),
    )
    for problem in problems:
        _say(f"{problem.level:>7}  {problem.about}: {problem.message}")
    errors = sum(p.level == "error" for p in problems)
    _say(f"{opened.name} {opened.version}: {errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@app.command("eval")
def eval_(
    found: SetName,
    pairs: Pairs,
    ranker: RankerName,
    options: Options = None,
    dynamic: Annotated[
        str | None, typer.Option(help="Dynamic demonstrations: a saved pool or a run", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="Most labelled pairs")] = 200,
    leave_one_out: Annotated[bool, typer.Option(help="Measure also without each demonstration")] = True,
    token_budget: Annotated[int, typer.Option(help="demonstrations.token_budget of the run")] = 2048,
    seed: Seed = 42,
    ledger: LedgerPath = None,
    result: Result = None,
    dry_run: DryRun = False,
) -> None:
    """Measure a judge on labelled pairs with none, static, static and dynamic demonstrations, and without each."""
    from cyclealign.curation import measuring, pricing
    from cyclealign.curation.evaluate import arms_of, evaluate, lines
    from cyclealign.curation.metering import MeteredLedger
    from cyclealign.curation.sets import open_set
    from cyclealign.curation.showing import opening

    box = measuring.black_box_section(ranker, options or [])
    opened = open_set(found)
    pool = _pool(opened, dynamic, token_budget, box.template)
    asked = measuring.labelled(pairs, limit)
    arms = arms_of(pool, leave_one_out=leave_one_out)
    shown = f"{len(pool.static_shown)} of {len(pool.static)} static demonstrations fit the token budget"
    _say(f"{opened.name} {opened.version}: {shown}; {len(asked)} labelled pairs, {len(arms)} arms")
    if dry_run:
        questions = [q for arm in arms for q in arm.questions(asked)]
        _say("\n".join(pricing.describe(pricing.most_for(questions, box, pool.template), box)))
        return
    with MeteredLedger(ledger or measuring.DEFAULT_LEDGER) as record:
        figures = evaluate(arms, asked, measuring.judge(box, record, seed=seed, template=pool.template), record)
    names = {d.id: opening(d) for d in (*pool.static, *pool.dynamic)}
    _say("\n".join(lines(figures, names)))
    if result:
        about = {"set": {"name": opened.name, "version": opened.version}, "pool_version": pool.version}
        write_result(
            result, "demos eval", about | measuring.provenance(box, pool.template, pairs, asked, seed) | figures
        )


@app.command()
def search(
    found: SetName,
    pairs: Pairs,
    ranker: RankerName,
    size: Annotated[int, typer.Option(help="How many demonstrations to choose", show_default=False)],
    calls: Annotated[int, typer.Option(help="Most calls, repairs and retries included", show_default=False)],
    out: Annotated[Path, typer.Option(help="Write the chosen set here", show_default=False)],
    options: Options = None,
    method: Annotated[Literal["greedy", "bandit"], typer.Option(help="How to choose")] = "greedy",
    limit: Annotated[int, typer.Option(help="Most labelled pairs")] = 1000,
    seed: Seed = 42,
    ledger: LedgerPath = None,
    result: Result = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Choose the demonstrations that serve a judge best. Started again, it goes on and pays for no call twice."""
    from cyclealign.curation import measuring, pricing
    from cyclealign.curation.metering import MeteredLedger
    from cyclealign.curation.search import SearchPlan, lines, search
    from cyclealign.curation.sets import free, new_file, open_set
    from cyclealign.rank_template import load_template

    box = measuring.black_box_section(ranker, options or [])
    opened, template = open_set(found), load_template(box.template)
    asked = measuring.labelled(pairs, limit)
    plan = SearchPlan(
        pool=opened.demonstrations, size=size, calls=calls, passes=min(box.passes, 2), method=method, seed=seed
    )
    plan.check(asked)
    free(out, force=force)
    if dry_run:
        most = pricing.most_within(calls, pricing.largest(plan.pool, size, asked, template), box, template)
        _say("\n".join(pricing.describe(most, box)))
        return
    with MeteredLedger(ledger or measuring.DEFAULT_LEDGER, most_calls=calls) as record:
        figures = search(plan, asked, measuring.judge(box, record, seed=seed, template=template), record)
    best = new_file(out, [d for d in plan.pool if d.id in figures["chosen"]], force=force)
    _say("\n".join([*lines(figures), f"{out} {best.version}"]))
    if result:
        about = {"set": {"name": opened.name, "version": opened.version}, "chosen_version": best.version}
        write_result(result, "demos search", about | measuring.provenance(box, template, pairs, asked, seed) | figures)


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
        _say(f"{out}: {rows} preference rows")


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


def _pool(opened: DemonstrationSet, dynamic: str | None, token_budget: int, template: str) -> DemonstrationPool:
    """The set as a run would show it; a run directory brings its own template and way of showing."""
    from dataclasses import replace

    from cyclealign.config import DemonstrationsConfig
    from cyclealign.curation.sets import open_set, run_config
    from cyclealign.demonstrations import DemonstrationPool
    from cyclealign.rank_template import load_template

    config = DemonstrationsConfig(token_budget=token_budget)
    words = load_template(template)
    if Path(opened.name).is_dir():
        config, words = run_config(Path(opened.name)), load_template(str(Path(opened.name) / "prompts/template.yaml"))
    held = opened.demonstrations
    if dynamic:
        others = open_set(dynamic).demonstrations
        held = (*(d for d in held if d.source == "static"), *(d for d in others if d.source != "static"))
    pool = DemonstrationPool.start(config, static=[d for d in held if d.source == "static"], template=words)
    return replace(pool, dynamic=tuple(d for d in held if d.source != "static"))


def write_result(path: Path, kind: str, record: dict[str, object]) -> None:
    """All figures of a measurement, with what it ran on."""
    from cyclealign.environment import environment
    from cyclealign.run_dir import write_json

    write_json(path, {"kind": kind, "environment": environment()} | record)
    _say(str(path))


def _changed(new: DemonstrationSet) -> None:
    _say(f"{new.name}: {len(new.demonstrations)} demonstrations, version {new.version}")


def _say(text: str) -> None:
    print(text)
