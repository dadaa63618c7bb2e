"""Filters without a script: radio buttons, and style rules that hide the articles of the other values.

A browser that does not know ``:has`` shows all articles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cyclealign.reporting.markup import Html, join, tag

ALL = "all"


@dataclass(frozen=True)
class Filter:
    """One choice on a section's articles: ``key`` is their attribute ``data-KEY``, ``options`` value to label.

    Keys and values stand in style rules: they are words of ours (letters, digits, hyphens), never text of a model.
    """

    section: str
    key: str
    title: str
    options: Mapping[str, str]

    def controls(self, counts: Mapping[str, int]) -> Html | None:
        """The buttons, of the values that occur; None where there is nothing to choose from."""
        present = {v: label for v, label in self.options.items() if counts.get(v)}
        if len(present) < 2:
            return None
        buttons = [(ALL, f"all ({sum(counts.values())})")]
        buttons += [(value, f"{label} ({counts[value]})") for value, label in present.items()]
        return tag("fieldset", tag("legend", self.title), *(self._button(*button) for button in buttons))

    def _button(self, value: str, label: str) -> Html:
        checked = {"checked": ""} if value == ALL else {}
        name = f"{self.section}-{self.key}"
        return tag("label", tag("input", type="radio", name=name, value=value, **checked), label)

    def rules(self) -> str:
        """Style: with a value chosen, articles of another one are hidden."""
        name = f"{self.section}-{self.key}"
        return "".join(
            f'#{self.section}:has(input[name="{name}"][value="{value}"]:checked)'
            f' article:not([data-{self.key}="{value}"]) {{ display: none; }}\n'
            for value in self.options
        )


def filtered(filters: Sequence[Filter], articles: Iterable[tuple[Mapping[str, str], Html]]) -> Html:
    """Articles (their values by key, and their content) below the filters that choose among them."""
    found = list(articles)
    controls = []
    for one in filters:
        values = [about[one.key] for about, _ in found]
        controls.append(one.controls({v: values.count(v) for v in one.options}))
    chosen = [c for c in controls if c is not None]
    bar = tag("div", *chosen, class_="filters") if chosen else None
    shown = [tag("article", content, **{f"data_{k}": v for k, v in about.items()}) for about, content in found]
    return join([bar, *shown])
