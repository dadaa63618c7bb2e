"""``Evaluator``: what a run measures of its own policy on held-out prompts.

Half of them choose the interaction that is kept, the others report (``evaluation.halves``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from cyclealign.cycle.team import Team
from cyclealign.cycle.witness import Witness, by_prompt
from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.labelled_pairs import accuracy, labelled_pairs
from cyclealign.evaluation.replies import kept_of_drawn, reply_statistics
from cyclealign.evaluation.reply_pairs import RANKER_PAIRS, against_start, ranker_gains
from cyclealign.files.jsonl import Appender, write_jsonl
from cyclealign.files.records import write_record
from cyclealign.files.run_figures import Metrics
from cyclealign.files.run_records import Verdict, read_sets, set_record, verdict_record
from cyclealign.types import (
    CandidateSet,
    Generator,
    PolicyTrainer,
    PolicyVersion,
    Prompt,
    RankContext,
    Ranker,
    derive_seed,
)

AT_ONCE = 64  # prompts whose replies are scored between two looks at how far it is


@dataclass(frozen=True)
class Evaluator:
    """Held-out prompts and the witness (None: no reward, only drift and accuracies)."""

    prompts: tuple[Prompt, ...]
    witness: Witness | None
    chunk: int

    def evaluate(
        self,
        folder: Path,
        start: Path | None,
        generator: Generator,
        black_box: Ranker,
        white_box: PolicyTrainer,
        *,
        team: Team,
        version: PolicyVersion,
        context: RankContext,
        seed: int,
    ) -> None:
        """Sample replies, score them, and write what came of it into ``folder``, ``metrics.json`` last. ``start``: the
        folder of the start model's evaluation, None where this is it.

        Called on every process; the seeds are the same at every evaluation, so that differences are paired.
        """
        team.share("evaluate", lambda: self._sample(folder / "candidates.jsonl", generator, version, seed))
        sampled = read_sets(folder / "candidates.jsonl").values()
        sets = [s for s in sampled if s.candidates]
        nll: list[float] = []
        for part in _told(sets, team, "compared with the start"):
            nll += white_box.nll([(s.prompt, c) for s in part for c in s.candidates], start_model=True)
        labelled = labelled_pairs(self.prompts)
        white = list(white_box.rank(labelled, context)) if labelled else []
        if team.is_main:
            black: list[Verdict] = []
            for verdict in black_box.rank(iter(labelled), replace(context, purpose="eval")) if labelled else ():
                black.append(verdict)
                team.progress(len(black), len(labelled), "labelled pairs judged")
            for name, verdicts in (("white_box", white), ("black_box", black)):
                if verdicts:
                    write_jsonl(folder / f"{name}.jsonl", map(verdict_record, verdicts))
            said = reply_statistics([c.text for s in sets for c in s.candidates])
            metrics = Metrics(
                replies=said.replies,
                mean_words=said.mean_words,
                distinct1=said.distinct1,
                distinct2=said.distinct2,
                kept_of_drawn=kept_of_drawn(sampled),
                unfinished=sum(s.unfinished for s in sampled) or None,
                nll_start=fmean(nll) if nll else None,
                nll_by_prompt=by_prompt(sets, nll),
                white_box_accuracy=accuracy(white),
                black_box_accuracy=accuracy(black),
                version=version.name,
            )
            before = None if start is None else read_sets(start / "candidates.jsonl")
            if self.witness is not None:
                team.progress(0, len(sets), "scored")
                rewards = self.witness.rewards(list(sampled), before, folder, context)
                metrics = self._with_rewards(metrics, self.witness.name, rewards)
                gains = self._ranker_gains(sampled, before, black_box, context)
                metrics = replace(metrics, ranker_by_prompt=gains)
            write_record(folder / "metrics.json", metrics)

    def _sample(self, path: Path, generator: Generator, version: PolicyVersion, seed: int) -> None:
        done = read_sets(path)
        with Appender(path) as file:
            for number, first in enumerate(range(0, len(self.prompts), self.chunk)):
                chunk = self.prompts[first : first + self.chunk]
                if all(p.id in done for p in chunk):
                    continue
                for item in generator.generate(chunk, version, seed=derive_seed(seed, "evaluate", number)):
                    if item.prompt.id not in done:
                        file.add(set_record(item))
        generator.pause()  # what follows needs the memory that an engine holds

    def _with_rewards(self, metrics: Metrics, name: str, rewards: Mapping[str, float]) -> Metrics:
        """Means over the reporting and the choosing half."""
        if not rewards:
            return metrics
        halves = Halves.of(self.prompts)
        return replace(
            metrics,
            scorer=name,
            reward=fmean(rewards[i] for i in halves.reporting(rewards)),
            reward_choosing=fmean(rewards[i] for i in halves.choosing(rewards)),
            reward_by_prompt={p.id: rewards[p.id] for p in self.prompts if p.id in rewards},
        )

    def _ranker_gains(
        self,
        now: Collection[CandidateSet],
        start: Mapping[str, CandidateSet] | None,
        black_box: Ranker,
        context: RankContext,
    ) -> dict[str, float]:
        """The ranker's own gains over the start model, of the first prompts of the half that chooses; 0 of that model
        itself, unasked."""
        replied = {s.prompt.id: s for s in now if s.candidates}
        half = Halves.of(self.prompts).choosing(p.id for p in self.prompts if p.id in replied)[:RANKER_PAIRS]
        if start is None:
            return dict.fromkeys(half, 0.0)
        pairs = against_start((replied[i] for i in half), start)
        return ranker_gains(pairs, black_box, replace(context, purpose="eval"))


def _told(sets: Sequence[CandidateSet], team: Team, unit: str) -> Iterator[Sequence[CandidateSet]]:
    """All sets, some at once; how far it is stands in the run's state."""
    for first in range(0, len(sets), AT_ONCE):
        team.progress(first, len(sets), unit)
        yield sets[first : first + AT_ONCE]
