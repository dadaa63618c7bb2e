"""Line charts and stacked bars as inline SVG, from plain data.

Each chart is a figure with its legend, a text alternative (``title`` and ``desc``) and its numbers in a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cyclealign.reporting.drawing import (
    BAR_LABELS,
    BOTTOM,
    FILLS,
    HEIGHT,
    LEFT,
    LINES,
    MARKED_UP_TO,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    Stroke,
    coordinates,
    fill_sample,
    mark,
    marker,
    padded,
    rule,
    rule_name,
    short,
    stack,
    stroke_sample,
    x_axis,
    y_axis,
)
from cyclealign.reporting.markup import Html, details, join, table, tag

Interval = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order, with an interval of y for each where one is known."""

    name: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[Interval | None, ...] = ()

    def interval(self, place: int) -> Interval | None:
        return self.intervals[place] if self.intervals else None


@dataclass(frozen=True)
class LineChart:
    """``rules``: named horizontal lines (a limit, chance). ``mark``: a named vertical one. Labels name the unit."""

    key: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    rules: tuple[tuple[str, float], ...] = ()
    mark: tuple[str, float] | None = None
    note: str = ""
    whole_x: bool = True


@dataclass(frozen=True)
class BarChart:
    """``bars``: label and one value per part, stacked from the bottom."""

    key: str
    title: str
    x_label: str
    y_label: str
    parts: tuple[str, ...]
    bars: tuple[tuple[str, tuple[float, ...]], ...]
    note: str = ""


def line_chart(chart: LineChart) -> Html:
    """The figure of a line chart; points that are not finite are in its table, not in its drawing."""
    lines = [_finite(line) for line in chart.lines]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [y for _, y in chart.rules]
    ys += [y for line in lines for i in line.intervals if i for y in i]
    if not xs:
        return tag("figure", tag("h3", chart.title), tag("p", "no finite values to draw", class_="note"))
    x = Scale(*padded(min(xs), max(xs), 0.0), LEFT + 8, RIGHT - 8)
    y = Scale(*padded(min(ys), max(ys), 0.06), BOTTOM, TOP)
    drawn = [y_axis(y), x_axis(x, whole=chart.whole_x)]
    drawn += [rule(y(value)) for _, value in chart.rules]
    drawn += [mark(chart.mark[0], x(chart.mark[1]))] if chart.mark and x.low <= chart.mark[1] <= x.high else []
    drawn += [_line(line, LINES[n % len(LINES)], x, y) for n, line in enumerate(lines)]
    drawn += [rule_name(name, y(value)) for name, value in chart.rules]  # above the lines, to stay legible
    legend = [_legend_entry(stroke_sample(LINES[n % len(LINES)]), line.name) for n, line in enumerate(lines)]
    described = "; ".join([*map(_spoken, lines), *(f"{name}: {short(value)}" for name, value in chart.rules)])
    return _figure(chart, drawn, legend, described, _line_table(chart))


def bar_chart(chart: BarChart) -> Html:
    """The figure of stacked bars."""
    totals = [sum(values) for _, values in chart.bars]
    y = Scale(0.0, max(totals) * 1.06 or 1.0, BOTTOM, TOP)
    slot = (RIGHT - LEFT) / len(chart.bars)
    drawn = [y_axis(y)]
    every = math.ceil(len(chart.bars) / BAR_LABELS)
    for n, (label, values) in enumerate(chart.bars):
        middle = LEFT + slot * (n + 0.5)
        drawn.append(stack(chart.parts, values, middle, min(slot * 0.7, 48.0), y))
        if n % every == 0:
            drawn.append(tag("text", label, x=middle, y=BOTTOM + 17, text_anchor="middle"))
    legend = [_legend_entry(fill_sample(FILLS[n % len(FILLS)]), part) for n, part in enumerate(chart.parts)]
    described = "; ".join(f"{label}: {short(sum(values))}" for label, values in chart.bars)
    rows = [[label, *map(short, values), short(sum(values))] for label, values in chart.bars]
    return _figure(chart, drawn, legend, described, table([chart.x_label, *chart.parts, "total"], rows))


