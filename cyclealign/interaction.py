"""One interaction's records: what is generated and ranked, what both rankers agree on, what is learned from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from cyclealign.files.jsonl import Appender
from cyclealign.files.run_dir import InteractionDir
from cyclealign.files.run_records import Verdict, read_rankings, read_sets, read_verdicts, set_record
from cyclealign.rankers.agreement import Agreement, agree
from cyclealign.rankers.chance import expected_lcs
from cyclealign.rankers.pruning import cascade_figures
from cyclealign.rankers.utilities import teacher_utilities
from cyclealign.types import (
    CandidateSet,
    Generator,
    PolicyVersion,
    Prompt,
    Ranking,
    RankingExample,
    Unranked,
    derive_seed,
)


@dataclass(frozen=True)
class Interaction:
    """One pass over the active prompts of a batch; ``index`` counts over the whole run, ``round`` over the batch."""

    index: int
    batch: int
    round: int
    active: tuple[Prompt, ...]
    files: InteractionDir

    @property
    def about(self) -> dict[str, int]:
        return {"interaction": self.index, "batch": self.batch, "round": self.round, "prompts": len(self.active)}


def unranked_sets(
    it: Interaction, generator: Generator, version: PolicyVersion, *, chunk: int, seed: int
) -> Iterator[CandidateSet]:
    """Sets that have no verdict yet: those on disk, then new ones, each written before it is given out.

    A chunk that was cut short is generated again whole, from its own seed (half a batch cannot be sampled again);
    of it only what is not on disk yet is taken.
    """
    ranked = final_verdicts(it).keys()
    done = read_sets(it.files.candidates)
    yield from (s for i, s in done.items() if i not in ranked)
    with Appender(it.files.candidates) as file:
        for number, first in enumerate(range(0, len(it.active), chunk)):
            prompts = it.active[first : first + chunk]
            if all(p.id in done for p in prompts):
                continue
            drawn = derive_seed(seed, "generate", it.index, number)
            for item in generator.generate(prompts, version, seed=drawn):
                if item.prompt.id not in done:
                    file.add(set_record(item))
                    yield item


def final_verdicts(it: Interaction) -> dict[str, Verdict]:
    """The black box's verdicts by prompt id, without failed calls: those are made again by who resumes the stage."""
    found = read_verdicts(it.files.black_box)
    return {i: v for i, v in found.items() if not (isinstance(v, Unranked) and v.reason == "error")}


def is_ranked(it: Interaction) -> bool:
    """Whether the black box's part is over: every prompt has its verdict, or a later stage has used what there was."""
    return it.files.white_box.exists() or len(final_verdicts(it)) == len(it.active)


def counts_as_failed(verdict: Verdict) -> bool:
    """Whether a verdict counts against ``black_box.max_unranked``: a set of one candidate is nobody's failure."""
    return isinstance(verdict, Unranked) and verdict.reason not in ("too_few", "budget")


def agreements(it: Interaction) -> list[Agreement]:
    """Agreement of both rankings of every prompt that has both, in prompt order."""
    black, white = read_rankings(it.files.black_box), read_rankings(it.files.white_box)
    return [agree(black[p.id], white[p.id]) for p in it.active if p.id in black and p.id in white]


def trusted(it: Interaction, agreed: Sequence[Agreement]) -> list[Agreement]:
    """Agreements whose black-box verdict its own passes support (all of them, where there is one pass).

    A judge that answers by position agrees with the white box by luck as often as any other coin: chance passes
    the gate on agreement in two of five lists of four. Its own passes give it away: their Kendall tau is about 0. So
    nothing is trusted where the interaction's mean tau is not above 0 by 1.96 standard errors, and no single
    verdict whose passes contradict each other. Nor is a list that a cascade pruned or ranked alone: the judge
    would be shown as its own an order that it never gave.
    """
    black = read_rankings(it.files.black_box)
    agreed = [a for a in agreed if len(black[a.prompt_id].judged) == len(black[a.prompt_id].order)]
    taus = {a.prompt_id: black[a.prompt_id].confidence for a in agreed}
    known = [t for t in taus.values() if t is not None]
    if not known:
        return list(agreed)
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else 0.0
    if fmean(known) - 1.96 * error <= 0:
        return []
    return [a for a in agreed if (taus[a.prompt_id] or 0.0) > 0]


def agreement_record(a: Agreement) -> dict[str, Any]:
    return {
        "prompt_id": a.prompt_id,
        "ids": a.ids,
        "length": a.length,
        "k": a.k,
        "corrected": a.corrected,
        "settled": a.settled,
    }


def summary(it: Interaction, agreed: Sequence[Agreement], *, passes: int) -> dict[str, Any]:
    """Means over the prompts that both rankers ranked: LCS length, its mean by chance, agreement raw and corrected.

    With a cascade, what it saved and lost (``pruning.cascade_figures``).
    """
    verdicts = read_verdicts(it.files.black_box).values()
    rankings = [v for v in verdicts if isinstance(v, Ranking)]
    cascade = cascade_figures(read_sets(it.files.candidates), rankings, passes=passes)
    reasons = [v.reason for v in verdicts if isinstance(v, Unranked)]
    taus = [v.confidence for v in verdicts if isinstance(v, Ranking) and v.confidence is not None]
    n = max(len(agreed), 1)
    return {
        **it.about,
        "ranked": len(agreed),
        "unranked": {r: reasons.count(r) for r in sorted(set(reasons))},
        "lcs": sum(a.length for a in agreed) / n,
        "lcs_by_chance": sum(expected_lcs(a.k) for a in agreed) / n,
        "agreement": sum(a.length / a.k for a in agreed) / n,
        "agreement_corrected": sum(a.corrected for a in agreed) / n,
        "pass_tau": sum(taus) / len(taus) if taus else None,
        "settled": sum(a.settled for a in agreed),
        **({} if cascade is None else {"cascade": cascade}),
    }


def training_examples(it: Interaction, target: Literal["black_box", "agreement"]) -> list[RankingExample]:
    """Lists with the teacher's utilities: the black box's whole ranking, or the part of it that both agree on."""
    sets, black = read_sets(it.files.candidates), read_rankings(it.files.black_box)
    agreed = {a.prompt_id: a.ids for a in agreements(it)} if target == "agreement" else {}
    examples = []
    for prompt in it.active:
        if prompt.id not in black:
            continue
        utilities = teacher_utilities(black[prompt.id])
        ids = tuple(utilities) if target == "black_box" else agreed.get(prompt.id, ())
        if len(ids) >= 2:
            examples.append(_example(sets[prompt.id], ids, utilities))
    return examples


def _example(item: CandidateSet, ids: Sequence[str], utilities: dict[str, float]) -> RankingExample:
    chosen = [c for c in item.candidates if c.id in ids]
    return RankingExample(
        prompt_id=item.prompt.id,
        messages=item.prompt.messages,
        responses=tuple(c.text for c in chosen),
        ended=tuple(c.finish == "stop" for c in chosen),
        teacher=tuple(utilities[c.id] for c in chosen),
    )
