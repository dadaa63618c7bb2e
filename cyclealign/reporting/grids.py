"""A grid of shares as inline SVG: the darker a cell, the larger its share; the share stands in it."""

from __future__ import annotations

from dataclasses import dataclass

from cyclealign.reporting.drawing import short
from cyclealign.reporting.markup import Html, Value, details, table, tag

WIDTH, LEFT, TOP, RIGHT, BOTTOM = 440, 56, 40, 430, 44
LABELLED_UP_TO = 8  # columns; narrower cells hold no number
DARKEST = 3.0  # times chance: the share whose cell is darkest, the same for all grids of one size
WHITE = 0.6  # darkness from which the number is white


@dataclass(frozen=True)
class Grid:
    """``counts[row][column]``; a cell is drawn by its share of its row. ``names``: of rows and of columns alike."""

    key: str
    title: str
    x_label: str
    y_label: str
    names: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]
    note: str = ""

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(c / (sum(row) or 1.0) for c in row) for row in self.counts)


def grid(chart: Grid) -> Html:
    """The figure of a grid, with a text alternative and its counts in a table."""
    k = len(chart.names)
    tall = 40 if k <= 5 else 30
    height = TOP + tall * k + BOTTOM
    width = (RIGHT - LEFT) / k
    drawn = [
        _cell(share, (LEFT + column * width, TOP + row * tall), (width, tall), k)
        for row, shares in enumerate(chart.shares)
        for column, share in enumerate(shares)
    ]
    columns = [
        tag("text", name, x=LEFT + width * (n + 0.5), y=height - BOTTOM + 17, text_anchor="middle")
        for n, name in enumerate(chart.names)
    ]
    rows = [
        tag("text", name, x=LEFT - 8, y=TOP + tall * (n + 0.5) + 4, text_anchor="end")
        for n, name in enumerate(chart.names)
    ]
    svg = tag(
        "svg",
        tag("title", chart.title, id=f"{chart.key}-title"),
        tag("desc", _spoken(chart), id=f"{chart.key}-desc"),
        tag("text", chart.y_label, x=2, y=16, class_="axis"),
        *drawn,
        *columns,
        *rows,
        tag("text", chart.x_label, x=(LEFT + RIGHT) / 2, y=height - 8, text_anchor="middle", class_="axis"),
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_labelledby=f"{chart.key}-title {chart.key}-desc",
    )
    counts = [[name, *map(short, row)] for name, row in zip(chart.names, chart.counts, strict=True)]
    data = details("numbers", table([f"{chart.y_label} \\ {chart.x_label}", *chart.names], counts))
    return tag("figure", tag("h3", chart.title), svg, tag("figcaption", chart.note), data, id=chart.key)


def _cell(share: float, corner: tuple[float, float], size: tuple[float, float], k: int) -> Html:
    (x, y), (width, height) = corner, size
    darkness = min(share * k / DARKEST, 1.0)
    box = tag("rect", x=x, y=y, width=width, height=height, fill="#16324f", fill_opacity=darkness, class_="cell")
    if k > LABELLED_UP_TO:
        return box
    ink = "inverse" if darkness >= WHITE else None
    middle: dict[str, Value] = {"x": x + width / 2, "y": y + height / 2 + 4, "text_anchor": "middle"}
    return Html(box + tag("text", f"{share:.0%}", **middle, class_=ink))


def _spoken(chart: Grid) -> str:
    rows = [
        ", ".join(f"{share:.0%} {column}" for column, share in zip(chart.names, shares, strict=True))
        for shares in chart.shares
    ]
    return "; ".join(f"{chart.y_label} {name}: {row}" for name, row in zip(chart.names, rows, strict=True))
