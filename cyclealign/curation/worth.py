"""``demos eval``: what a set is worth to a judge, whole and by each demonstration, on labelled pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cyclealign.curation.accuracy import Measured, Paid, arms_result, gain, gain_text, gains
from cyclealign.curation.asking import LabelledJudge, Question
from cyclealign.curation.metering import MeteredLedger
from cyclealign.evaluation.result import Result, read_result
from cyclealign.evaluation.statistics import Estimate, Figures
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.types import CandidateSet, Demonstration, UserError

LEFT_OUT = "without "  # how the arm without a demonstration begins


@dataclass(frozen=True)
class Arm:
    """One way of showing demonstrations; the pool selects as it would in a run."""

    name: str
    pool: DemonstrationPool

    def questions(self, pairs: Sequence[CandidateSet]) -> list[Question]:
        return [Question(pair, self.pool.select(pair.prompt)) for pair in pairs]


def arms_of(pool: DemonstrationPool, *, leave_one_out: bool) -> list[Arm]:
    """none, static, static+dynamic (where the pool has dynamic ones), and the last without each demonstration.

    Static demonstrations that do not fit the token budget are in no arm, as in a run. Where a dynamic one is left out,
    the next that fits takes its place, as in a run.
    """
    shown = replace(pool, static=pool.static_shown)
    arms = [Arm("none", replace(shown, static=(), dynamic=()))]
    if shown.static:
        arms.append(Arm("static", replace(shown, dynamic=())))
    if shown.dynamic:
        arms.append(Arm("static+dynamic", shown))
    return [*arms, *(_left_out(shown) if leave_one_out else ())]


def _left_out(shown: DemonstrationPool) -> Iterator[Arm]:
    for demo in (*shown.static, *shown.dynamic):
        rest = partial(_without, demo=demo)
        yield Arm(LEFT_OUT + demo.id, replace(shown, static=rest(shown.static), dynamic=rest(shown.dynamic)))


def _without(demos: Sequence[Demonstration], demo: Demonstration) -> tuple[Demonstration, ...]:
    return tuple(d for d in demos if d.id != demo.id)


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What was measured: the main arms, ``none`` first and the whole set last, and the whole without each demonstration
    (by id)."""

    pairs: tuple[CandidateSet, ...]
    arms: tuple[Measured, ...]
    left_out: Mapping[str, Measured]
    paid: Paid

    @property
    def values(self) -> dict[str, Estimate | None]:
        """Of each demonstration: accuracy of the whole minus accuracy without it, so positive where it helps."""
        return {i: gain(m.outcomes, self.arms[-1].outcomes) for i, m in self.left_out.items()}

    def result(self, about: Figures, seed: int) -> Result:
        """As a result file."""
        left = {i: {"value": v, "without": self.left_out[i].figures()} for i, v in self.values.items()}
        metrics = {"leave_one_out": left} if left else {}
        return arms_result("demos eval", self.arms, self.pairs, about=about, seed=seed, metrics=metrics, paid=self.paid)


def evaluate(arms: Sequence[Arm], pairs: Sequence[CandidateSet], judge: LabelledJudge, ledger: MeteredLedger) -> Worth:
    """Ask the judge about every pair in every arm. Raises BudgetExhausted and UserError as ``LabelledJudge.ask``."""
    before = ledger.spend()
    found: list[Measured] = []
    for arm in arms:
        ledger.reset()
        outcomes = tuple(judge.ask(arm.questions(pairs)))
        found.append(Measured(name=arm.name, outcomes=outcomes, cost=ledger.reset()))
    after = ledger.spend()
    return Worth(
        pairs=tuple(pairs),
        arms=tuple(m for m in found if not m.name.startswith(LEFT_OUT)),
        left_out={m.name.removeprefix(LEFT_OUT): m for m in found if m.name.startswith(LEFT_OUT)},
        paid=Paid(after.calls - before.calls, after.usd - before.usd),
    )


def missed_prompts(path: Path) -> frozenset[str]:
    """Prompts that the judge got wrong without demonstrations, from a result of ``demos eval``.

    Raises UserError where the file is none.
    """
    result = read_result(path)
    if "none" not in result.arms:
        raise UserError(f"{path}: expected a result that `cyclealign demos eval --result` wrote, got {result.eval}")
    bare = [(i.id, i.values.get("none")) for i in result.items]
    return frozenset(i for i, value in bare if i is not None and value is not None and value < 1)


def lines(worth: Worth, names: Mapping[str, str]) -> Iterator[str]:
    """For people. ``names``: what to call a demonstration besides its id."""
    for arm in worth.arms:
        money = f", ${arm.cost.usd:.4f}" if arm.cost.usd else ""
        yield f"{arm.name:15} {arm.accuracy}; {arm.cost.calls} calls, {arm.cost.input_tokens:,} tokens in{money}"
    for name, gap in gains(worth.arms).items():
        yield f"{name:21} {gain_text(gap)}"
    if worth.left_out:
        yield "value of each demonstration (accuracy with all, minus accuracy without it):"
    for identity, gap in sorted(worth.values.items(), key=lambda x: -(x[1].value if x[1] else 0.0)):
        yield f"  {identity}  {gain_text(gap)}  {names.get(identity, '')}"
    yield f"paid now: {worth.paid.calls} calls, ${worth.paid.usd:.4f}"
