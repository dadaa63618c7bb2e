"""The marks of a chart, in SVG: scales, ticks, axes, markers, stacks. Readable in grey and on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cyclealign.reporting.markup import Html, join, tag

WIDTH, HEIGHT = 440, 280  # user units; the text is 13 of them, so that 360 pixels leave it legible
LEFT, RIGHT, TOP, BOTTOM = 56, 430, 44, 232
MARKED_UP_TO = 60  # points; longer lines are drawn without markers
BAR_LABELS = 12


class Stroke(NamedTuple):
    """How a line looks; each of the three alone tells the lines of a chart apart."""

    colour: str
    dashes: str | None
    shape: str


LINES = (
    Stroke("#0b4f8a", None, "circle"),
    Stroke("#c2570c", "7 4", "square"),
    Stroke("#4a7a52", "2 3", "triangle"),
    Stroke("#7a3b8f", "10 3 2 3", "diamond"),
    Stroke("#5f6b76", "1 5", "ring"),
    Stroke("#a32035", "12 5", "bar"),
)
CORNERS = {
    "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    "triangle": ((0, -5), (5, 4), (-5, 4)),
    "diamond": ((0, -6), (5, 0), (0, 6), (-5, 0)),
    "bar": ((-6, -2), (6, -2), (6, 2), (-6, 2)),
}
FILLS = ("#16324f", "#5f8fbf", "#b5cfe4", "#ffffff", "#8a8a8a")  # parts of a bar have outlines too


@dataclass(frozen=True)
class Scale:
    """Data to user units, linear."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, *, whole: bool = False, about: int = 5) -> list[float]:
    """Round values (steps of 1, 2 or 5 times a power of ten) inside [low, high]; ``whole``: integers only."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def short(value: float) -> str:
    """A value for reading: four significant digits, no exponent for everyday sizes."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        digits = 0 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
    return f"{value:.3g}"


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    if high - low <= 1e-12 * max(abs(low), abs(high), 1.0):
        around = 0.5 if share == 0.0 else max(abs(low) * 0.05, 0.01)
        return low - around, high + around
    return low - share * (high - low), high + share * (high - low)


def y_axis(y: Scale) -> Html:
    values = ticks(y.low, y.high)
    grid = [tag("line", x1=LEFT, x2=RIGHT, y1=y(v), y2=y(v), class_="grid") for v in values]
    labels = [tag("text", short(v), x=LEFT - 6, y=y(v) + 4, text_anchor="end", class_="y") for v in values]
    return join(grid + labels)


def x_axis(x: Scale, *, whole: bool) -> Html:
    base = tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="base")
    values = ticks(x.low, x.high, whole=whole, about=8 if whole else 5)
    labels = [tag("text", short(v), x=x(v), y=BOTTOM + 17, text_anchor="middle", class_="x") for v in values]
    return join([base, *labels])


def rule(y: float) -> Html:
    return tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="rule")


def rule_name(name: str, y: float) -> Html:
    return tag("text", name, x=RIGHT, y=y - 4, text_anchor="end", class_="ruled")


def mark(name: str, x: float) -> Html:
    line = tag("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="mark")
    return join([line, tag("text", name, x=x, y=TOP - 8, text_anchor="middle")])


def coordinates(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in places)


def marker(stroke: Stroke, x: float, y: float, name: str) -> Html:
    """``title`` inside a shape is what a pointer over it shows."""
    title = tag("title", name) if name else None
    if stroke.shape == "circle":
        return tag("circle", title, cx=x, cy=y, r=4, fill=stroke.colour)
    if stroke.shape == "ring":
        return tag("circle", title, cx=x, cy=y, r=4, fill="#fff", stroke=stroke.colour, stroke_width=2)
    corners = [(x + a, y + b) for a, b in CORNERS[stroke.shape]]
    return tag("polygon", title, points=coordinates(corners), fill=stroke.colour)


def stack(parts: Sequence[str], values: Sequence[float], middle: float, width: float, y: Scale) -> Html:
    below, drawn = 0.0, []
    for n, (part, value) in enumerate(zip(parts, values, strict=True)):
        if value > 0:
            top, bottom = y(below + value), y(below)
            box = {"x": middle - width / 2, "y": top, "width": width, "height": bottom - top}
            name = tag("title", f"{part}: {short(value)}")
            drawn.append(tag("rect", name, **box, fill=FILLS[n % len(FILLS)], class_="stack"))
        below += value
    return join(drawn)


def stroke_sample(stroke: Stroke) -> Html:
    line = tag(
        "line",
        x1=0,
        x2=34,
        y1=8,
        y2=8,
        stroke=stroke.colour,
        stroke_width=2.2,
        stroke_dasharray=stroke.dashes,
    )
    shape = marker(stroke, 17.0, 8.0, "")
    return tag("svg", line, shape, viewBox="0 0 34 16", class_="key", aria_hidden="true")


def fill_sample(fill: str) -> Html:
    box = tag("rect", x=9, y=1, width=14, height=14, fill=fill, class_="stack")
    return tag("svg", box, viewBox="0 0 34 16", class_="key", aria_hidden="true")
