"""The report: one self-contained HTML page a run, for what is there of it.

No script, no request to anywhere (a content security policy in the page holds that), everything that a model or a data
file wrote is escaped. Works at any moment of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclealign.atomic import write_atomic
from cyclealign.reporting.figures import Facts, headline, paired_interval, read_facts, spending
from cyclealign.reporting.markup import Html, details, join, table, tag
from cyclealign.reporting.run_charts import run_charts
from cyclealign.reporting.samples import before_and_after, demonstrations, interactions, last_rankings
from cyclealign.run_dir import RunDir, read_json

__all__ = ["headline", "paired_interval", "render_report", "write_report"]

CSS = Path(__file__).with_name("reporting") / "page.css"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(run: RunDir) -> Path:
    """Write ``report.html`` of a run, whole or not at all, and return its path."""
    write_atomic(run.report, render_report(run))
    return run.report


def render_report(run: RunDir) -> str:
    """The page as text. A part of the run that does not exist yet is left out of it."""
    facts, figures = read_facts(run), headline(run)
    name = str(figures["name"])
    parts = [(title, key, body) for title, key, body in _sections(run, facts) if body]
    links = [tag("a", title, href=f"#{key}") for title, key, _ in parts]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name}: cyclealign run"),
        tag("style", Html(CSS.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("header", tag("h1", name), _headline(figures), tag("nav", *links)),
        tag("main", *(tag("section", tag("h2", title), body, id=key) for title, key, body in parts)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(run: RunDir, facts: Facts) -> Iterator[tuple[str, str, Html | None]]:
    charts = run_charts(run, facts)
    yield "Charts", "charts", tag("div", *charts, class_="charts") if charts else None
    yield "Interactions", "interactions", interactions(run)
    yield "Before and after", "samples", before_and_after(run, facts)
    yield "Rankings of the last interaction", "rankings", last_rankings(run)
    yield "Demonstrations", "demonstrations", demonstrations(run)
    yield "Spend", "paid", _spend_table(run)
    yield "Configuration", "config", _file(run.config)
    yield "Environment", "environment", _environment(run.environment)


def _headline(figures: dict[str, Any]) -> Html:
    kept, label = figures["kept"], figures["label"]
    lines = [tag("p", figures["status"], class_="status")]
    if kept is not None:
        which = "the start model" if kept["trained"] == 0 else f"the model after {kept['trained']} interactions"
        lines.append(tag("p", f"Kept: {which}; {kept['why']}."))
    lines.append(tag("p", f"Spend: {figures['spend']}."))
    rows = [(row["measure"], *row["text"]) for row in figures["rows"]]
    if not rows:
        return join(
            [*lines, tag("p", "There is no finished evaluation (data.eval_prompts, cycle.eval_every).", class_="note")]
        )
    note = (
        f"Reward: mean over the {figures['prompts']} held-out prompts of the reporting half (odd positions; the even"
        " ones choose what is kept); 95% interval by a bootstrap over prompts, paired."
    )
    if figures["compared"] is None:
        note = f"The {label} model has not been evaluated."
    head = ["measure", "start", label, "change", "95% interval"]
    return join([*lines, tag("div", table(head, rows), class_="headline"), tag("p", note, class_="note")])


def _spend_table(run: RunDir) -> Html | None:
    found = spending(run)
    if isinstance(found, str) or not found[0].calls:
        return None
    head = [
        "purpose",
        "calls",
        "failed",
        "no reply",
        "sent again",
        "tokens in",
        "tokens out",
        "USD",
        "USD at most, no reply",
    ]
    rows = [
        (
            str(purpose),
            *(f"{n:,}" for n in (s.calls, s.failed, s.unfinished, s.repeated, s.input_tokens, s.output_tokens)),
            f"{s.usd:.4f}",
            f"{s.reserved_usd:.4f}",
        )
        for purpose, s in [*found[2].items(), ("all", found[0])]
    ]
    return table(head, rows)


def _file(path: Path) -> Html | None:
    if not path.exists():
        return None
    return details("resolved, as the run uses it", tag("pre", path.read_text(encoding="utf-8")))


def _environment(path: Path) -> Html | None:
    if not path.exists():
        return None
    return details("versions and hardware", table(["what", "value"], list(_flat(read_json(path)))))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested JSON objects, with dotted names."""
    if not isinstance(value, dict):
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
