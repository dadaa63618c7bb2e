"""``cyclealign prompts``: ranking templates checked, shown, measured and improved before a run pays for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclealign.cli.options import (
    BlackBoxKeys,
    DryRun,
    Force,
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

if TYPE_CHECKING:
    from cyclealign.config.black_box import BlackBoxConfig
    from cyclealign.curation.instruction_search import ImprovePlan
    from cyclealign.evaluation.statistics import Figure
    from cyclealign.judge.demonstrations import DemonstrationPool
    from cyclealign.types import CandidateSet

app = typer.Typer(no_args_is_help=True, help="Ranking templates: check, show, measure and improve them.")
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


@app.command()
def improve(
    template: TemplateName,
    pairs: LabelledPairs,
    ranker: JudgeName,
    reflect: Annotated[
        str,
        typer.Option(
            help="Who reads the judge's mistakes and proposes: a model of the judge's endpoint, or a YAML file with a"
            " black_box section",
            show_default=False,
        ),
    ],
    calls: Annotated[int, typer.Option(help="Most calls of both, repairs and retries included", show_default=False)],
    out: Annotated[Path, typer.Option(help="Write the improved template here (.yaml)", show_default=False)],
    options: BlackBoxKeys = None,
    demos: Demos = "builtin:rank",
    limit: MostPairs = 1000,
    token_budget: TokenBudget = 2048,
    seed: Seed = 42,
    ledger: LedgerPath = None,
    result: ResultPath = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Rewrite a template's instruction from a judge's mistakes; kept only where a test on other pairs supports it.

    Started again, it goes on and pays for no call twice. Exit code 1 where nothing better was found.
    """
    from cyclealign.config.extras import require_extra
    from cyclealign.config.schema import DemonstrationsConfig
    from cyclealign.curation import asking as measuring
    from cyclealign.curation.improving import improve, lines, save_improved
    from cyclealign.curation.instruction_search import ImprovePlan
    from cyclealign.curation.metering import MeteredLedger
    from cyclealign.curation.reflection import Reflector, reflecting_box
    from cyclealign.curation.sets import free, open_set
    from cyclealign.judge.demonstrations import DemonstrationPool
    from cyclealign.judge.template import load_template

    require_extra("gepa", "curation", "prompts improve")
    box = measuring.black_box_section(ranker, options or [])
    mind, words = reflecting_box(reflect, box), load_template(template)
    asked, shown = measuring.labelled(pairs, limit), open_set(demos).demonstrations if demos else ()
    pool = DemonstrationPool.start(DemonstrationsConfig(token_budget=token_budget), static=shown, template=words)
    plan = ImprovePlan(template=words, calls=calls, passes=min(box.passes, 2), seed=seed)
    plan.check(asked)
    free(out, force=force)
    if dry_run:
        say("\n".join(_most_of_improving(plan, box, mind, asked, pool)))
        return
    if result:
        checked(result, pairs, demos, template, option="--result")
    with MeteredLedger(ledger or measuring.DEFAULT_LEDGER, most_calls=calls) as record:
        figures = improve(
            plan,
            asked,
            pool,
            lambda made: measuring.judge(box, record, seed=seed, template=made),
            Reflector(mind, record).propose,
            record,
        )
    say("\n".join(lines(figures)))
    about: dict[str, Figure] = {"reflect": mind.model, "pool_version": pool.version}
    if figures.kept:
        best = save_improved(out, figures, judge=box.judge_name)
        say(f"{out} {best.version}")
        about["improved"] = {"name": best.name, "version": best.version}
    if result:
        finish(figures.result(about | measuring.provenance(box, words, pairs, asked)), result, show=False)
    if not figures.kept:
        raise typer.Exit(1)


def _most_of_improving(
    plan: ImprovePlan,
    box: BlackBoxConfig,
    mind: BlackBoxConfig,
    pairs: Sequence[CandidateSet],
    pool: DemonstrationPool,
) -> list[str]:
    """What both models can cost, a line each."""
    from cyclealign.curation import pricing
    from cyclealign.curation.reflection import longest_head, most_for_proposals
    from cyclealign.curation.templates import head_tokens

    template = plan.template
    largest = pricing.largest(pool.static_shown, len(pool.static_shown), pairs, template)
    grown = longest_head(template) - head_tokens(template)
    judge = pricing.most_within(plan.calls, largest, box, template, more=grown)
    reflecting = most_for_proposals(mind, plan.proposals, template, plan.parts(pairs).learning)
    lines = [f"judge {box.judge_name}: {line}" for line in pricing.describe(judge, box)]
    return [*lines, *(f"reflecting {mind.model}: {line}" for line in pricing.describe(reflecting, mind))]
