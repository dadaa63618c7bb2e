"""A forest plot: one figure with its interval a row, so that groups can be compared at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from cyclealign.evaluation.statistics import Estimate
from cyclealign.reporting.drawing import Scale, padded, short, ticks
from cyclealign.reporting.eval_figures import interval, number
from cyclealign.reporting.markup import Html, details, table, tag

WIDTH, ROW, TOP, BOTTOM = 440, 26, 30, 34
LEFT, RIGHT = 150, 424
NAME = 22  # characters of a name that fit before the plot


def forest_plot(key: str, title: str, rows: Sequence[tuple[str, Estimate]], *, rule: float | None) -> Html:
    """Rows of (name, estimate) against one axis; ``rule``: a vertical line at no difference, or at chance."""
    ends = [v for _, e in rows for v in (e.value, e.low, e.high) if v is not None]
    ends += [rule] if rule is not None else []
    low, high = padded(min(ends), max(ends), 0.05)
    x = Scale(low, high, LEFT, RIGHT)
    height = TOP + ROW * len(rows) + BOTTOM
    grid = [_tick(x, value, height) for value in ticks(low, high, about=4)]
    line = [tag("path", d=f"M{x(rule):.2f} {TOP - 6}V{height - BOTTOM}", class_="rule")] if rule is not None else []
    marks = [_row(name, estimate, TOP + ROW * (n + 0.5), x) for n, (name, estimate) in enumerate(rows)]
    spoken = "; ".join(f"{name}: {number(e.value)} ({interval(e) or 'no interval'})" for name, e in rows)
    svg = tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", spoken, id=f"{key}-desc"),
        *grid,
        *line,
        *marks,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )
    numbers = [(name, number(e.value), interval(e), f"{e.n:,}") for name, e in rows]
    data = details("numbers", table(["", "value", "95% interval", "n"], numbers))
    return tag("figure", tag("h3", title), svg, data, id=key)


def _tick(x: Scale, value: float, height: int) -> Html:
    line = tag("path", d=f"M{x(value):.2f} {TOP - 6}V{height - BOTTOM}", class_="grid")
    return Html(line + tag("text", short(value), x=x(value), y=height - BOTTOM + 18, text_anchor="middle"))


def _row(name: str, estimate: Estimate, y: float, x: Scale) -> Html:
    shown = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
    parts = [tag("text", shown, x=LEFT - 8, y=y + 4, text_anchor="end")]
    if estimate.interval is not None:
        a, b = map(x, estimate.interval)
        caps = f"M{a:.2f} {y - 5:.2f}v10M{b:.2f} {y - 5:.2f}v10M{a:.2f} {y:.2f}H{b:.2f}"
        parts.append(tag("path", d=caps, stroke="#0b4f8a", fill="none", class_="bar"))
    parts.append(tag("circle", cx=x(estimate.value), cy=y, r=4.5, fill="#0b4f8a"))
    return Html("".join(parts))
