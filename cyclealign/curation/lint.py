"""What is wrong with a set of demonstrations, found without a call: copies, leaks, skew, what would not be shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.curation.overlap import NEAR_COPY, containment
from cyclealign.curation.showing import opening
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import RankTemplate
from cyclealign.types import Demonstration, Prompt

# Fewest demonstrations in which a skew is looked for, and how far a share may lie from chance.
SKEW_FROM = 4
SKEW = 0.25


@dataclass(frozen=True)
class Problem:
    """``error``: the set misleads a judge or a measurement. ``warning``: worth a look."""

    level: Literal["error", "warning"]
    about: str
    message: str


def lint(
    demos: Sequence[Demonstration],
    template: RankTemplate,
    *,
    static: Sequence[Demonstration] = (),
    held_out: Sequence[Prompt] = (),
    budget: DemonstrationsConfig | None = None,
) -> list[Problem]:
    """All problems of a set, errors first.

    Args:
        static: demonstrations that calls begin with anyway; what copies them says nothing new.
        held_out: prompts (with their labelled replies, where they have some) that measurements use.
        budget: the section whose token budget the set must fit.
    """
    found = [
        *_copies(demos),
        *_copies_of_static(demos, static, template),
        *_leaks(demos, held_out),
        *_positions(demos),
        *_lengths(demos),
        *_not_shown(demos, template, budget or DemonstrationsConfig()),
    ]
    return sorted(found, key=lambda p: p.level)


def _copies(demos: Sequence[Demonstration]) -> Iterator[Problem]:
    near = containment([_whole(d) for d in demos], [_whole(d) for d in demos])
    for j, second in enumerate(demos):
        for i, first in enumerate(demos[:j]):
            about = f"{first.id} and {second.id}"
            if first.id == second.id:
                yield Problem("error", about, f"the same demonstration twice: {opening(first)}")
            elif first.prompt.id == second.prompt.id and _contradict(first, second):
                yield Problem("error", about, f"the same responses in two orders: {opening(first)}")
            elif near[i, j] >= NEAR_COPY:
                yield Problem("warning", about, f"near-copies ({near[i, j]:.0%} shared): {opening(first)}")


def _contradict(first: Demonstration, second: Demonstration) -> bool:
    """Whether some pair of responses that both show stands in opposite orders."""
    one = [first.responses[i] for i in first.order]
    common = [t for t in one if t in second.responses]
    other = [second.responses[i] for i in second.order if second.responses[i] in common]
    return common != other


def _copies_of_static(
    demos: Sequence[Demonstration], static: Sequence[Demonstration], template: RankTemplate
) -> Iterator[Problem]:
    near = containment([_whole(d) for d in demos], [_whole(d) for d in static])
    words = containment([_whole(d) for d in demos], [template.instruction, template.system])
    for i, demo in enumerate(demos):
        for j, other in enumerate(static):
            if near[i, j] >= NEAR_COPY:
                problem = f"near-copy of the static demonstration {other.id} ({near[i, j]:.0%} shared): {opening(demo)}"
                yield Problem("warning", demo.id, problem)
        if words[i].max() >= NEAR_COPY:
            yield Problem("error", demo.id, f"repeats the text of template {template.name}: {opening(demo)}")


def _leaks(demos: Sequence[Demonstration], held_out: Sequence[Prompt]) -> Iterator[Problem]:
    """A judge that has seen the item, or one of its labelled replies, is not measured by it."""
    ids = {p.id for p in held_out}
    near = containment([_question(d.prompt) for d in demos], [_question(p) for p in held_out])
    labels = [(p, text) for p in held_out for text in (p.chosen, p.rejected) if text]
    shown = [(d, text) for d in demos for text in d.responses]
    replies = containment([t for _, t in shown], [t for _, t in labels])
    copied = {shown[i][0].id for i, j in zip(*(replies >= NEAR_COPY).nonzero(), strict=True)}
    for i, demo in enumerate(demos):
        if demo.prompt.id in ids:
            yield Problem("error", demo.id, f"leak: the prompt is in the eval data: {opening(demo)}")
        elif len(held_out) and near[i].max() >= NEAR_COPY:
            yield Problem("error", demo.id, f"leak: the eval data holds a near-copy of the prompt: {opening(demo)}")
        elif demo.id in copied:
            yield Problem(
                "error", demo.id, f"leak: a response is (nearly) a labelled reply of the eval data: {opening(demo)}"
            )


def _positions(demos: Sequence[Demonstration]) -> Iterator[Problem]:
    """Whether the best response stands in one place so often that a judge could learn the place."""
    by_k: dict[int, list[int]] = defaultdict(list)
    for demo in demos:
        by_k[len(demo.responses)].append(demo.order[0])
    for k, slots in sorted(by_k.items()):
        slot, count = Counter(slots).most_common(1)[0]
        if len(slots) >= SKEW_FROM and count / len(slots) > 1 / k + SKEW:
            says = (
                f"the best of {k} responses stands at number {slot + 1} in {count} of {len(slots)} (chance: 1 in {k})"
            )
            yield Problem("warning", "positions", says)


def _lengths(demos: Sequence[Demonstration]) -> Iterator[Problem]:
    """Whether the best response is the longest, or the shortest, far more or less often than chance has it."""
    if len(demos) < SKEW_FROM:
        return
    chance = sum(1 / len(d.responses) for d in demos) / len(demos)
    for name, extreme in (("longest", max), ("shortest", min)):
        count = sum(len(d.responses[d.order[0]]) == extreme(map(len, d.responses)) for d in demos)
        if abs(count / len(demos) - chance) > SKEW:
            says = f"the best response is the {name} in {count} of {len(demos)} (chance: {chance:.0%})"
            yield Problem("warning", "lengths", says)


def _not_shown(
    demos: Sequence[Demonstration], template: RankTemplate, budget: DemonstrationsConfig
) -> Iterator[Problem]:
    """Static demonstrations that a run would leave out because they do not fit."""
    pool = DemonstrationPool.start(budget.model_copy(update={"select": "recent"}), static=demos, template=template)
    shown = {d.id for d in pool.static_shown}
    static = [d for d in demos if d.source == "static"]
    missing = [d.id for d in static if d.id not in shown]
    if missing:
        says = (
            f"a run shows {len(static) - len(missing)} of {len(static)}: half of token_budget {budget.token_budget} is"
        )
        yield Problem(
            "warning", "token budget", f"{says} for static ones, in file order; not shown: {', '.join(missing)}"
        )


def _question(prompt: Prompt) -> str:
    return "\n".join(m["content"] for m in prompt.messages)


def _whole(demo: Demonstration) -> str:
    return "\n".join((_question(demo.prompt), *demo.responses))
