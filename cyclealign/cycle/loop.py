"""The loop itself (``Loop``): generate, rank twice, agree, update the demonstrations, train. Knows protocols only.

Knows protocols only (``types.py``), so it runs in tests with no torch model. Every stage reads what is already on
disk and does the rest: resuming a run is running it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cyclealign.config.schema import Config
from cyclealign.cycle.agreeing import accept, agreements, spread_of, summary, training_examples, trusted
from cyclealign.cycle.consistency import JudgeWatch, shown_again
from cyclealign.cycle.drift import drift_broken, kept_interaction
from cyclealign.cycle.evaluator import Evaluator
from cyclealign.cycle.interaction import Interaction, counts_as_failed, final_verdicts, is_ranked, unranked_sets
from cyclealign.cycle.keeping import put_best, timed
from cyclealign.cycle.learning_state import LearningState
from cyclealign.cycle.run_metrics import NoTracker, Tracker, evaluation_metrics, interaction_metrics
from cyclealign.cycle.team import Team
from cyclealign.cycle.witness_rule import witness_fell
from cyclealign.evaluation.halves import Halves
from cyclealign.files.jsonl import Appender, write_jsonl
from cyclealign.files.records import write_record, write_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import train_row
from cyclealign.files.run_records import Verdict, read_sets, verdict_record
from cyclealign.files.run_state import Canary, Kept, Place, Stage
from cyclealign.generation.sampling import canary_tolerance
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.types import (
    Answerer,
    BudgetExhausted,
    CanarySample,
    Candidate,
    Generator,
    PolicyTrainer,
    Prompt,
    RankContext,
    Ranker,
    RunStopped,
    Unranked,
    derive_seed,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What the loop is made of; ``pool`` is the pool before the first interaction, ``check_weights`` what refuses
    saved weights that are none (UserError), ``answerer`` who has the black box's own replies, where they take part."""

    generator: Generator
    black_box: Ranker
    white_box: PolicyTrainer
    pool: DemonstrationPool
    evaluator: Evaluator
    start_model: str
    tracker: Tracker = field(default_factory=NoTracker)
    check_weights: Callable[[Path], None] = lambda _: None
    answerer: Answerer | None = None


