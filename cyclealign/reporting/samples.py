"""What models wrote: replies before and after, rankings of the last interaction, demonstrations at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cyclealign.reporting.figures import Facts
from cyclealign.reporting.markup import Html, Value, details, join, passage, table, tag
from cyclealign.run_dir import RunDir, Verdict, read_json, read_jsonl, read_sets, read_verdicts
from cyclealign.types import CandidateSet, Message, Ranking

COMPARED = 12  # prompts before and after
RANKED = 8  # prompts with both rankings
OPEN_REPLIES = 2  # replies of one policy that are shown at once; the others open on demand


def before_and_after(run: RunDir, facts: Facts) -> Html | None:
    """Replies of the start model and of the kept one to the same prompts: the first of the reporting half."""
    start, trained = read_sets(run.evaluation(0) / "candidates.jsonl"), facts.compared
    then = read_sets(run.evaluation(trained) / "candidates.jsonl") if trained else {}
    reporting = [i for i, place in facts.position.items() if place % 2 == 1] or list(facts.position)
    shown = [i for i in reporting if i in start][:COMPARED]
    if not shown:
        return None
    return join(
        tag(
            "article",
            conversation(start[i].prompt.messages),
            tag(
                "div",
                _replies("start model", start[i], facts, 0),
                _replies(f"{facts.label} model", then[i], facts, trained) if trained and i in then else None,
                class_="pair",
            ),
        )
        for i in shown
    )


def _replies(title: str, item: CandidateSet, facts: Facts, trained: int) -> Html:
    score = facts.evaluations.get(trained, {}).get("reward_by_prompt", {}).get(item.prompt.id)
    head = title if score is None else f"{title}, mean reward {score:.3f}"
    texts = [passage(c.text) for c in item.candidates]
    more = details(f"{len(texts) - OPEN_REPLIES} more", *texts[OPEN_REPLIES:]) if texts[OPEN_REPLIES:] else None
    empty = None if texts else tag("p", "no reply that is not empty", class_="note")
    return tag("section", tag("h4", head), *texts[:OPEN_REPLIES], more, empty)


def last_rankings(run: RunDir) -> Html | None:
    """Candidates of the latest interaction that has verdicts, in the black box's order, with both places."""
    interactions = [i for i in run.interactions() if any(read_jsonl(i.black_box))]
    if not interactions:
        return None
    last = interactions[-1]
    sets, black, white = read_sets(last.candidates), read_verdicts(last.black_box), read_verdicts(last.white_box)
    agreed = {r["prompt_id"]: r["ids"] for r in read_jsonl(last.agreement)}
    both = [p for p in run.train_prompts() if p.id in sets and p.id in black][:RANKED]
    articles = [
        tag(
            "article",
            conversation(p.messages),
            _ranked(sets[p.id], black[p.id], white.get(p.id), agreed.get(p.id, ())),
        )
        for p in both
    ]
    return join(
        [tag("p", f"Interaction {int(last.path.name)}, the first {len(both)} prompts.", class_="note"), *articles]
    )


def _ranked(item: CandidateSet, black: Verdict, white: Verdict | None, agreed: Sequence[str]) -> Html:
    order = black.order if isinstance(black, Ranking) else item.ids
    ids = [*order, *(i for i in item.ids if i not in order)]
    rows = [(_place(black, i), _place(white, i), "yes" if i in agreed else "", passage(item.text(i))) for i in ids]
    note = (
        [] if isinstance(black, Ranking) else [tag("p", f"not ranked: {black.reason}. {black.detail}", class_="note")]
    )
    return join([*note, table(["black box", "white box", "agreed", "candidate"], rows)])


def _place(verdict: Verdict | None, candidate: str) -> str:
    """Place from 1, with the score where the ranker has one; empty where it did not rank the candidate."""
    if not isinstance(verdict, Ranking):
        return ""
    place = next((n for n, tier in enumerate(verdict.tiers, start=1) if candidate in tier), None)
    if place is None:
        return ""
    score = (verdict.scores or {}).get(candidate)
    return str(place) if score is None else f"{place} ({score:.3f})"


def demonstrations(run: RunDir) -> Html | None:
    """How many static ones, and the dynamic pool after the latest interaction, best response first."""
    saved = [i for i in run.interactions() if i.demonstrations.exists()]
    if not saved:
        return None
    records = list(read_jsonl(saved[-1].demonstrations))
    dynamic = [r for r in records if r["source"] != "static"]
    count = f"{len(records) - len(dynamic)} static, {len(dynamic)} from agreement after interaction"
    shown = [
        tag(
            "article",
            tag("p", f"from interaction {r['source']}, chance-corrected agreement {r['agreement']:.2f}", class_="note"),
            conversation(r["messages"]),
            table(["place", "response"], [(n, passage(r["responses"][i])) for n, i in enumerate(r["order"], start=1)]),
        )
        for r in dynamic
    ]
    return join(
        [tag("p", f"{count} {int(saved[-1].path.name)}."), details("the dynamic ones", *shown) if shown else None]
    )


def conversation(messages: Sequence[Message]) -> Html:
    """The last turn, with the turns before it on demand."""
    *earlier, last = messages
    turns = [tag("div", tag("b", m["role"]), passage(m["content"])) for m in earlier]
    before = details(f"{len(turns)} earlier turn{'s' if len(turns) > 1 else ''}", *turns) if turns else None
    return tag("div", before, tag("b", last["role"]), passage(last["content"]), class_="prompt")


def interactions(run: RunDir) -> Html | None:
    """The summaries, one row an interaction."""
    head = (
        "interaction",
        "batch",
        "round",
        "prompts",
        "ranked",
        "unranked",
        "tau of passes",
        "settled",
        "accepted",
        "pool",
    )
    rows = [_summary(read_json(i.summary)) for i in run.interactions() if i.summary.exists()]
    return table(head, rows) if rows else None


def _summary(s: dict[str, Any]) -> list[Value]:
    unranked = ", ".join(f"{n} {reason}" for reason, n in s["unranked"].items()) or "0"
    tau = "" if s["pass_tau"] is None else f"{s['pass_tau']:.2f}"
    before: list[Value] = [s["interaction"], s["batch"], s["round"], s["prompts"], s["ranked"]]
    return [*before, unranked, tau, s["settled"], s["accepted"], s["pool"]]
