"""Sets of demonstrations as text for people: a line each, whole, or what differs between two."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence

from cyclealign.curation.sets import DemonstrationSet
from cyclealign.judge.prompting import demonstration_tokens
from cyclealign.judge.template import RankTemplate
from cyclealign.types import Demonstration

OPENING = 60  # characters of a prompt that a list shows


def overview(found: DemonstrationSet, template: RankTemplate) -> list[str]:
    """Version, totals, and one line a demonstration."""
    demos = found.demonstrations
    costs = [demonstration_tokens(template, d) for d in demos]
    sources = Counter("static" if d.source == "static" else "dynamic" for d in demos)
    lines = [
        f"set: {found.name}",
        f"version: {found.version}",
        f"demonstrations: {len(demos)} ({', '.join(f'{n} {s}' for s, n in sources.items()) or 'none'})",
        f"tokens: about {sum(costs):,} in template {template.name}",
    ]
    rows = [("id", "K", "best", "tokens", "source", "tags", "prompt")]
    for demo, cost in zip(demos, costs, strict=True):
        best = f"{demo.order[0] + 1}{_length_mark(demo)}"
        rows.append(
            (demo.id, str(len(demo.responses)), best, str(cost), demo.source, ",".join(demo.tags), opening(demo))
        )
    return [*lines, "", *columns(rows), "", "best: number of the best response; + the longest, - the shortest"]


def whole(demo: Demonstration) -> list[str]:
    """One demonstration in full, its responses best first."""
    lines = [
        f"{demo.id}  source {demo.source}, agreement {demo.agreement:g}"
        + (f"  [{', '.join(demo.tags)}]" * bool(demo.tags))
    ]
    lines += [f"  {m['role']}: {_indented(m['content'])}" for m in demo.prompt.messages]
    for place, slot in enumerate(demo.order, start=1):
        lines.append(f"  {place}. shown as [{slot + 1}]: {_indented(demo.responses[slot])}")
    return [*lines, f"  note: {demo.note}"] if demo.note else lines


def differences(first: DemonstrationSet, second: DemonstrationSet) -> list[str]:
    """What one set has that the other has not; two entries of one prompt are shown as one that changed."""
    old = {d.id: d for d in first.demonstrations}
    new = {d.id: d for d in second.demonstrations}
    gone = [d for i, d in old.items() if i not in new]
    came = [d for i, d in new.items() if i not in old]
    lines = [f"- {first.name}  version {first.version}", f"+ {second.name}  version {second.version}"]
    for demo in gone:
        heir = next((d for d in came if d.prompt.id == demo.prompt.id), None)
        if heir is None:
            lines.append(f"removed  {demo.id}  {opening(demo)}")
        else:
            came.remove(heir)
            lines += [f"changed  {demo.id} -> {heir.id}  {opening(demo)}", *_changes(demo, heir)]
    lines += [f"added    {d.id}  {opening(d)}" for d in came]
    for demo in (d for i, d in new.items() if i in old and d != old[i]):
        lines += [f"relabelled  {demo.id}  {opening(demo)}", *_changes(old[demo.id], demo)]
    common = [i for i in old if i in new]
    if common != [i for i in new if i in old]:
        lines.append("order    the demonstrations that both have stand in another order")
    return lines if len(lines) > 2 else [*lines, "no difference"]


def _changes(old: Demonstration, new: Demonstration) -> Iterator[str]:
    before, after = whole(old)[1:], whole(new)[1:]
    for line in difflib.unified_diff(before, after, lineterm="", n=0):
        if not line.startswith(("---", "+++", "@@")):
            yield f"    {line}"
    for name in ("source", "agreement", "tags"):
        if getattr(old, name) != getattr(new, name):
            yield f"    {name}: {getattr(old, name)!r} -> {getattr(new, name)!r}"


def opening(demo: Demonstration) -> str:
    """The first words of the last turn."""
    text = " ".join(demo.prompt.messages[-1]["content"].split())
    return text if len(text) <= OPENING else text[: OPENING - 1] + "…"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _length_mark(demo: Demonstration) -> str:
    lengths = [len(r) for r in demo.responses]
    best = lengths[demo.order[0]]
    return "+" if best == max(lengths) else "-" if best == min(lengths) else ""


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")
