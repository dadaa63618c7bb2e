"""A cascade: a cheap ranker decides what the judge is asked; here a local one, distilled from the judge's rankings.

After intra-document cascading (Hofstaetter et al. 2021, arXiv 2105.09816): a cheap student of the expensive ranker
chooses what the expensive one looks at. Here a list is the candidates of a prompt, and the expensive ranker is paid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from cyclealign.config.black_box import CascadeConfig
from cyclealign.rankers.calibration import ROUNDING
from cyclealign.rankers.distilled import Distilled, Features, expected_agreement
from cyclealign.rankers.pruning import assembled
from cyclealign.types import (
    BudgetExhausted,
    CandidateSet,
    Cascaded,
    RankContext,
    Ranker,
    Ranking,
    RunStopped,
    Unranked,
    UserError,
    derive_seed,
)

AUDIT_STEPS = 2**32


class CascadeRanker:
    """Asks the judge about the ``keep`` best by the local ranker, or not at all; implements ``types.Ranker``.

    Of a list with a local verdict, in this order: audited (drawn by seed; the judge is asked about all of it), alone
    (the share of pairs that it expects to be ordered as the judge would is at least ``Distilled.alone_from``), pruned
    (more than ``keep`` candidates; equal scores at the cut are all kept), else whole. Everything goes to the judge
    whole while there is no useful local ranker, and where the verdict is to measure the judge (purpose ``eval``). A
    judge that gives no verdict on the kept leaves the list Unranked: the local order never stands in for it.
    """

    gives: Literal["order", "magnitude"] = "order"

    def __init__(
        self,
        judge: Ranker,
        config: CascadeConfig,
        features: Callable[[], Features],
        distilled: Callable[[int, Features], Distilled | None],
    ) -> None:
        """``distilled``: the local ranker of an interaction, the same at every call, or None; ``features`` is called
        before the first of them."""
        self._judge = judge
        self._config = config
        self._make_features = features
        self._features: Features | None = None
        self._distilled = distilled

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Verdicts in order of completion; those given alone come with the judge's next.

        Raises:
            UserError, BudgetExhausted: as the judge does, after all that was ranked alone.
        """
        local = None if context.purpose == "eval" else self._local(context.interaction)
        if local is None:
            yield from self._judge.rank(sets, context)
            return
        distilled, features = local

        def opinions() -> Iterator[tuple[CandidateSet, Opinion | None]]:
            for item in sets:
                scores = distilled.scores(features, item) if len(item.candidates) > 1 else None
                yield item, None if scores is None else Opinion(scores, expected_agreement(scores))

        yield from Course(self._config, distilled.alone_from, context).ranked(self._judge, opinions())

    def _local(self, interaction: int) -> tuple[Distilled, Features] | None:
        features = self._features = self._features or self._make_features()
        found = self._distilled(interaction, features)
        return (found, features) if found is not None and found.useful else None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was asked for a set: some of its candidates, and why those."""

    set_id: str
    part: CandidateSet
    cascaded: Cascaded


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the cheap ranker says of a list. scores: of each candidate id, higher is better. sure: share of pairs that
    it expects to be ordered as the judge would, or how far it agrees with itself."""

    scores: Mapping[str, float]
    sure: float


@dataclass
class Course:
    """One call of ``rank``. ``asked`` runs in the judge's own thread: what both sides touch is one deque, one dict.

    alone_from: how sure the cheap ranker must be to answer alone; None: it never does.
    """

    config: CascadeConfig
    alone_from: float | None
    context: RankContext
    alone: deque[Ranking] = field(default_factory=deque)
    # By the id of what the judge was asked: cuts of several sets may be the same question, answered once for each.
    plans: dict[str, deque[_Plan]] = field(default_factory=dict)

    def ranked(
        self, judge: Ranker, opinions: Iterable[tuple[CandidateSet, Opinion | None]]
    ) -> Iterator[Ranking | Unranked]:
        """Verdicts in order of completion; a list of which the cheap ranker says nothing goes to the judge whole."""
        try:
            for verdict in judge.rank(self.asked(opinions), self.context):
                yield from self.taken_alone()
                yield self.completed(verdict)
        except (BudgetExhausted, UserError, RunStopped):
            yield from self.taken_alone()
            raise
        yield from self.taken_alone()

    def asked(self, opinions: Iterable[tuple[CandidateSet, Opinion | None]]) -> Iterator[CandidateSet]:
        """What goes to the judge."""
        for item, opinion in opinions:
            plan = None if opinion is None else self._plan(item, opinion)
            if plan is None:
                yield item
            elif not plan.kept and not plan.audited:
                tiers = assembled((), plan)
                self.alone.append(Ranking(prompt_id=item.prompt.id, tiers=tiers, cascade=plan, set_id=item.id))
            else:
                kept = tuple(c for c in item.candidates if plan.audited or c.id in plan.kept)
                part = replace(item, candidates=kept)  # in the order of the set: the judge learns nothing of ours
                self.plans.setdefault(part.id, deque()).append(_Plan(item.id, part, plan))
                yield part

    def _plan(self, item: CandidateSet, opinion: Opinion) -> Cascaded | None:
        """What is to be done with a list; None: whole to the judge, with nothing to measure."""
        scores, keep = opinion.scores, self.config.keep or len(item.candidates)
        if self.alone_from is not None and opinion.sure >= self.alone_from - ROUNDING:
            kept: tuple[str, ...] = ()
        else:
            least = sorted(scores.values(), reverse=True)[min(keep, len(scores)) - 1]
            kept = tuple(i for i, score in scores.items() if score >= least)
        if len(kept) == len(scores):
            return None
        draw = derive_seed(self.context.seed, "audit", item.prompt.id) % AUDIT_STEPS
        return Cascaded(kept=kept, scores=scores, audited=draw < self.config.audit * AUDIT_STEPS)

    def taken_alone(self) -> Iterator[Ranking]:
        while self.alone:
            yield self.alone.popleft()

    def completed(self, verdict: Ranking | Unranked) -> Ranking | Unranked:
        """The judge's verdict with what the cascade adds to it; scores are dropped, as the pruned have none."""
        waiting = self.plans.get(verdict.set_id)
        if not waiting:
            return verdict
        asked = waiting.popleft()
        return replace(_completed(verdict, asked.part, asked.cascaded), set_id=asked.set_id)


def _completed(verdict: Ranking | Unranked, part: CandidateSet, plan: Cascaded) -> Ranking | Unranked:
    if isinstance(verdict, Unranked):
        return verdict
    if sorted(verdict.order) != sorted(part.ids):
        detail = f"asked about {', '.join(part.ids)}, the judge ranked {', '.join(verdict.order)}"
        return Unranked(verdict.prompt_id, "unusable", detail)
    if plan.audited:
        return replace(verdict, cascade=plan)
    return replace(verdict, tiers=assembled(verdict.tiers, plan), scores=None, cascade=plan)
