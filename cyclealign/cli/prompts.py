"""``cyclealign prompts``: ranking templates checked, shown, and measured before a run pays for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cyclealign.cli.options import (
    BlackBoxKeys,
    DryRun,
    JudgeName,
    LabelledPairs,
    LedgerPath,
    MostPairs,
    ResultPath,
    Seed,
    TokenBudget,
)
from cyclealign.cli.results import checked, finish
from cyclealign.files.printable import say

app = typer.Typer(no_args_is_help=True, help="Ranking templates: check, show and measure them.")
TemplateName = Annotated[str, typer.Argument(metavar="TEMPLATE", help="Packaged (rank, rank_terse), or a YAML file")]
Demos = Annotated[str | None, typer.Option(help="Set of demonstrations: JSONL file, builtin:rank, or a run")]


@app.command()
def lint(template: TemplateName, demos: Demos = "builtin:rank") -> None:
    """Check a template. Exit code 2 where it cannot be used at all."""
    from cyclealign.curation.sets import open_set
    from cyclealign.curation.templates import lint_template, size_line
    from cyclealign.judge.template import load_template

    words, shown = load_template(template), open_set(demos).demonstrations if demos else ()
    for problem in lint_template(words, shown):
        say(f"{problem.level:>7}  {problem.about}: {problem.message}")
    say(size_line(words, shown))


@app.command()
def render(
    template: TemplateName,
    demos: Demos = None,
    item: Annotated[
        Path | None, typer.Option(help="JSONL of candidate sets, of which the first is shown", show_default=False)
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Ask for a line of text, not for JSON")] = False,
) -> None:
    """Print the messages that a judge would get."""
    from cyclealign.curation.sets import open_set
    from cyclealign.curation.templates import SAMPLE, rendered
    from cyclealign.files.prompts import load_candidate_sets
    from cyclealign.judge.template import load_template

    asked = load_candidate_sets(item)[0] if item else SAMPLE
    shown = open_set(demos).demonstrations if demos else ()
    say("\n\n".join(rendered(load_template(template), shown, asked, structured=not text)))


@app.command("eval")
def eval_(
    pairs: LabelledPairs,
    ranker: JudgeName,
    template: Annotated[list[str], typer.Option(help="Give several times to compare; the first is the baseline")],
    options: BlackBoxKeys = None,
    demos: Demos = "builtin:rank",
    limit: MostPairs = 200,
    token_budget: TokenBudget = 2048,
    seed: Seed = 42,
    ledger: LedgerPath = None,
    result: ResultPath = None,
    dry_run: DryRun = False,
) -> None:
    """Measure a judge on labelled pairs with each template, same pairs and presentation orders."""
    from cyclealign.config.schema import DemonstrationsConfig
    from cyclealign.curation import asking as measuring
    from cyclealign.curation import pricing
    from cyclealign.curation.metering import MeteredLedger
    from cyclealign.curation.sets import open_set
    from cyclealign.curation.templates import compare, comparison_lines
    from cyclealign.judge.demonstrations import DemonstrationPool
    from cyclealign.judge.template import load_template

    box = measuring.black_box_section(ranker, options or [])
    config, shown = DemonstrationsConfig(token_budget=token_budget), open_set(demos).demonstrations if demos else ()
    asked = measuring.labelled(pairs, limit)
    pools = {t: DemonstrationPool.start(config, static=shown, template=load_template(t)) for t in template}
    if dry_run:
        for name, pool in pools.items():
            questions = [measuring.Question(p, pool.select(p.prompt)) for p in asked]
            say("\n".join([f"{name}:", *pricing.describe(pricing.most_for(questions, box, pool.template), box)]))
        return
    if result:
        checked(result, pairs, demos, *template, option="--result")
    with MeteredLedger(ledger or measuring.DEFAULT_LEDGER) as record:
        judges = {n: measuring.judge(box, record, seed=seed, template=p.template) for n, p in pools.items()}
        figures = compare(pools, judges, asked, record)
    say("\n".join(comparison_lines(figures)))
    if result:
        first = next(iter(pools.values()))
        about = {"pool_version": first.version} | measuring.provenance(box, first.template, pairs, asked)
        finish(figures.result(about, seed), result, show=False)
