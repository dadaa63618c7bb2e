"""One interaction and the sets and verdicts it has so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cyclealign.cycle.answers import with_answer
from cyclealign.files.jsonl import Appender
from cyclealign.files.run_dir import InteractionDir
from cyclealign.files.run_records import Verdict, read_sets, read_verdicts, set_record
from cyclealign.files.run_state import Place
from cyclealign.types import (
    Candidate,
    CandidateSet,
    Generator,
    PolicyVersion,
    Prompt,
    Unranked,
    derive_seed,
)


@dataclass(frozen=True)
class Interaction:
    """One pass over the active prompts of a batch; ``index`` counts over the whole run, ``round`` over the batch.
    ``before``: lists of all earlier interactions."""

    index: int
    batch: int
    round: int
    active: tuple[Prompt, ...]
    files: InteractionDir
    before: int = 0

    @property
    def place(self) -> Place:
        return Place(interaction=self.index, batch=self.batch, round=self.round, prompts=len(self.active))


def unranked_sets(
    it: Interaction,
    generator: Generator,
    version: PolicyVersion,
    *,
    chunk: int,
    seed: int,
    answers: Mapping[str, Candidate] | None = None,
) -> Iterator[CandidateSet]:
    """Sets that have no verdict yet: those on disk, then new ones, each written before it is given out.

    ``answers``: candidates that join the new ones, by prompt id.

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
                    whole = with_answer(item, answers or {})
                    file.add(set_record(whole))
                    yield whole


def final_verdicts(it: Interaction) -> dict[str, Verdict]:
    """The black box's verdicts by prompt id, without those that who resumes the stage asks for again: failed calls, and
    verdicts on sets that are no longer on record (a power cut), since those are generated again."""
    found, sets = read_verdicts(it.files.black_box), read_sets(it.files.candidates)
    return {i: v for i, v in found.items() if i in sets and not (isinstance(v, Unranked) and v.reason == "error")}


def is_ranked(it: Interaction) -> bool:
    """Whether the black box's part is over: every prompt has its verdict, or a later stage has used what there was."""
    return it.files.white_box.exists() or len(final_verdicts(it)) == len(it.active)


def counts_as_failed(verdict: Verdict) -> bool:
    """Whether a verdict counts against ``black_box.max_unranked``: a set of one candidate is nobody's failure."""
    return isinstance(verdict, Unranked) and verdict.reason not in ("too_few", "budget")
