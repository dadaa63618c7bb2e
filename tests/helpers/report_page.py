"""A strict reader of the report's HTML, for its tests."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.page import render_report


class Node:
    """An element with its attributes, children in order, and its text."""

    def __init__(self, name: str, attributes: dict[str, str | None]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, name: str, **attributes: str) -> list[Node]:
        """Elements of a name anywhere below, with these attributes (``class_`` for class)."""
        wanted = {k.rstrip("_"): v for k, v in attributes.items()}
        found = []
        for child in (c for c in self.children if isinstance(c, Node)):
            if child.name == name and wanted.items() <= child.attributes.items():
                found.append(child)
            found += child.all(name, **attributes)
        return found

    def number(self, name: str) -> float:
        return float(self.attributes[name] or "nan")


class Page(HTMLParser):
    """A strict reader: every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in ("meta", "input"):
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def page(run: RunDir) -> Node:
    return Page(render_report(run)).root


def figure(root: Node, key: str) -> Node:
    (found,) = root.all("figure", id=key)
    return found


def every(node: Node) -> list[Node]:
    below = [c for c in node.children if isinstance(c, Node)]
    return below + [n for c in below for n in every(c)]


def drawn_lines(chart: Node) -> list[list[tuple[float, float]]]:
    """The chart's lines, read back into data with the chart's own axes."""
    (ax, bx), (ay, by) = axis(chart, "x", "x"), axis(chart, "y", "y")
    lines = []
    for node in chart.all("polyline"):
        pairs = [p.split(",") for p in (node.attributes["points"] or "").split()]
        lines.append([(ax * float(x) + bx, ay * float(y) + by) for x, y in pairs])
    return lines


def axis(chart: Node, kind: str, coordinate: str) -> tuple[float, float]:
    """Slope and offset from user units to data, by least squares over the axis's own labels."""
    labels = chart.all("text", class_=kind)
    shift = 4 if kind == "y" else 0  # text is set 4 below its grid line, so that it looks centred
    at = [node.number(coordinate) - shift for node in labels]
    slope, offset = np.polyfit(at, [float(node.text.replace(",", "")) for node in labels], 1)
    return float(slope), float(offset)
