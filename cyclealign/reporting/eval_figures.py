"""A result's figures as rows of text, for the terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cyclealign.evaluation.result import Result
from cyclealign.evaluation.statistics import Estimate, Figure, Figures


class Row(NamedTuple):
    """A figure: its dotted name, its value, its 95% interval and the number of items, as text."""

    name: str
    value: str
    interval: str
    n: str


def figure_rows(metrics: Figures, name: str = "") -> Iterator[Row]:
    """One row for each number in nested figures; what is missing (None) is left out."""
    for key, value in metrics.items():
        dotted = f"{name}.{key}" if name else str(key)
        if isinstance(value, Estimate):
            yield Row(dotted, number(value.value), interval(value), f"{value.n:,}")
        elif isinstance(value, Mapping):
            yield from figure_rows(value, dotted)
        elif isinstance(value, bool | int | float | str):
            yield Row(dotted, number(value), "", "")


def number(value: Figure) -> str:
    """Whole numbers with separators, others with four significant decimals."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def interval(estimate: Estimate) -> str:
    return " to ".join(map(number, estimate.interval)) if estimate.interval else ""


def differences_of(result: Result) -> Figures:
    """The paired differences as figures."""
    return {name: {"difference": d.difference, "p": d.p, "p_holm": d.p_holm} for name, d in result.differences.items()}