class Loop:
    """One run. ``run`` does what is missing and returns the directory."""

    def __init__(self, config: Config, run: RunDir, parts: Parts, team: Team) -> None:
        self.config = config
        self.run_dir = run
        self.parts = parts
        self.team = team
        self.pool = parts.pool
        self.watch = JudgeWatch(config.black_box)
        self.policy = LearningState(run, config.name, parts.white_box, parts.start_model)

    def run(self) -> Path:
        """Run to the end, or to one of the run's own stops (RunStopped, BudgetExhausted)."""
        if self.team.is_main:
            log.info("drift.keep: %s", self.config.kept_by_text)
        try:
            stopped = self._evaluate(trained=0) or self._all_batches()
            self._keep_best(stopped)
        except BaseException as error:
            # Also outside what the main process does alone: the others must not poll for a turn that never comes.
            self.team.failed(error)
            raise
        finally:
            self.parts.generator.close()
            self.parts.tracker.close()
            self.run_dir.unlock()
        return self.run_dir.path

    def _all_batches(self) -> str | None:
        """All interactions of all batches; returns why it ended early, or None."""
        prompts = self.run_dir.train_prompts()
        size = self.config.cycle.batch_size
        index = before = 0
        for batch, first in enumerate(range(0, len(prompts), size)):
            active = tuple(prompts[first : first + size])
            for round_ in range(self.config.cycle.max_interactions):
                it = Interaction(index, batch, round_, active, self.run_dir.interaction(index), before)
                settled = set(self._interact(it))
                index, before = index + 1, before + len(active)
                broken = self._evaluate(trained=index)
                if broken:
                    return broken
                active = tuple(p for p in active if p.id not in settled)
                if not active:
                    break
        return self._evaluate(trained=index, last=True)

    # One interaction

    def _interact(self, it: Interaction) -> list[str]:
        """One pass; returns the ids of the prompts that are settled."""
        self._check_canary(it)
        self.team.share("generate_and_rank", lambda: self._generate_and_rank(it), it.place)
        self._white_box(it)
        settled = self.team.share("agree", lambda: self._agree(it), it.place)
        self.pool = self.pool.loaded(it.files.demonstrations)
        self._train(it)
        return settled

    def _check_canary(self, it: Interaction) -> None:
        """The generator serves what the trainer holds, before its candidates are paid for."""
        if not self.team.share("canary", lambda: is_ranked(it), it.place):
            self._compare(it.active[0], it.files.canary, f"interaction {it.index}")

    def _compare(self, prompt: Prompt, file: Path, where: str) -> None:
        """RunStopped where the generator's log-probs of a continuation are not the trainer's."""

        def sample() -> tuple[tuple[int, ...], tuple[float, ...]]:
            taken = self.parts.generator.canary(prompt, self.policy.version)
            return taken.token_ids, taken.logprobs

        token_ids, logprobs = self.team.share("canary", sample)
        canary = CanarySample(prompt, tuple(token_ids), tuple(logprobs))
        gap = self.policy.load().canary_gap(canary)
        limit = canary_tolerance(self.config.policy)
        if self.team.is_main:
            write_record(file, Canary(gap=gap, limit=limit, version=self.policy.version.name))
        if not gap <= limit:
            raise RunStopped(
                f"{where}: the generator's log-probabilities differ from the trainer's by {gap:.3f} nats a token"
                f" (limit {limit}): it does not serve {self.policy.version.name}; nothing that it says is paid for"
            )

    def _generate_and_rank(self, it: Interaction) -> None:
        """Candidates stream into the black box; both are on disk before anything depends on them."""
        verdicts = final_verdicts(it).values()
        failed = [v for v in verdicts if counts_as_failed(v)]
        self._stop_if_too_many_failed(failed, it)
        self.watch.saw(it, verdicts)
        if is_ranked(it):
            return
        chunk, seed = self.config.generator.chunk, self.config.seed
        with self._timed("generate_and_rank", it.index), Appender(it.files.black_box) as file:
            generator, own = self.parts.generator, self._answers(it)
            sets = unranked_sets(it, generator, self.policy.version, chunk=chunk, seed=seed, answers=own)
            try:
                for verdict in self.parts.black_box.rank(sets, self._judging(it)):
                    if isinstance(verdict, Unranked) and verdict.reason == "budget":
                        continue  # not a verdict: a larger budget ranks it after all
                    file.add(verdict_record(verdict))
                    failed += [verdict] if counts_as_failed(verdict) else []
                    self._stop_if_too_many_failed(failed, it)
                    self.watch.saw(it, [verdict])
            finally:
                self.parts.generator.pause()
        # Calls that failed now are verdicts; one that failed before and was not paid for again is not.
        errors = sum(isinstance(v, Unranked) and v.reason == "error" for v in failed)
        missing = len(it.active) - len(final_verdicts(it)) - errors
        if missing:
            raise BudgetExhausted(f"{missing} of {len(it.active)} prompts of interaction {it.index} are not ranked yet")

    def _answers(self, it: Interaction) -> Mapping[str, Candidate]:
        """The black box's own replies, asked for before anything is sampled, to prompts that have no candidates yet."""
        if self.parts.answerer is None:
            return {}
        done = read_sets(it.files.candidates)
        return self.parts.answerer.answers([p for p in it.active if p.id not in done], interaction=it.index)

    def _stop_if_too_many_failed(self, failed: Sequence[Verdict], it: Interaction) -> None:
        limit = self.config.black_box.max_unranked
        if len(failed) > limit * len(it.active):
            last = failed[-1]
            detail = f"{last.reason}: {last.detail}" if isinstance(last, Unranked) else ""
            raise RunStopped(
                f"interaction {it.index}: {len(failed)} of {len(it.active)} prompts could not be ranked, more than"
                f" black_box.max_unranked={limit} allows (last: {detail}); a resume makes the calls again that failed,"
                " unusable replies stand"
            )

    def _white_box(self, it: Interaction) -> None:
        """The white box ranks the same sets by its own likelihood; every process takes part."""
        if self.team.share("white_box", it.files.white_box.exists, it.place):
            return
        white_box = self.policy.load()
        sets = read_sets(it.files.candidates)
        with self._timed("white_box", it.index):
            ordered = (sets[p.id] for p in it.active if sets[p.id].candidates)
            found = list(white_box.rank(ordered, self._context(it.index)))
        if self.team.is_main:
            write_jsonl(it.files.white_box, [verdict_record(v) for v in found])

    def _agree(self, it: Interaction) -> list[str]:
        """Agreements and the next pool, in prompt order; the summary, written last, marks them done."""
        agreed = agreements(it)
        if not it.files.summary.exists():
            sets = read_sets(it.files.candidates)
            accepted = accept(
                [sets[a.prompt_id] for a in agreed],
                trusted(it, agreed),
                gate=self.config.demonstrations.gate,
                interaction=it.index,
                seed=derive_seed(self.config.seed, "accept", it.index),
            )
            pool = self.pool.updated(accepted)
            write_records(it.files.agreement, agreed)
            pool.save(it.files.demonstrations)
            passes = self.config.black_box.passes
            write_record(it.files.summary, summary(it, agreed, passes=passes, accepted=len(accepted), pool=pool))
            self.parts.tracker.log(interaction_metrics(self.run_dir, it.index))
        return [a.prompt_id for a in agreed if a.settled]

    def _train(self, it: Interaction) -> None:
        """A ranking-loss pass over this interaction's lists; the train log, written last, marks it done."""
        if self.team.share("train", lambda: it.files.trained, it.place):
            self.policy.trained = it.index
            return
        spread = spread_of(self.config.black_box, self.run_dir.interactions()[: it.index + 1])
        votes = self.config.loss.needs == "votes"
        examples = training_examples(it, self.config.cycle.target, votes=votes, spread=spread)
        with self._timed("train", it.index):
            report = self.policy.fit(it.index, it.files, examples)
        if self.team.is_main:
            write_records(it.files.train_log, map(train_row, report.logs))
            self.policy.drop_old_optimiser()

    def _judging(self, it: Interaction) -> RankContext:
        """What the black box is given: some lists are shown to it again, to measure it."""
        again = shown_again(self.config.black_box, it, seed=self.config.seed)
        return replace(self._context(it.index), shown_again=again)

    def _context(self, index: int) -> RankContext:
        seed = derive_seed(self.config.seed, "rank", index)
        return RankContext(run=self.config.name, interaction=index, seed=seed, demonstrations=self.pool)

    # Evaluation and the end

    def _evaluate(self, *, trained: int, last: bool = False) -> str | None:
        """Measure the current policy on the held-out prompts; returns why the run should end here, or None.

        What was trained last is measured whatever ``eval_every`` is: else it could never be kept.
        """
        every = self.config.cycle.eval_every
        if not self.parts.evaluator.prompts or every == 0 or (trained % every and not last):
            return None
        folder = self.run_dir.evaluation(trained)
        if not self.team.share("evaluate", (folder / "metrics.json").exists, Place(interaction=trained)):
            self.policy.load()
            context, version = self._context(trained), self.policy.version
            self._compare(self.parts.evaluator.prompts[0], folder / "canary.json", f"evaluation {trained}")
            with self._timed("evaluate", trained):
                self.parts.evaluator.evaluate(
                    folder,
                    self.run_dir.evaluation(0) if trained else None,
                    self.parts.generator,
                    self.parts.black_box,
                    self.parts.white_box,
                    team=self.team,
                    version=version,
                    context=context,
                    seed=self.config.seed,
                )
            if self.team.is_main:
                self.parts.tracker.log(evaluation_metrics(self.run_dir, trained))
        return self.team.share("drift", lambda: self._ended(trained))

    def _ended(self, trained: int) -> str | None:
        """The drift limit that an evaluation crosses, or that the witness has fallen."""
        evaluations = self.run_dir.evaluations()
        broken = drift_broken(self.config.drift, evaluations, trained)
        if broken is None and self.config.kept_by == "best":
            return witness_fell(evaluations, trained, Halves.of(self.parts.evaluator.prompts))
        return broken

    def _keep_best(self, stopped: str | None) -> None:
        """``best/``: the weights of the interaction that the stated rule keeps, and why."""

        def work() -> None:
            trained = self.policy.trained + 1
            kept, why = kept_interaction(self.config.kept_by, self.config.drift, self.run_dir.evaluations(), trained)
            weights = self.run_dir.interaction(kept - 1).weights if kept > 0 else None
            put_best(self.run_dir, weights, self.parts.check_weights)
            start = self.parts.start_model
            record = Kept(trained=kept, of=trained, why=why, stopped=stopped, start_model=start)
            write_record(self.run_dir.kept_file, record)

        self.team.share("keep_best", work)
        self.team.finished(stopped)

    def _timed(self, stage: Stage, index: int) -> AbstractContextManager[None]:
        return timed(self.run_dir, self.team, stage, index)
