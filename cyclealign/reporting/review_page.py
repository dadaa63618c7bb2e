"""The page on which people mark lists by hand: self-contained, with a script of its own and a policy that allows no
other.

What they mark stays in the browser until they save it, as the JSONL that ``demos import``, ``replay:`` and ``eval
ranker`` read. Who ranked a list how is out of sight until it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cyclealign.evaluation.disagreement import Contested
from cyclealign.files.atomic import write_atomic
from cyclealign.reporting.frame import page
from cyclealign.reporting.markup import Html, details, join, passage, table, tag
from cyclealign.reporting.samples import conversation, letter
from cyclealign.types import Prompt, Ranking, sha256_hex

SCRIPT = Path(__file__).with_name("review_page.js")
RULES = """
.marks { position: sticky; top: 0; z-index: 1; display: flex; gap: 1rem; align-items: center; padding: .5rem 0;
  background: #fff; border-bottom: 1px solid var(--line); }
.marks button { font: inherit; padding: .3rem .9rem; }
.review .text { max-height: 24rem; }
article.done { border-color: var(--accent); }
"""
HOW = (
    "Give every response of a list its place: 1 is best, equal places are a tie. The responses stand in an order drawn"
    " at random. Lists that you leave open are left out of the file; this browser keeps your marks until you save them."
)
NO_SCRIPT = "Without its script this page cannot save; mark in the JSONL file instead, with tiers in each line."


def write_review(path: Path, lists: Sequence[Contested], source: str) -> Path:
    """Write the page, whole or not at all."""
    write_atomic(path, render_review(lists, source))
    return path


def render_review(lists: Sequence[Contested], source: str) -> str:
    """The page as text."""
    bar = tag(
        "div",
        tag("button", "Save marks", id="save", type="button"),
        tag("span", f"0 of {len(lists)} lists marked", id="count", role="status"),
        class_="marks",
    )
    articles = [_article(n, one, len(lists)) for n, one in enumerate(lists)]
    body = tag("div", bar, *articles, class_="review", id="lists", data_version=_version(lists))
    top = [tag("p", HOW, class_="note"), tag("noscript", tag("p", NO_SCRIPT, class_="status"))]
    heading = f"Lists to mark: {source}"
    return page(heading, heading, top, [("Lists", "marking", body)], RULES, SCRIPT.read_text(encoding="utf-8"))


def _version(lists: Sequence[Contested]) -> str:
    """Of the lists: marks of another page are not taken for marks of this one."""
    return sha256_hex([one.item.id for one in lists])[:16]


def _article(number: int, one: Contested, total: int) -> Html:
    names = {c.id: letter(n) for n, c in enumerate(one.item.candidates)}
    replies = [
        tag(
            "section",
            tag("h4", f"Response {names[c.id]}"),
            tag("div", c.text, class_="text", dir="auto", tabindex=0),
            _places(f"list-{number}-{c.id}", f"Place of {names[c.id]}", len(names)),
        )
        for c in one.item.candidates
    ]
    return tag(
        "article",
        tag("h3", f"{number + 1} of {total}"),
        conversation(one.item.prompt.messages),
        *_told(one.item.prompt),
        tag("div", *replies, class_="pair ranked"),
        _said(one, names),
        id=f"list-{number}",
        data_list=json.dumps(one.question()).replace("\x7f", "\\u007f"),  # printable ASCII comes back as it was
    )


def _told(prompt: Prompt) -> list[Html]:
    """What a judge goes by for this prompt: people must judge by the same."""
    told = {"rubric": prompt.rubric, "reference": prompt.reference}
    return [tag("div", tag("b", name), passage(text), class_="prompt") for name, text in told.items() if text]


def _places(name: str, legend: str, k: int) -> Html:
    buttons = [tag("label", tag("input", type="radio", name=name, value=n), n) for n in range(1, k + 1)]
    return tag("fieldset", tag("legend", legend), *buttons)


def _said(one: Contested, names: dict[str, str]) -> Html:
    """Who ranked the list how, on demand."""
    distance, between = one.furthest

    def spelled(ranking: Ranking) -> str:
        return " > ".join(" = ".join(names[i] for i in tier) for tier in ranking.tiers)

    rows: list[tuple[str, str]] = [(name, spelled(r)) for name, r in {**one.rankings, **one.passes}.items()]
    rows += [(arm, f"first choice as labelled: {value:g}") for arm, value in one.values.items()]
    note = tag("p", f"furthest apart: {between[0]} and {between[1]} ({distance:.0%} of pairs)", class_="note")
    return details("who ranked it how", join([note, table(["who", "order"], rows)]))
