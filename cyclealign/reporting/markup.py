"""HTML that is escaped unless it says that it is HTML.

Everything on the page goes through ``tag``: a child that is not ``Html`` is text, and text is escaped. So what a
model or a data file wrote cannot become markup by being forgotten somewhere.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = frozenset({"meta", "input"})  # elements without an end tag
CUT = 4000
"""Characters of one text that are shown; the page says how many there were."""
LONG = 600  # characters from which a text scrolls, and therefore takes the keyboard's focus

# What a page or a UTF-8 file cannot hold, or what would reorder the text around it: control characters become
# their pictures, lone surrogates U+FFFD, controls of direction their code points.
_UNPRINTABLE: dict[int, str] = {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\t\n"}
_UNPRINTABLE |= {0x7F: "\u2421"} | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], "\ufffd")
_UNPRINTABLE |= {c: f"[U+{c:04X}]" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}

Value = str | int | float


class Html(str):
    """A string that is markup already."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Text as markup: ``&``, ``<``, ``>`` and both quotes escaped, unprintable characters made visible."""
    return Html(html.escape(text.replace("\r\n", "\n").translate(_UNPRINTABLE), quote=True))


def tag(element: str, /, *children: Value | None, **attributes: Value | None) -> Html:
    """One element. ``class_`` gives ``class``, ``stroke_width`` gives ``stroke-width``; None leaves it out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{join(children)}</{element}>")


def join(children: Iterable[Value | None]) -> Html:
    """Children one after the other; None leaves one out."""
    return Html("".join(c if isinstance(c, Html) else escape(number(c)) for c in children if c is not None))


def number(value: Value) -> str:
    """A coordinate or count as text: at most two decimals; a string as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(head: Sequence[Value], rows: Iterable[Sequence[Value | None]]) -> Html:
    """A table whose first column names the row; None is an empty cell."""
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells)) for first, *cells in rows]
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), class_="scroll")


def details(summary: Value, *children: Value | None) -> Html:
    """A part that opens on demand, without a script."""
    return tag("details", tag("summary", summary), *children)


def passage(text: str) -> Html:
    """A text of any length in a box that scrolls; above ``CUT`` characters it is cut, and says so."""
    shown = tag("div", text[:CUT], class_="text", dir="auto", tabindex=0 if len(text) > LONG else None)
    if len(text) <= CUT:
        return shown
    return join([shown, tag("p", f"cut: the first {CUT:,} of {len(text):,} characters", class_="note")])
