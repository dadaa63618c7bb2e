"""The page of one eval: self-contained HTML with figures, charts, items side by side and what it ran on.

No script and no request to anywhere, held by the page's own policy; everything that a model or a file wrote is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cyclealign.evaluation.result import Item, Result
from cyclealign.evaluation.statistics import Estimate, Figures
from cyclealign.files.atomic import write_atomic
from cyclealign.files.records import encode
from cyclealign.reporting.eval_figures import differences_of, figure_rows
from cyclealign.reporting.filters import Filter, filtered
from cyclealign.reporting.forest import forest_plot
from cyclealign.reporting.frame import CSS, POLICY
from cyclealign.reporting.markup import Html, details, join, passage, table, tag
from cyclealign.reporting.reasons import reasons_given

SHOWN = 12  # items of each kind on the page; the result file has all
ITEMS = "items"
KIND = Filter(ITEMS, "kind", "Outcome", {"lowest": "lowest", "highest": "highest", "unranked": "without a verdict"})
# What each figure is compared against, where there is such a thing.
RULES = {"accuracy": 0.5, "win_rate": 0.5}


def write_page(path: Path, result: Result) -> Path:
    """Write the page of a result, whole or not at all."""
    write_atomic(path, render_page(result))
    return path


def render_page(result: Result) -> str:
    """The page as text."""
    name = f"{result.eval}: {_title(result.about)}"
    parts = [(title, key, body) for title, key, body in _sections(result) if body]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name}: cyclealign eval"),
        tag("style", Html(CSS.read_text(encoding="utf-8") + KIND.rules() + _subset_filter(result.items).rules())),
    )
    header = tag(
        "header",
        tag("h1", name),
        *(tag("p", f"Warning: {w}", class_="status") for w in result.warnings),
        tag("nav", *(tag("a", title, href=f"#{key}") for title, key, _ in parts)),
    )
    main = tag("main", *(tag("section", tag("h2", title), body, id=key) for title, key, body in parts))
    return f"<!doctype html>\n{tag('html', head, tag('body', header, main), lang='en')}\n"


def _title(about: Figures) -> str:
    return ", ".join(str(v) for k, v in about.items() if k not in ("options", "judge") and isinstance(v, str) and v)


def _sections(result: Result) -> Iterator[tuple[str, str, Html | None]]:
    metrics = result.metrics
    top = {k: v for k, v in metrics.items() if not isinstance(v, Mapping)}
    yield "Figures", "figures", tag("div", _table(top), class_="headline") if top else None
    yield "Charts", "charts", _charts(result)
    for key, value in metrics.items():
        if isinstance(value, Mapping) and value:
            yield str(key).replace("_", " ").capitalize(), f"figures-{key}", _table(value)
    gaps = differences_of(result)
    yield "Differences", "figures-differences", _table(gaps) if gaps else None
    yield "By subset", "subsets", _table(result.subsets) if result.subsets else None
    yield "Items", ITEMS, _shown_items(result.items)
    settings = {"about": result.about, "seed": result.seed, "created": result.created}
    yield "What was run", "about", tag("pre", json.dumps(settings, indent=2, ensure_ascii=False))
    where = {
        "commit": result.commit,
        "python": result.python,
        "hardware": encode(result.hardware),
        "versions": result.versions,
    }
    yield "Environment", "environment", details("versions, hardware", tag("pre", json.dumps(where, indent=2)))


def _table(metrics: Figures) -> Html:
    return table(["figure", "value", "95% interval", "n"], figure_rows(metrics))


def _charts(result: Result) -> Html | None:
    primary, metrics = result.primary, result.metrics
    rows = [(k.replace("_", " "), v) for k, v in metrics.items() if k.endswith(primary) and isinstance(v, Estimate)]
    groups = {name: own.get(primary) for name, own in result.subsets.items()}
    rows += [(name, estimate) for name, estimate in groups.items() if isinstance(estimate, Estimate)]
    gaps = [(name, d.difference) for name, d in result.differences.items() if d.difference]
    figures = []
    if rows:
        title = f"{primary.replace('_', ' ')} with 95% intervals"
        figures.append(forest_plot("primary", title, rows, rule=RULES.get(primary)))
    if gaps:
        figures.append(forest_plot("differences", "paired differences with 95% intervals", gaps, rule=0.0))
    return tag("div", *figures, class_="charts") if figures else None


def _shown_items(items: Sequence[Item]) -> Html | None:
    """Some items of each outcome with their responses side by side, below filters by outcome and subset."""
    shown = _chosen(items)
    if not shown:
        return None
    place = {label: value for value, label in _subset_filter(items).options.items()}
    articles = [({"kind": kind, "subset": place[_subset(item)]}, _item(item)) for kind, item in shown]
    note = f"At most {SHOWN} of each kind; the result file has all."
    return join([tag("p", note, class_="note"), filtered([KIND, _subset_filter(items)], articles)])


def _subset_filter(items: Sequence[Item]) -> Filter:
    """Its values are numbers: the name of a subset comes from a file and may stand in no style rule."""
    names = dict.fromkeys(_subset(item) for _, item in _chosen(items))
    return Filter(ITEMS, "subset", "Subset", {f"s{n}": name for n, name in enumerate(names)})


def _subset(item: Item) -> str:
    return item.subset or "no subset"


def _chosen(items: Sequence[Item]) -> list[tuple[str, Item]]:
    return [(kind, item) for kind, group in _kinds(items).items() for item in group[:SHOWN]]


def _kinds(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The items that can be read, each under one kind: what went wrong is what people look for."""
    readable = [i for i in items if i.responses]
    judged = sorted(((i.value, n) for n, i in enumerate(readable) if i.value is not None))
    lowest = [readable[n] for _, n in judged]
    middle = (judged[0][0] + judged[-1][0]) / 2 if judged else 0.0
    low = sum(value < middle for value, _ in judged)
    return {
        "unranked": [i for i in readable if i.unranked is not None],
        "lowest": lowest[:low],
        "highest": lowest[low:][::-1],
    }


def _item(item: Item) -> Html:
    """One prompt with its responses side by side, best first by the verdict."""
    tiers = item.tiers or [list(item.responses)]
    place = {str(i): n for n, tier in enumerate(tiers, 1) for i in tier}
    order = sorted(item.responses, key=lambda i: place.get(i, len(place) + 1))
    replies = [tag("section", tag("h4", _head(i, item, place)), passage(item.responses[i])) for i in order]
    unranked = item.unranked is not None
    said = f"no verdict: {item.unranked} {item.detail or ''}" if unranked else f"value {item.value}"
    about = " · ".join([*(name for name in (item.id, item.subset) if name is not None), said])
    return join(
        [
            tag("p", about, class_="note"),
            tag("div", passage(item.prompt), class_="prompt"),
            tag("div", *replies, class_="pair"),
            reasons_given([(reason, [f"response {i}" for i in shown]) for shown, reason in item.reasons]),
        ]
    )


def _head(identity: str, item: Item, place: Mapping[str, int]) -> str:
    parts = [f"response {identity}"]
    if item.tiers:
        parts.append(f"ranked {place.get(identity, '-')}")
    score = (item.scores or {}).get(identity)
    if score is not None:
        parts.append(f"score {score:.3g}")
    grade = item.grades.get(identity)
    return ", ".join(parts if grade is None else [*parts, f"label {grade:g}"])
