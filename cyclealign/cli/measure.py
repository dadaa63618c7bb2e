"""``demos eval | search``: what pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    SetName,
    TokenBudget,
)
from cyclealign.cli.results import checked, finish
from cyclealign.files.printable import say

if TYPE_CHECKING:
    from cyclealign.evaluation.statistics import Figure


def measure(
    found: SetName,
    pairs: LabelledPairs,
    ranker: JudgeName,
    options: BlackBoxKeys = None,
    dynamic: Annotated[
        str | None, typer.Option(help="Dynamic demonstrations: a saved pool or a run", show_default=False)
    ] = None,
    limit: MostPairs = 200,
    leave_one_out: Annotated[bool, typer.Option(help="Measure also without each demonstration")] = True,
    token_budget: TokenBudget = 2048,
    seed: Seed = 42,
    ledger: LedgerPath = None,
    result: ResultPath = None,
    dry_run: DryRun = False,
) -> None:
    """Measure a judge on labelled pairs with none, static, static and dynamic demonstrations, and without each."""
    from cyclealign.curation import asking as measuring
    from cyclealign.curation import pricing
    from cyclealign.curation.metering import MeteredLedger
    from cyclealign.curation.sets import open_set, pool_of
    from cyclealign.curation.showing import opening
    from cyclealign.curation.worth import arms_of, evaluate, lines

    box = measuring.black_box_section(ranker, options or [])
    opened = open_set(found)
    pool = pool_of(opened, dynamic, token_budget=token_budget, template=box.template)
    asked = measuring.labelled(pairs, limit)
    arms = arms_of(pool, leave_one_out=leave_one_out)
    shown = f"{len(pool.static_shown)} of {len(pool.static)} static demonstrations fit the token budget"
    say(f"{opened.name} {opened.version}: {shown}; {len(asked)} labelled pairs, {len(arms)} arms")
    if dry_run:
        questions = [q for arm in arms for q in arm.questions(asked)]
        say("\n".join(pricing.describe(pricing.most_for(questions, box, pool.template), box)))
        return
    if result:
        checked(result, found, pairs, option="--result")
    with MeteredLedger(ledger or measuring.DEFAULT_LEDGER) as record:
        figures = evaluate(arms, asked, measuring.judge(box, record, seed=seed, template=pool.template), record)
    names = {d.id: opening(d) for d in (*pool.static, *pool.dynamic)}
    say("\n".join(lines(figures, names)))
    if result:
        about: dict[str, Figure] = {
            "set": {"name": opened.name, "version": opened.version},
            "pool_version": pool.version,
        }
        about |= measuring.provenance(box, pool.template, pairs, asked)
        finish(figures.result(about, seed), result, show=False)


def search(
    found: SetName,
    pairs: LabelledPairs,
    ranker: JudgeName,
    size: Annotated[int, typer.Option(help="How many demonstrations to choose", show_default=False)],
    calls: Annotated[int, typer.Option(help="Most calls, repairs and retries included", show_default=False)],
    out: Annotated[Path, typer.Option(help="Write the chosen set here", show_default=False)],
    options: BlackBoxKeys = None,
    method: Annotated[Literal["greedy", "bandit"], typer.Option(help="How to choose")] = "bandit",
    limit: MostPairs = 1000,
    seed: Seed = 42,
    ledger: LedgerPath = None,
    result: ResultPath = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Choose the demonstrations that serve a judge best. Started again, it goes on and pays for no call twice."""
    from cyclealign.curation import asking as measuring
    from cyclealign.curation import pricing
    from cyclealign.curation.metering import MeteredLedger
    from cyclealign.curation.search import SearchPlan, lines, search
    from cyclealign.curation.sets import free, new_file, open_set
    from cyclealign.judge.template import load_template

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
        say("\n".join(pricing.describe(most, box)))
        return
    if result:
        checked(result, found, pairs, option="--result")
    with MeteredLedger(ledger or measuring.DEFAULT_LEDGER, most_calls=calls) as record:
        figures = search(plan, asked, measuring.judge(box, record, seed=seed, template=template), record)
    best = new_file(out, [d for d in plan.pool if d.id in figures.chosen], force=force)
    say("\n".join([*lines(figures), f"{out} {best.version}"]))
    if result:
        about: dict[str, Figure] = {
            "set": {"name": opened.name, "version": opened.version},
            "chosen_version": best.version,
        }
        about |= measuring.provenance(box, template, pairs, asked)
        finish(figures.result(about), result, show=False)
