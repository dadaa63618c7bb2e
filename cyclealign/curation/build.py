"""``demos build``: a set from labelled pairs or from a run, small, varied, and with nothing to learn but the judgement.

Contrast: two replies that say nearly the same at nearly the same length, of which one is better, show what the
judgement is about; where they are far apart, anything tells them apart. Coverage: prompts are clustered (k-means, one
cluster a demonstration) and each cluster gives its best. Balance: the best reply stands at every number equally
often, and is the longer one about as often as not.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclealign.curation.embedding import Embed, unit_rows
from cyclealign.curation.overlap import NEAR_COPY, containment
from cyclealign.cycle.agreeing import accept, agreements, trusted
from cyclealign.cycle.interaction import Interaction
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.files.labelled import LabelledItem
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_sets
from cyclealign.judge.demonstrations import prompt_text
from cyclealign.judge.prompting import demonstration_tokens
from cyclealign.judge.template import RankTemplate
from cyclealign.types import Demonstration, Prompt, UserError


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """``max_tokens``: of one demonstration, by estimate. ``missed``: ids of prompts that a judge got wrong."""

    size: int
    max_tokens: int
    seed: int
    missed: AbstractSet[str] = frozenset()


def from_pairs(prompts: Sequence[Prompt]) -> list[Demonstration]:
    """A demonstration of each labelled pair, best reply first (``balanced`` mixes them)."""
    return [
        Demonstration(Prompt(s.prompt.messages), tuple(c.text for c in s.candidates), (0, 1))
        for s in labelled_pairs(prompts, None)
    ]


def from_lists(items: Sequence[LabelledItem]) -> list[Demonstration]:
    """A demonstration of each labelled list, best reply first; of replies that are equally good the first alone, so
    that no order among them is made up. Lists that prefer nothing give none."""
    found = []
    for item in (i for i in items if i.decided):
        heads = [tier[0] for tier in item.gold.tiers]
        responses = tuple(item.set.text(i) for i in heads)
        found.append(Demonstration(Prompt(item.set.prompt.messages), responses, tuple(range(len(heads)))))
    return found


def from_run(path: Path, *, gate: float, seed: int) -> list[Demonstration]:
    """The trusted agreements of all interactions of a run that pass the gate, the latest of each prompt.

    Raises UserError where there is none.
    """
    run = RunDir(path)
    found: dict[str, Demonstration] = {}
    for number, files in enumerate(run.interactions()):
        sets = read_sets(files.candidates)
        it = Interaction(number, 0, 0, tuple(s.prompt for s in sets.values()), files)
        agreed = trusted(it, agreements(it))
        for demo in accept(sets.values(), agreed, gate=gate, interaction=number, seed=seed):
            tagged = replace(demo, source="static", note=f"agreement of interaction {number} of {path.name}")
            found[demo.prompt.id] = tagged
    if not found:
        raise UserError(f"{path}: no agreement of both rankers passes the gate {gate:g}; take a lower --gate")
    return list(found.values())


def build(
    options: Sequence[Demonstration], plan: BuildPlan, template: RankTemplate, embed: Embed, held_out: Sequence[Prompt]
) -> list[Demonstration]:
    """``plan.size`` of the options, those of the largest clusters first (a run shows the first that fit).

    Options that are too long, repeat another prompt, or (nearly) stand in ``held_out`` are passed over.
    Those that a judge missed come first, and alone where there are enough of them.
    Raises UserError where fewer than ``plan.size`` are left.
    """
    usable = _usable(options, plan, template, held_out)
    if len(usable) < plan.size:
        raise UserError(
            f"--size {plan.size}: of {len(options)} options {len(usable)} can be used (at most {plan.max_tokens}"
            " tokens, distinct prompts, none of the held-out data)"
        )
    wrong = [d for d in usable if d.prompt.id in plan.missed]
    usable = wrong if len(wrong) >= plan.size else usable
    contrast = contrasts(usable, embed)
    order = sorted(
        range(len(usable)), key=lambda i: (usable[i].prompt.id not in plan.missed, -contrast[i], usable[i].id)
    )
    clusters = _clusters(unit_rows(embed([prompt_text(d.prompt) for d in usable])), plan)
    members = [[i for i in order if clusters[i] == c] for c in range(plan.size)]
    picked: list[int] = []
    balance = 0
    for cluster in sorted((m for m in members if m), key=len, reverse=True):
        picked.append(min(cluster, key=lambda i: abs(balance + _lean(usable[i])) > 1))
        balance += _lean(usable[picked[-1]])
    # k-means may leave a cluster empty (fewer distinct prompts than clusters).
    picked += [i for i in order if i not in picked][: plan.size - len(picked)]
    return balanced([usable[i] for i in picked], seed=plan.seed)


def contrasts(demos: Sequence[Demonstration], embed: Embed) -> NDArray[np.float64]:
    """[len(demos)]: cosine of the best and the worst response, times the ratio of their lengths; at most 1."""
    best = [d.responses[d.order[0]] for d in demos]
    worst = [d.responses[d.order[-1]] for d in demos]
    vectors = unit_rows(embed([*best, *worst]))
    near = (vectors[: len(demos)] * vectors[len(demos) :]).sum(axis=1)
    lengths = [min(len(a), len(b)) / max(len(a), len(b)) for a, b in zip(best, worst, strict=True)]
    return np.asarray(near * np.array(lengths), dtype=np.float64)


def balanced(demos: Sequence[Demonstration], *, seed: int) -> list[Demonstration]:
    """The same rankings, presented so that the best response stands at each number equally often (by K, within one).

    The others stand in an order drawn from ``seed``.
    """
    drawn = random.Random(seed)  # noqa: S311  seeded, to be repeated
    turns: dict[int, int] = defaultdict(lambda: drawn.randrange(2**16))
    arranged = []
    for demo in demos:
        k = len(demo.responses)
        slot = turns[k] % k
        turns[k] += 1
        ranked = [demo.responses[i] for i in demo.order]
        rest = drawn.sample(ranked[1:], k - 1)
        shown = [*rest[:slot], ranked[0], *rest[slot:]]
        arranged.append(replace(demo, responses=tuple(shown), order=tuple(shown.index(text) for text in ranked)))
    return arranged


def _usable(
    options: Sequence[Demonstration], plan: BuildPlan, template: RankTemplate, held_out: Sequence[Prompt]
) -> list[Demonstration]:
    short = {d.prompt.id: d for d in options if demonstration_tokens(template, d) <= plan.max_tokens}
    found = list(short.values())
    if not found or not held_out:
        return found
    near = containment([prompt_text(d.prompt) for d in found], [prompt_text(p) for p in held_out])
    held = {p.id for p in held_out}
    return [d for d, row in zip(found, near, strict=True) if d.prompt.id not in held and row.max() < NEAR_COPY]


def _lean(demo: Demonstration) -> int:
    """1 where the best response is the longest, -1 where it is the shortest, else 0."""
    lengths = [len(r) for r in demo.responses]
    best = lengths[demo.order[0]]
    return (best == max(lengths)) - (best == min(lengths))


def _clusters(vectors: NDArray[np.float64], plan: BuildPlan) -> NDArray[np.int32]:
    from sklearn.cluster import KMeans

    distinct = len(np.unique(vectors, axis=0))
    model = KMeans(n_clusters=min(plan.size, distinct), n_init=4, random_state=plan.seed % 2**32)
    return np.asarray(model.fit_predict(vectors), dtype=np.int32)
