"""The search for a better instruction: how the pairs and calls are divided, and what the package gepa asks of us.

GEPA (Agrawal et al. 2025, arXiv 2507.19457, Algorithm 1): a candidate is drawn from the Pareto front over validation
pairs, the judge answers a few learning pairs with it, a model rewrites its instruction from the mistakes, and what does
better on these pairs is measured on all validation pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cyclealign.curation.asking import LabelledJudge, Outcome, Question, dealt, outcome
from cyclealign.curation.metering import MeteredLedger
from cyclealign.curation.reflection import CALLS, Mistake, NoProposal
from cyclealign.files.run_records import Verdict
from cyclealign.judge.costs import PROBES
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.limits import BudgetSpent
from cyclealign.judge.template import RankTemplate, with_instruction
from cyclealign.types import CandidateSet, UserError

log = logging.getLogger(__name__)
PART = "instruction"  # the one text of a template that changes
# Share of the calls that is kept back for the last word.
REPORTING = 0.25
BATCH = 12  # learning pairs that a proposal is made from, and first tried on
MEASURED = 6  # candidates that the calls should reach to measure on all validation pairs
LEAST_VALIDATION = 16  # pairs
LEAST_PROMPTS, LEAST_CALLS = 40, 240  # to begin with; calls a pass
IDLE = 4  # rounds without a proposal for each one with, at most: a judge that is right everywhere leaves nothing to say


class Parts(NamedTuple):
    """Labelled pairs by what they are for; no prompt stands in two."""

    learning: Sequence[CandidateSet]
    validation: Sequence[CandidateSet]
    reporting: Sequence[CandidateSet]


@dataclass(frozen=True, kw_only=True)
class ImprovePlan:
    """``calls``: of the whole search, of judge and reflecting model together, probes, repairs and retries included."""

    template: RankTemplate
    calls: int
    passes: int
    seed: int

    def check(self, pairs: Sequence[CandidateSet]) -> None:
        """UserError for what cannot be searched."""
        if (found := len({p.prompt.id for p in pairs})) < LEAST_PROMPTS:
            raise UserError(f"a search needs labelled pairs of at least {LEAST_PROMPTS} prompts, got {found}")
        if self.calls < (least := self.passes * LEAST_CALLS):
            raise UserError(f"--calls {self.calls}: too few to tell instructions apart; at least {least}")

    def parts(self, pairs: Sequence[CandidateSet]) -> Parts:
        """Half of the prompts has the last word, of the others half is for validation: drawn by what their pairs say,
        not by where they stand, since files have their own alternations; the same for every seed."""
        validation, first, learning, second = dealt(sorted(pairs, key=_id), 4)
        reporting = sorted([*first, *second], key=_id)[: int(REPORTING * self.calls / (2 * self.passes))]
        left = self.calls - PROBES - 2 * self.passes * len(reporting)
        room = (left // self.passes - MEASURED * 2 * BATCH) // (MEASURED + 1)
        return Parts(learning, validation[: max(room, LEAST_VALIDATION)], reporting)

    def kept_back(self, parts: Parts) -> int:
        """Calls for the last word: both templates on the reporting pairs."""
        return 2 * self.passes * len(parts.reporting)

    def round_calls(self, parts: Parts) -> int:
        """Most calls of a round without repairs: a proposal, tried on its pairs, then on the validation pairs."""
        return self.passes * (2 * BATCH + len(parts.validation)) + CALLS

    @property
    def proposals(self) -> int:
        """Most proposals: each is tried on BATCH pairs; one that cannot be tried must not take a judge's calls."""
        return max(MEASURED, self.calls // (2 * self.passes * BATCH))


def _id(pair: CandidateSet) -> str:
    return pair.id


class Propose(Protocol):
    """``reflection.Reflector.propose``."""

    def __call__(self, template: RankTemplate, mistakes: Sequence[Mistake], asked: int) -> RankTemplate: ...


JudgeOf = Callable[[RankTemplate], LabelledJudge]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An instruction that was measured on the validation pairs. ``parent``: its place among them; None: the start."""

    instruction: str
    validation: float
    parent: int | None


class _Log:
    """Where gepa says what it does."""

    def log(self, message: str) -> None:
        log.debug("gepa: %s", message)


@dataclass
class InstructionSearch:
    """What gepa asks of us (its ``GEPAAdapter``), and what it must not swallow: errors, and that calls ran out."""

    plan: ImprovePlan
    parts: Parts
    pool: DemonstrationPool
    judge_of: JudgeOf
    propose: Propose
    ledger: MeteredLedger
    proposals: int = 0
    unusable: list[str] = field(default_factory=list)
    spent: bool = False
    ended: Exception | None = None
    propose_new_texts: None = None  # gepa: proposals come from ``proposed``
    _known: set[str] = field(default_factory=set)

    def run(self) -> tuple[Candidate, ...]:
        from gepa import optimize

        self._known.add(self.plan.template.instruction)
        found = optimize(
            seed_candidate={PART: self.plan.template.instruction},
            trainset=list(self.parts.learning),
            valset=list(self.parts.validation),
            adapter=self,
            custom_candidate_proposer=self.proposed,
            reflection_minibatch_size=min(BATCH, len(self.parts.learning)),
            stop_callbacks=self.over,
            logger=_Log(),
            track_best_outputs=False,
            seed=self.plan.seed,
        )
        if self.ended is not None:
            raise self.ended
        scored = zip(found.candidates, found.val_aggregate_scores, found.parents, strict=True)
        return tuple(Candidate(instruction=c[PART], validation=v, parent=p[0]) for c, v, p in scored)

    def over(self, state: Any) -> bool:
        """Whether gepa is to stop before its next round."""
        left = self.ledger.left - self.plan.kept_back(self.parts)
        return (
            self.ended is not None
            or self.spent
            or self.proposals >= self.plan.proposals
            or state.i >= IDLE * self.plan.proposals
            or left < self.plan.round_calls(self.parts)
        )

    def template(self, instruction: str) -> RankTemplate:
        return with_instruction(self.plan.template, instruction)

    def evaluate(self, batch: list[CandidateSet], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """An instruction on some pairs: 1 as labelled, 0.5 tied, 0 not so or no verdict."""
        from gepa import EvaluationBatch

        judge = self.judge_of(self.template(candidate[PART]))
        verdicts = judge.verdicts([Question(pair, self.pool.select(pair.prompt)) for pair in batch])
        outcomes = [outcome(v) for v in verdicts]
        self.spent = self.spent or any(o.unranked == "budget" for o in outcomes)
        traces = [_Trace(*row) for row in zip(batch, verdicts, outcomes, strict=True)] if capture_traces else None
        return EvaluationBatch(outputs=verdicts, scores=[o.score or 0.0 for o in outcomes], trajectories=traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The mistakes; also how many pairs they are of."""
        traces: list[_Trace] = eval_batch.trajectories
        wrong = [Mistake(t.pair, t.verdict) for t in traces if t.outcome.score != 1.0]
        return {PART: [{"mistakes": wrong, "asked": len(traces)}]}

    def proposed(
        self, candidate: dict[str, str], dataset: Mapping[str, Sequence[Mapping[str, Any]]], components: list[str]
    ) -> dict[str, str]:
        """Another instruction in place of a candidate's; nothing where there is none, or the search is at its end."""
        if self.spent or self.ended is not None:
            return {}
        self.proposals += 1
        shown = dataset[PART][0]
        try:
            made = self.propose(self.template(candidate[PART]), shown["mistakes"], shown["asked"]).instruction
            if made in self._known:
                raise NoProposal("it was proposed before, or is what there was")
        except NoProposal as none:
            self.unusable.append(none.reason)
            return {}
        except BudgetSpent:
            self.spent = True
            return {}
        except Exception as error:  # gepa would note it, ask once more and go on
            self.ended = error
            return {}
        self._known.add(made)
        return {PART: made}


class _Trace(NamedTuple):
    """One pair as it was answered."""

    pair: CandidateSet
    verdict: Verdict
    outcome: Outcome
