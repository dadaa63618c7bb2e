"""The page of one eval: self-contained HTML with figures, charts, items side by side and what it ran on.

No script and no request to anywhere, held by the page's own policy; everything that a model or a file wrote is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclealign.evaluation.result import Result
from cyclealign.files.atomic import write_atomic
from cyclealign.reporting.eval_figures import figure_rows, is_estimate
from cyclealign.reporting.filters import Filter, filtered
from cyclealign.reporting.forest import forest_plot
from cyclealign.reporting.frame import CSS, POLICY
from cyclealign.reporting.markup import Html, details, join, passage, table, tag

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
    name = f"{result['eval']}: {_title(result['about'])}"
    parts = [(title, key, body) for title, key, body in _sections(result) if body]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name}: cyclealign eval"),
        tag("style", Html(CSS.read_text(encoding="utf-8") + KIND.rules() + _subset_filter(result["items"]).rules())),
    )
    header = tag(
        "header",
        tag("h1", name),
        *(tag("p", f"Warning: {w}", class_="status") for w in result["warnings"]),
        tag("nav", *(tag("a", title, href=f"#{key}") for title, key, _ in parts)),
    )
    main = tag("main", *(tag("section", tag("h2", title), body, id=key) for title, key, body in parts))
    return f"<!doctype html>\n{tag('html', head, tag('body', header, main), lang='en')}\n"


def _title(about: Mapping[str, Any]) -> str:
    return ", ".join(str(v) for k, v in about.items() if k != "options" and isinstance(v, str) and v)


def _sections(result: Result) -> Iterator[tuple[str, str, Html | None]]:
    metrics, items = result["metrics"], result["items"]
    top = {k: v for k, v in metrics.items() if not isinstance(v, Mapping) or is_estimate(v)}
    yield "Figures", "figures", tag("div", _table(top), class_="headline") if top else None
    yield "Charts", "charts", _charts(metrics, str(result["primary"]))
    for key, value in metrics.items():
        if isinstance(value, Mapping) and value and not is_estimate(value) and key != "subsets":
            yield str(key).replace("_", " ").capitalize(), f"figures-{key}", _table(value)
    subsets = metrics.get("subsets")
    yield "By subset", "subsets", _table(subsets) if subsets else None
    yield "Items", ITEMS, _shown_items(items)
    settings = {"about": result["about"], "seed": result["seed"], "created": result["created"]}
    yield "What was run", "about", tag("pre", json.dumps(settings, indent=2, ensure_ascii=False))
    where = {k: result.get(k) for k in ("commit", "python", "hardware", "versions")}
    yield "Environment", "environment", details("versions, hardware", tag("pre", json.dumps(where, indent=2)))


def _table(metrics: Mapping[str, Any]) -> Html:
    return table(["figure", "value", "95% interval", "n"], figure_rows(metrics))


def _charts(metrics: Mapping[str, Any], primary: str) -> Html | None:
    rows = [(k.replace("_", " "), v) for k, v in metrics.items() if k.endswith(primary) and is_estimate(v)]
    groups = {name: s.get(primary) for name, s in (metrics.get("subsets") or {}).items()}
    rows += [(name, estimate) for name, estimate in groups.items() if is_estimate(estimate)]
    gaps = [(name, d["difference"]) for name, d in (metrics.get("differences") or {}).items() if d["difference"]]
    figures = []
    if rows:
        title = f"{primary.replace('_', ' ')} with 95% intervals"
        figures.append(forest_plot("primary", title, rows, rule=RULES.get(primary)))
    if gaps:
        figures.append(forest_plot("differences", "paired differences with 95% intervals", gaps, rule=0.0))
    return tag("div", *figures, class_="charts") if figures else None


def _shown_items(items: Sequence[Mapping[str, Any]]) -> Html | None:
    """Some items of each outcome with their responses side by side, below filters by outcome and subset."""
    shown = _chosen(items)
    if not shown:
        return None
    place = {label: value for value, label in _subset_filter(items).options.items()}
    articles = [({"kind": kind, "subset": place[_subset(item)]}, _item(item)) for kind, item in shown]
    note = f"At most {SHOWN} of each kind; the result file has all."
    return join([tag("p", note, class_="note"), filtered([KIND, _subset_filter(items)], articles)])


def _subset_filter(items: Sequence[Mapping[str, Any]]) -> Filter:
    """Its values are numbers: the name of a subset comes from a file and may stand in no style rule."""
    names = dict.fromkeys(_subset(item) for _, item in _chosen(items))
    return Filter(ITEMS, "subset", "Subset", {f"s{n}": name for n, name in enumerate(names)})


def _subset(item: Mapping[str, Any]) -> str:
    return str(item.get("subset") or "no subset")


def _chosen(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(kind, item) for kind, group in _kinds(items).items() for item in group[:SHOWN]]


def _kinds(items: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The items that can be read, each under one kind: what went wrong is what people look for."""
    readable = [i for i in items if i.get("responses")]
    judged = [i for i in readable if i.get("value") is not None]
    lowest = sorted(judged, key=lambda i: i["value"])
    middle = (lowest[0]["value"] + lowest[-1]["value"]) / 2 if lowest else 0.0
    low = sum(i["value"] < middle for i in lowest)
    return {
        "unranked": [i for i in readable if "unranked" in i],
        "lowest": lowest[:low],
        "highest": lowest[low:][::-1],
    }


def _item(item: Mapping[str, Any]) -> Html:
    """One prompt with its responses side by side, best first by the verdict."""
    tiers = item.get("tiers") or [list(item["responses"])]
    place = {str(i): n for n, tier in enumerate(tiers, 1) for i in tier}
    order = sorted(item["responses"], key=lambda i: place.get(i, len(place) + 1))
    replies = [tag("section", tag("h4", _head(i, item, place)), passage(item["responses"][i])) for i in order]
    value = item.get("value")
    said = f"no verdict: {item['unranked']} {item.get('detail', '')}" if "unranked" in item else f"value {value}"
    about = " · ".join([*(str(item[k]) for k in ("id", "subset") if item.get(k) is not None), said])
    return join(
        [
            tag("p", about, class_="note"),
            tag("div", passage(str(item.get("prompt", ""))), class_="prompt"),
            tag("div", *replies, class_="pair"),
        ]
    )


def _head(identity: str, item: Mapping[str, Any], place: Mapping[str, int]) -> str:
    parts = [f"response {identity}"]
    if item.get("tiers"):
        parts.append(f"ranked {place.get(identity, '-')}")
    grade = (item.get("grades") or {}).get(identity)
    return ", ".join(parts if grade is None else [*parts, f"label {grade:g}"])
