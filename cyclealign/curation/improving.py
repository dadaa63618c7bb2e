"""``prompts improve``: the instruction of a ranking template, rewritten by a model that sees where the judge is wrong.

The search is that of ``instruction_search``, on a metered ledger, so that one that was killed is started again and pays
for the rest alone. The last word is ours: on pairs that took no part in it, the best candidate must beat the template
that it came from in a paired test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cyclealign.curation.accuracy import Measured, Paid, arms_result, gain_text
from cyclealign.curation.asking import Outcome, Question
from cyclealign.curation.instruction_search import Candidate, ImprovePlan, InstructionSearch, JudgeOf, Propose
from cyclealign.curation.metering import MeteredLedger
from cyclealign.evaluation.result import Result
from cyclealign.evaluation.statistics import Estimate, Figure, Figures, paired_difference
from cyclealign.files.printable import one_line
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import RankTemplate, save_template
from cyclealign.types import CandidateSet


@dataclass(frozen=True, kw_only=True)
class Improved:
    """``best``: the template with the best instruction by validation, which may be the one that the search began with.
    ``arms``: both on the reporting ``pairs``; the first alone where nothing was better. ``test``: their difference, no
    verdict counted as wrong. ``kept``: whether it is surely above 0. ``unusable``: proposals that were none, by why.
    ``choosing``: calls that the search took, of ``calls`` in all.
    """

    plan: ImprovePlan
    best: RankTemplate
    candidates: tuple[Candidate, ...]
    proposals: int
    unusable: tuple[str, ...]
    pairs: tuple[CandidateSet, ...]
    arms: tuple[Measured, ...]
    test: Estimate | None
    choosing: int
    calls: int
    paid: Paid

    @property
    def kept(self) -> bool:
        return self.test is not None and self.test.low is not None and self.test.low > 0

    def result(self, about: Figures) -> Result:
        """As a result file."""
        metrics: dict[str, Figure] = {
            "kept": self.kept,
            "test": self.test,
            "calls": {"allowed": self.plan.calls, "choosing": self.choosing, "all": self.calls},
            "proposals": {"made": self.proposals, "unusable": {r: self.unusable.count(r) for r in self.unusable}},
            "candidates": [
                {"instruction": c.instruction, "validation": c.validation, "parent": c.parent} for c in self.candidates
            ],
        }
        return arms_result(
            "prompts improve", self.arms, self.pairs, about=about, seed=self.plan.seed, metrics=metrics, paid=self.paid
        )


def improve(
    plan: ImprovePlan,
    pairs: Sequence[CandidateSet],
    pool: DemonstrationPool,
    judge_of: JudgeOf,
    propose: Propose,
    ledger: MeteredLedger,
) -> Improved:
    """Search on some of the pairs, test the best instruction on others.

    The same plan, pairs and answers give the same instruction, whatever is on the ledger already.

    Raises:
        UserError: nothing to search, or no call can succeed.
        RunStopped: the reflecting model does not answer now.
        BudgetExhausted: the budget in USD was spent before the calls were.
    """
    plan.check(pairs)
    before, parts = ledger.spend(), plan.parts(pairs)
    search = InstructionSearch(plan, parts, pool, judge_of, propose, ledger)
    candidates = search.run()
    best = max(candidates, key=lambda c: c.validation)  # the first of equals: the start, where nothing is better
    chosen = plan.template if best.parent is None else search.template(best.instruction)
    used = ledger.used

    def measured(name: str, template: RankTemplate) -> Measured:
        ledger.reset()
        questions = [Question(p, pool.select(p.prompt)) for p in parts.reporting]
        outcomes = tuple(judge_of(template).ask(questions))
        return Measured(name=name, outcomes=outcomes, cost=ledger.reset())

    arms = [measured("start", plan.template)]
    if best.parent is not None:
        arms.append(measured("improved", chosen))
    after = ledger.spend()
    return Improved(
        plan=plan,
        best=chosen,
        candidates=candidates,
        proposals=search.proposals,
        unusable=tuple(search.unusable),
        pairs=tuple(parts.reporting),
        arms=tuple(arms),
        test=None if len(arms) < 2 else last_word(arms[0].outcomes, arms[1].outcomes),
        choosing=used,
        calls=ledger.used,
        paid=Paid(after.calls - before.calls, after.usd - before.usd),
    )


def last_word(start: Sequence[Outcome], improved: Sequence[Outcome]) -> Estimate | None:
    """The paired difference over all pairs that could be asked about: an instruction that makes a judge refuse what is
    hard must not win by it, so no verdict is a wrong one here."""
    both = zip(start, improved, strict=True)
    asked = [(a.score or 0.0, b.score or 0.0) for a, b in both if "budget" not in (a.unranked, b.unranked)]
    return paired_difference([a for a, _ in asked], [b for _, b in asked])


def save_improved(path: Path, found: Improved, *, judge: str) -> RankTemplate:
    """Write the improved template under the name of its file, its figures as comments; returns it."""
    start = found.plan.template
    made = replace(found.best, name=path.stem)
    save_template(path, made, [one_line(line) for line in _about(found, start, judge)])
    return made


def _about(found: Improved, start: RankTemplate, judge: str) -> Iterator[str]:
    yield f"{start.name} {start.version}, its instruction improved for the judge {judge}; on pairs that took no part:"
    yield from (f"{arm.name} {arm.accuracy}" for arm in found.arms)
    yield f"improved - start {gain_text(found.test)}; {found.calls} calls, seed {found.plan.seed}"


def lines(found: Improved) -> Iterator[str]:
    """For people."""
    yield f"calls: {found.calls} of {found.plan.calls}, {found.paid.calls} of them paid for now"
    tried = len(found.candidates) - 1
    yield f"proposals: {found.proposals}, {len(found.unusable)} of them unusable, {tried} measured on validation pairs"
    for reason in dict.fromkeys(found.unusable):
        yield f"  unusable ({found.unusable.count(reason)}): {reason}"
    yield "on pairs that took no part in the search:"
    for arm in found.arms:
        yield f"  {arm.name:16} {arm.accuracy}"
    if found.test is None:
        yield "no instruction was better than the one that is there"
        return
    yield f"  improved - start {gain_text(found.test)}"
    if not found.kept:
        yield "not kept: the difference is not surely above 0"