def _figure(chart: LineChart | BarChart, drawn: list[Html], legend: list[Html], described: str, data: Html) -> Html:
    svg = tag(
        "svg",
        tag("title", chart.title, id=f"{chart.key}-title"),
        tag("desc", f"{chart.y_label} by {chart.x_label}. {described}", id=f"{chart.key}-desc"),
        tag("text", chart.y_label, x=2, y=16, class_="axis"),
        *drawn,
        tag("text", chart.x_label, x=(LEFT + RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle", class_="axis"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{chart.key}-title {chart.key}-desc",
    )
    note = tag("figcaption", chart.note) if chart.note else None
    key = tag("p", *legend, class_="legend") if len(legend) > 1 else None
    return tag("figure", tag("h3", chart.title), svg, key, note, details("numbers", data), id=chart.key)


def _line(line: Line, stroke: Stroke, x: Scale, y: Scale) -> Html:
    at = [(x(a), y(b)) for a, b in line.points]
    parts = [
        *_intervals(line, stroke.colour, at, y),
        tag(
            "polyline",
            points=coordinates(at),
            fill="none",
            stroke=stroke.colour,
            stroke_width=2.2,
            stroke_dasharray=stroke.dashes,
        ),
    ]
    if len(at) <= MARKED_UP_TO:
        names = [f"{line.name}: {short(b)} at {short(a)}" for a, b in line.points]
        parts += [marker(stroke, *place, name) for place, name in zip(at, names, strict=True)]
    return join(parts)


def _intervals(line: Line, colour: str, at: Sequence[tuple[float, float]], y: Scale) -> list[Html]:
    """A band through neighbouring intervals, and a bar with caps at each point."""
    known = [(px, y(i[0]), y(i[1])) for n, (px, _) in enumerate(at) if (i := line.interval(n)) is not None]
    if not known:
        return []
    outline = [(px, low) for px, low, _ in known] + [(px, high) for px, _, high in reversed(known)]
    band = tag("polygon", points=coordinates(outline), fill=colour, fill_opacity=0.13)
    if len(known) > MARKED_UP_TO:
        return [band]
    shapes = [f"M{px - 4:.2f} {low:.2f}h8m-4 0V{high:.2f}m-4 0h8" for px, low, high in known]
    return [band, *(tag("path", d=shape, stroke=colour, fill="none", class_="bar") for shape in shapes)]


def _legend_entry(sample: Html, name: str) -> Html:
    return tag("span", sample, name, class_="entry")


def _finite(line: Line) -> Line:
    kept = [n for n, (x, y) in enumerate(line.points) if math.isfinite(x) and math.isfinite(y)]
    return Line(line.name, tuple(line.points[n] for n in kept), tuple(line.interval(n) for n in kept))


def _spoken(line: Line) -> str:
    if not line.points:
        return f"{line.name}: no values"
    (first_x, first), (last_x, last) = line.points[0], line.points[-1]
    values = [y for _, y in line.points]
    return (
        f"{line.name}: {short(first)} at {short(first_x)}, {short(last)} at {short(last_x)},"
        f" lowest {short(min(values))}, highest {short(max(values))}"
    )


def _line_table(chart: LineChart) -> Html:
    xs = sorted({x for line in chart.lines for x, _ in line.points})
    cells = [{x: _cell(line, n) for n, (x, _) in enumerate(line.points)} for line in chart.lines]
    rows = [[short(x), *(column.get(x) for column in cells)] for x in xs]
    return table([chart.x_label, *(line.name for line in chart.lines)], rows)


def _cell(line: Line, place: int) -> str:
    interval = line.interval(place)
    within = f" ({short(interval[0])} to {short(interval[1])})" if interval else ""
    return short(line.points[place][1]) + within
