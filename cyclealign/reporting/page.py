"""The report: one self-contained HTML page a run, for what is there of it.

No script, no request to anywhere (a content security policy in the page holds that), everything that a model or a data
file wrote is escaped. Works at any moment of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cyclealign.files.atomic import write_atomic
from cyclealign.files.environment import Environment
from cyclealign.files.foreign import read_text
from cyclealign.files.records import encode, read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.cascade import cascade_section
from cyclealign.reporting.changes import demonstrations, interactions
from cyclealign.reporting.figures import Facts, read_facts
from cyclealign.reporting.frame import Part, page
from cyclealign.reporting.headline import Headline, headline
from cyclealign.reporting.jury import jury_section
from cyclealign.reporting.markup import Html, details, join, table, tag
from cyclealign.reporting.ranking_charts import position_note
from cyclealign.reporting.run_charts import run_charts
from cyclealign.reporting.samples import OUTCOME, REWARD, before_and_after, interaction_filter, rankings
from cyclealign.reporting.spend import spend_table


def write_report(run: RunDir) -> Path:
    """Write ``report.html`` of a run, whole or not at all, and return its path."""
    write_atomic(run.report, render_report(run))
    return run.report


def render_report(run: RunDir) -> str:
    """The page as text. A part of the run that does not exist yet is left out of it."""
    facts, figures = read_facts(run), headline(run)
    rules = "".join(f.rules() for f in (REWARD, OUTCOME, interaction_filter(run)))
    return page(figures.name, f"{figures.name}: cyclealign run", [_headline(figures)], _sections(run, facts), rules)


def _sections(run: RunDir, facts: Facts) -> Iterator[Part]:
    yield "Charts", "charts", _charts(run, facts)
    yield "Interactions", "interactions", interactions(run)
    yield "Before and after", "samples", before_and_after(run, facts)
    yield "Both rankings", "rankings", rankings(run)
    yield "Demonstrations", "demonstrations", demonstrations(run)
    yield "Spend", "paid", spend_table(run)
    yield "Judges", "judges", jury_section(run)
    yield "Cascade", "cascade", cascade_section(run)
    yield "Configuration", "config", _files(run)
    yield "Environment", "environment", _environment(run.environment)


def _charts(run: RunDir, facts: Facts) -> Html | None:
    charts, note = run_charts(run, facts), position_note(run, facts)
    if not charts:
        return None
    return join([tag("div", *charts, class_="charts"), tag("p", note, class_="note") if note else None])


def _headline(figures: Headline) -> Html:
    lines = [tag("p", figures.status, class_="status")]
    lines += [tag("p", f"Kept: {figures.kept_text}.")] if figures.kept_text else []
    lines += [tag("p", f"Keeps: {figures.keeps}.")] if figures.keeps else []
    lines.append(tag("p", f"Spend: {figures.spend}."))
    lines += [tag("p", f"The judge: {figures.judge}.")] if figures.judge else []
    lines += [tag("p", f"Cascade: {figures.cascade}.")] if figures.cascade else []
    lines += [tag("p", f"Its own replies: {figures.answers}.")] if figures.answers else []
    lines += [tag("p", f"Alarm: {alarm.sentence}.", class_="status") for alarm in figures.alarms]
    rows = [(row.measure, *row.text) for row in figures.rows]
    if not rows:
        return join(
            [*lines, tag("p", "There is no finished evaluation (data.eval_prompts, cycle.eval_every).", class_="note")]
        )
    note = (
        f"Reward: mean over the {figures.prompts} held-out prompts of the reporting half (odd positions; the even"
        " ones choose what is kept). 95% intervals are of the change, paired over prompts (Student's); of"
        " distinct-2 by a jackknife over prompts; of accuracies paired where their verdicts are on record, else as if"
        " independent (Newcombe)."
    )
    if figures.lists:
        note = (
            f"Means over {figures.lists} held-out lists, by the policy's own likelihood of their replies; 95% intervals"
            " are of the change, paired over lists (Student's)."
        )
    elif figures.compared is None:
        note = f"The {figures.label} model has not been evaluated."
    head = ["measure", "start", figures.label, "change", "95% interval"]
    return join([*lines, tag("div", table(head, rows), class_="headline"), tag("p", note, class_="note")])


def _files(run: RunDir) -> Html | None:
    found = [("resolved, as the run uses it", run.config), ("the judge's prompt", run.prompts / "template.yaml")]
    shown = [details(name, tag("pre", read_text(path))) for name, path in found if path.exists()]
    return join(shown) if shown else None


def _environment(path: Path) -> Html | None:
    if not path.exists():
        return None
    return details(
        "versions and hardware", table(["what", "value"], list(_flat(encode(read_record(Environment, path)))))
    )


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested JSON objects, with dotted names."""
    if not isinstance(value, dict):
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
