"""From interaction to interaction: the summaries, and how the demonstrations changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cyclealign.files.jsonl import read_json, read_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.markup import Html, Value, details, join, passage, table, tag
from cyclealign.reporting.samples import conversation
from cyclealign.types import canonical_json

SHOWN = 12  # demonstrations of one kind that are shown in full
Record = Mapping[str, Any]


def interactions(run: RunDir) -> Html | None:
    """The summaries, one row an interaction."""
    counts = ("ranked", "unranked", "tau of passes", "settled", "accepted", "pool")
    head = ("interaction", "batch", "round", "prompts", *counts)
    rows = [_summary(read_json(i.summary)) for i in run.interactions() if i.summary.exists()]
    return table(head, rows) if rows else None


def _summary(s: Record) -> list[Value]:
    unranked = ", ".join(f"{n} {reason}" for reason, n in s["unranked"].items()) or "0"
    tau = "" if s["pass_tau"] is None else f"{s['pass_tau']:.2f}"
    before: list[Value] = [s["interaction"], s["batch"], s["round"], s["prompts"], s["ranked"]]
    return [*before, unranked, tau, s["settled"], s["accepted"], s["pool"]]


def demonstrations(run: RunDir) -> Html | None:
    """The static ones, what each interaction added to the pool and dropped from it, and the latest pool."""
    saved = {int(i.path.name): _records(i.demonstrations) for i in run.interactions() if i.demonstrations.exists()}
    static = _records(run.prompts / "demonstrations.jsonl")
    pools = [static or [r for r in next(iter(saved.values()), []) if r["source"] == "static"], *saved.values()]
    if not any(pools):
        return None
    steps = [(n, *_step(before, after)) for n, before, after in zip(saved, pools, pools[1:], strict=False)]
    dynamic = [r for r in pools[-1] if r["source"] != "static"]
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
    shown = read_json(file)["demonstrations"]
    return f" The static ones: {shown['source']}, version {shown['version']}."


def _records(path: Any) -> list[Record]:
    return list(read_jsonl(path))


def _step(before: Sequence[Record], after: Sequence[Record]) -> tuple[list[Record], list[Record], list[Record]]:
    """What the later pool has more, what it has less, and its dynamic part."""
    old, new = ({_identity(r): r for r in pool} for pool in (before, after))
    added = [r for i, r in new.items() if i not in old]
    return added, [r for i, r in old.items() if i not in new], [r for r in after if r["source"] != "static"]


def _identity(record: Record) -> str:
    return canonical_json([record["messages"], record["responses"], record["order"]])


def _kind(title: str, records: Sequence[Record]) -> Html | None:
    """The first of some demonstrations in full, best response first."""
    if not records:
        return None
    more = len(records) - SHOWN
    note = tag("p", f"and {more} more, in the run's demonstrations.jsonl", class_="note") if more > 0 else None
    return join([tag("h4", title) if title else None, *map(_demonstration, records[:SHOWN]), note])


def _demonstration(record: Record) -> Html:
    source, agreement = record.get("source", "static"), record.get("agreement", 1.0)
    origin = f"from interaction {source}, chance-corrected agreement {agreement:.2f}"
    responses = [(n, passage(record["responses"][i])) for n, i in enumerate(record["order"], start=1)]
    return tag(
        "article",
        tag("p", "static" if source == "static" else origin, class_="note"),
        conversation(record["messages"]),
        table(["place", "response"], responses),
    )
