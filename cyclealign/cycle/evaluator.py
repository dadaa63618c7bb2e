"""``Evaluator``: what a run measures of its own policy on held-out prompts.

Half of them choose the interaction that is kept, the others report (``evaluation.halves``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from cyclealign.cycle.team import Team
from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.labelled_pairs import accuracy, labelled_pairs
from cyclealign.evaluation.replies import kept_of_drawn, reply_statistics
from cyclealign.files.jsonl import Appender, write_jsonl
from cyclealign.files.records import write_record
from cyclealign.files.run_figures import Metrics
from cyclealign.files.run_records import read_sets, set_record, verdict_record
from cyclealign.rankers.scored import NamedScorer
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


@dataclass(frozen=True)
class Evaluator:
    """Held-out prompts and the independent scorer (None: no reward, only drift and accuracies)."""

    prompts: tuple[Prompt, ...]
    scorer: NamedScorer | None
    chunk: int

    def evaluate(
        self,
        folder: Path,
        generator: Generator,
        black_box: Ranker,
        white_box: PolicyTrainer,
        *,
        team: Team,
        version: PolicyVersion,
        context: RankContext,
        seed: int,
    ) -> None:
        """Sample replies, score them, and write what came of it into ``folder``, ``metrics.json`` last.

        Called on every process; the seeds are the same at every evaluation, so that differences are paired.
        """
        team.share("evaluate", lambda: self._sample(folder / "candidates.jsonl", generator, version, seed))
        sampled = read_sets(folder / "candidates.jsonl").values()
        sets = [s for s in sampled if s.candidates]
        pairs = [(s.prompt, c.text) for s in sets for c in s.candidates]
        nll = white_box.nll(pairs, start_model=True)
        labelled = labelled_pairs(self.prompts)
        white = list(white_box.rank(labelled, context)) if labelled else []
        if team.is_main:
            black = list(black_box.rank(iter(labelled), replace(context, purpose="eval"))) if labelled else []
            for name, verdicts in (("white_box", white), ("black_box", black)):
                if verdicts:
                    write_jsonl(folder / f"{name}.jsonl", map(verdict_record, verdicts))
            said = reply_statistics([text for _, text in pairs])
            metrics = Metrics(
                replies=said.replies,
                mean_words=said.mean_words,
                distinct1=said.distinct1,
                distinct2=said.distinct2,
                kept_of_drawn=kept_of_drawn(sampled),
                nll_start=fmean(nll) if nll else None,
                nll_by_prompt=_by_prompt(sets, nll),
                white_box_accuracy=accuracy(white),
                black_box_accuracy=accuracy(black),
                version=version.name,
            )
            write_record(folder / "metrics.json", self._with_rewards(metrics, sets))

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
        generator.close()  # what follows needs the memory that an engine holds

    def _with_rewards(self, metrics: Metrics, sets: Sequence[CandidateSet]) -> Metrics:
        """Mean score per prompt over its replies; means over the reporting and the choosing half."""
        if self.scorer is None:
            return metrics
        scores = self.scorer.score([(s.prompt.messages, c.text) for s in sets for c in s.candidates])
        by_prompt = _by_prompt(sets, scores)
        if not by_prompt:
            return metrics
        halves = Halves.of(self.prompts)
        return replace(
            metrics,
            scorer=self.scorer.name,
            reward=fmean(by_prompt[i] for i in halves.reporting(by_prompt)),
            reward_choosing=fmean(by_prompt[i] for i in halves.choosing(by_prompt)),
            reward_by_prompt={p.id: by_prompt[p.id] for p in self.prompts if p.id in by_prompt},
        )


def _by_prompt(sets: Sequence[CandidateSet], values: Sequence[float]) -> dict[str, float]:
    """Mean over each prompt's replies of values that stand in the order of all replies."""
    left = iter(values)
    return {s.prompt.id: fmean(next(left) for _ in s.candidates) for s in sets}
