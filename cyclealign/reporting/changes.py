"""From interaction to interaction: the summaries, and how the demonstrations changed."""

from __future__ import annotations

from collections.abc import Sequence

from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Summary
from cyclealign.files.run_state import Versions
from cyclealign.judge.demonstration_files import load_demonstrations
from cyclealign.reporting.markup import Html, Value, details, join, passage, table, tag
from cyclealign.reporting.samples import conversation
from cyclealign.types import Demonstration

SHOWN = 12  # demonstrations of one kind that are shown in full
Pool = Sequence[Demonstration]


def interactions(run: RunDir) -> Html | None:
    """The summaries, one row an interaction."""
    counts = ("ranked", "unranked", "tau of passes", "settled", "accepted", "pool")
    head = ("interaction", "batch", "round", "prompts", *counts)
    rows = [_summary(read_record(Summary, i.summary)) for i in run.interactions() if i.summary.exists()]
    return table(head, rows) if rows else None


def _summary(s: Summary) -> list[Value]:
    unranked = ", ".join(f"{n} {reason}" for reason, n in s.unranked.items()) or "0"
    tau = "" if s.pass_tau is None else f"{s.pass_tau:.2f}"
    before: list[Value] = [s.interaction, s.batch, s.round, s.prompts, s.ranked]
    return [*before, unranked, tau, s.settled, s.accepted, s.pool]


def demonstrations(run: RunDir) -> Html | None:
    """The static ones, what each interaction added to the pool and dropped from it, and the latest pool."""
    saved = {
        int(i.path.name): load_demonstrations(i.demonstrations) for i in run.interactions() if i.demonstrations.exists()
    }
    file = run.prompts / "demonstrations.jsonl"
    static = load_demonstrations(file) if file.exists() else ()
    pools = [static or [d for d in next(iter(saved.values()), ()) if d.source == "static"], *saved.values()]
    if not any(pools):
        return None
    steps = [(n, *_step(before, after)) for n, before, after in zip(saved, pools, pools[1:], strict=False)]
    dynamic = [d for d in pools[-1] if d.source != "static"]
    count = f"{len(pools[-1]) - len(dynamic)} static, {len(dynamic)} from agreement"
    when = f"after interaction {max(saved)}" if saved else "before the first interaction"
    rows = [(n, len(after), len(added), len(dropped)) for n, added, dropped, after in steps]
    changes = [
        details(f"interaction {n}: {len(added)} added, {len(dropped)} dropped", _kind("added", added),
                _kind("dropped", dropped))
        for n, added, dropped, _ in steps
        if added or dropped
    ]  # fmt: skip
    return join(
        [
            tag("p", f"{count}, {when}.{_version(run)}"),
            table(["interaction", "from agreement", "added", "dropped"], rows) if rows else None,
            *changes,
            details(f"the latest pool: {len(dynamic)} from agreement", _kind("", dynamic)) if dynamic else None,
            details(f"static: {len(pools[0])}", _kind("", pools[0])) if pools[0] else None,
        ]
    )


def _version(run: RunDir) -> str:
    file = run.prompts / "versions.json"
    if not file.exists():
        return ""
    shown = read_record(Versions, file).demonstrations
    if shown is None:
        return ""
    return f" The static ones: {shown.source}, version {shown.version}."


def _step(before: Pool, after: Pool) -> tuple[list[Demonstration], list[Demonstration], list[Demonstration]]:
    """What the later pool has more, what it has less, and its dynamic part."""
    old, new = ({d.id: d for d in pool} for pool in (before, after))
    added = [d for i, d in new.items() if i not in old]
    return added, [d for i, d in old.items() if i not in new], [d for d in after if d.source != "static"]


def _kind(title: str, records: Pool) -> Html | None:
    """The first of some demonstrations in full, best response first."""
    if not records:
        return None
    more = len(records) - SHOWN
    note = tag("p", f"and {more} more, in the run's demonstrations.jsonl", class_="note") if more > 0 else None
    return join([tag("h4", title) if title else None, *map(_demonstration, records[:SHOWN]), note])


def _demonstration(demo: Demonstration) -> Html:
    origin = f"from interaction {demo.source}, chance-corrected agreement {demo.agreement:.2f}"
    responses = [(n, passage(demo.responses[i])) for n, i in enumerate(demo.order, start=1)]
    return tag(
        "article",
        tag("p", "static" if demo.source == "static" else origin, class_="note"),
        conversation(demo.prompt.messages),
        table(["place", "response"], responses),
    )
