"""``demos search``: the best k demonstrations of a pool for a judge, within a number of calls.

greedy: one demonstration after the other; each is the winner of a race by sequential halving (Karnin, Koren and
Somekh 2013, Algorithm 1) among those that are left, shown beside the ones chosen before. Assumes nothing of how
values add up.

bandit: each call shows some k of the pool; a Bayesian linear model of accuracy (one value a demonstration, one
difficulty a pair) is sampled to choose which (top-two Thompson sampling, Russo 2016, over sets). Every call
says something of k demonstrations at once, as long as their values roughly add up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cyclealign.curation.accuracy import Measured, Paid, arms_result, gain, gain_text
from cyclealign.curation.asking import LabelledJudge, Outcome, Question, dealt
from cyclealign.curation.metering import MeteredLedger
from cyclealign.evaluation.result import Result
from cyclealign.evaluation.statistics import Figure, Figures
from cyclealign.judge.costs import PROBES
from cyclealign.types import CandidateSet, Demonstration, UserError, derive_seed

Method = Literal["greedy", "bandit"]
Subset = tuple[int, ...]  # places in the pool, ascending: demonstrations are shown in the pool's order
Value = float | None  # of one question; None where the calls had run out

# Share of the calls that is kept back to measure the chosen set on pairs that took no part in the choice.
REPORTING = 0.25
# Prior standard deviations of the bandit's model, in accuracy: a demonstration's value, a pair's difficulty, the mean.
VALUE_SD, PAIR_SD, MEAN_SD = 0.15, 0.3, 1.0
NOISE_VARIANCE = 0.25  # of one answer, at most
ROUNDS = 24  # batches that the bandit's calls are asked in, at least


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What is to be found, and with what. ``calls``: of the whole search, probes, repairs and retries included."""

    pool: tuple[Demonstration, ...]
    size: int
    calls: int
    passes: int
    method: Method
    seed: int

    def check(self, pairs: Sequence[CandidateSet]) -> None:
        """UserError for what cannot be searched."""
        if not 1 <= self.size < len(self.pool):
            raise UserError(
                f"--size: expected 1 to {len(self.pool) - 1} of {len(self.pool)} demonstrations, got {self.size}"
            )
        if (found := len({p.prompt.id for p in pairs})) < 8:
            raise UserError(f"a search needs labelled pairs of at least 8 prompts, got {found}")
        if self.calls < (least := PROBES + self.passes * len(self.pool) * max(16, 4 * self.size)):
            raise UserError(
                f"--calls {self.calls}: too few to tell {len(self.pool)} demonstrations apart; at least {least}"
            )

    @property
    def reporting_pairs(self) -> int:
        """Most pairs that the chosen set and no demonstrations at all are measured on in the end."""
        return int(REPORTING * self.calls / (2 * self.passes))

    def shown(self, subset: Subset) -> tuple[Demonstration, ...]:
        return tuple(self.pool[i] for i in subset)


@dataclass
class _Asking:
    """Questions about subsets, and how many may still be asked."""

    plan: SearchPlan
    pairs: Sequence[CandidateSet]
    judge: LabelledJudge
    ledger: MeteredLedger
    kept_back: int

    @property
    def left(self) -> int:
        """Questions that the choice may still ask."""
        return max(self.ledger.left - self.kept_back, 0) // self.plan.passes

    def values(self, questions: Sequence[tuple[Subset, int]]) -> list[Value]:
        """One value a (subset, pair): 1 as labelled, 0.5 tied, 0 not so or no verdict; None when calls ran out."""
        asked = self.judge.ask([Question(self.pairs[p], self.plan.shown(s)) for s, p in questions])
        return [_value(o) for o in asked]


def _value(outcome: Outcome) -> Value:
    """A set that a judge gives no verdict with must not win, so that counts as wrong here."""
    if outcome.unranked == "budget":
        return None
    return outcome.score or 0.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """``chosen``: ids, in the pool's order; ``values``: what the method thinks of each demonstration, by id.
    ``bare`` and ``shown``: no demonstrations and the chosen ones on ``pairs``, which took no part in the choice.
    ``choosing``: calls that the choice took, of ``calls`` in all.
    """

    plan: SearchPlan
    chosen: tuple[str, ...]
    values: Mapping[str, float]
    pairs: tuple[CandidateSet, ...]
    bare: Measured
    shown: Measured
    choosing: int
    calls: int
    paid: Paid

    def result(self, about: Figures) -> Result:
        """As a result file."""
        metrics: dict[str, Figure] = {
            "method": self.plan.method,
            "chosen": self.chosen,
            "values": self.values,
            "calls": {"allowed": self.plan.calls, "choosing": self.choosing, "all": self.calls},
        }
        arms = (self.bare, self.shown)
        return arms_result(
            "demos search", arms, self.pairs, about=about, seed=self.plan.seed, metrics=metrics, paid=self.paid
        )


def search(plan: SearchPlan, pairs: Sequence[CandidateSet], judge: LabelledJudge, ledger: MeteredLedger) -> Found:
    """Choose on the pairs of the even-numbered prompts, measure the choice on those of the odd-numbered ones.

    The same plan, pairs and answers give the same choice, whatever is on the ledger already: a search that was
    killed is started again, and pays for the rest alone.

    Raises:
        UserError: nothing to search, or no call can succeed.
        BudgetExhausted: the budget in USD was spent before the calls were.
    """
    plan.check(pairs)
    before = ledger.spend()
    choosing, reporting = dealt(pairs, 2)
    reporting = reporting[: plan.reporting_pairs]
    asking = _Asking(plan, choosing, judge, ledger, 2 * plan.passes * len(reporting))
    subset, values = METHODS[plan.method](asking)
    used = ledger.used

    def measured(name: str, demos: tuple[Demonstration, ...]) -> Measured:
        ledger.reset()
        outcomes = tuple(judge.ask([Question(p, demos) for p in reporting]))
        return Measured(name=name, outcomes=outcomes, cost=ledger.reset())

    shown, bare = measured("chosen", plan.shown(subset)), measured("none", ())
    after = ledger.spend()
    return Found(
        plan=plan,
        chosen=tuple(d.id for d in plan.shown(subset)),
        values={plan.pool[i].id: v for i, v in values.items()},
        pairs=tuple(reporting),
        bare=bare,
        shown=shown,
        choosing=used,
        calls=ledger.used,
        paid=Paid(after.calls - before.calls, after.usd - before.usd),
    )


# Greedy -------------------------------------------------------------------------------------------------------


def greedy(asking: _Asking) -> tuple[Subset, dict[int, float]]:
    """Forward selection; values: each demonstration's accuracy in the race it won or was last in."""
    plan = asking.plan
    chosen: Subset = ()
    values: dict[int, float] = {}
    for step in range(plan.size):
        order = random.Random(derive_seed(plan.seed, "race", step)).sample(range(len(asking.pairs)), len(asking.pairs))  # noqa: S311  seeded, to be repeated
        left = [i for i in range(len(plan.pool)) if i not in chosen]
        winner, found = _race(asking, left, chosen, order, asking.left // (plan.size - step))
        values |= found
        chosen = tuple(sorted((*chosen, winner)))
    return chosen, {i: values[i] for i in sorted(values)}


def _race(
    asking: _Asking, left: Sequence[int], chosen: Subset, order: Sequence[int], questions: int
) -> tuple[int, dict[int, float]]:
    """Sequential halving: as many questions each round, the better half goes on; all are asked about the same pairs."""
    rounds = max(1, math.ceil(math.log2(len(left))))
    alive, done = list(left), 0
    scores: dict[int, list[float]] = {i: [] for i in left}
    for number in range(rounds):
        per_arm = max(1, questions // (rounds * len(alive)))
        block = order[done : done + per_arm]  # a pair asked about once more would get the same answer
        done += len(block)
        batch = [(i, pair) for pair in block for i in alive]
        answers = asking.values([(tuple(sorted((*chosen, i))), pair) for i, pair in batch]) if batch else []
        for (i, _), value in zip(batch, answers, strict=True):
            scores[i] += [] if value is None else [value]
        alive.sort(key=lambda i: (-_mean(scores[i]), i))
        alive = alive[: 1 if number == rounds - 1 else math.ceil(len(alive) / 2)]
    return alive[0], {i: _mean(s) for i, s in scores.items() if s}


def _mean(scores: Sequence[float]) -> float:
    return fmean(scores) if scores else 0.0


# Bandit -------------------------------------------------------------------------------------------------------


class LinearModel:
    """Accuracy = mean + difficulty of the pair + sum of the values of the demonstrations shown; Gaussian throughout."""

    def __init__(self, demonstrations: int, pairs: int) -> None:
        self._n = demonstrations
        sds = np.array([VALUE_SD] * demonstrations + [PAIR_SD] * pairs + [MEAN_SD])
        self._precision = np.diag(1.0 / sds**2)
        # What is known beforehand: the values and difficulties are 0, the mean is chance.
        self._weighted = self._precision @ np.append(np.zeros(demonstrations + pairs), 0.5)

    def learn(self, subset: Subset, pair: int, value: float) -> None:
        row = np.zeros(len(self._weighted))
        row[[*subset, self._n + pair, -1]] = 1.0
        self._precision += np.outer(row, row) / NOISE_VARIANCE
        self._weighted += row * value / NOISE_VARIANCE

    def posterior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean [n] and covariance [n, n] of the demonstrations' values."""
        covariance = np.linalg.inv(self._precision)
        mean = covariance @ self._weighted
        n = self._n
        return np.asarray(mean[:n], dtype=np.float64), np.asarray(covariance[:n, :n], dtype=np.float64)


def bandit(asking: _Asking) -> tuple[Subset, dict[int, float]]:
    """Top-two Thompson sampling over sets; values: posterior means of the linear model."""
    plan, n = asking.plan, len(asking.plan.pool)
    model = LinearModel(n, len(asking.pairs))
    draws = np.random.default_rng(derive_seed(plan.seed, "bandit"))
    order = cycle(draws.permutation(len(asking.pairs)).tolist())
    # No pair twice in a batch, so that a batch is one stream of calls.
    batch = min(len(asking.pairs), max(1, asking.left // ROUNDS))
    asked: set[tuple[Subset, int]] = set()
    while asking.left >= batch:
        subsets = islice(_drawn(model, plan.size, draws), batch)
        questions = [(s, p) for s, p in zip(subsets, order, strict=False) if (s, p) not in asked]
        asked |= set(questions)
        answers = asking.values(questions) if questions else []
        if not questions or None in answers:
            break
        for (subset, pair), value in zip(questions, answers, strict=True):
            model.learn(subset, pair, value or 0.0)
    mean, _ = model.posterior()
    return _best(mean, plan.size), dict(enumerate(map(float, mean)))


def _drawn(model: LinearModel, size: int, draws: np.random.Generator) -> Iterator[Subset]:
    """Sets to ask about: the best of a draw from the posterior, every other time the best of a draw that differs."""
    mean, covariance = model.posterior()
    root = np.linalg.cholesky((covariance + covariance.T) / 2)
    while True:
        leader = _best(mean + root @ draws.standard_normal(len(mean)), size)
        yield leader
        challengers = (_best(mean + root @ draws.standard_normal(len(mean)), size) for _ in range(20))
        yield next((c for c in challengers if c != leader), leader)


def _best(values: NDArray[np.float64], size: int) -> Subset:
    return tuple(sorted(np.argsort(-values, kind="stable")[:size].tolist()))


METHODS: dict[Method, Callable[[_Asking], tuple[Subset, dict[int, float]]]] = {"greedy": greedy, "bandit": bandit}


def lines(found: Found) -> Iterator[str]:
    """For people."""
    yield f"calls: {found.calls} of {found.plan.calls}, {found.paid.calls} of them paid for now"
    yield "on pairs that took no part in the choice:"
    yield f"  chosen         {found.shown.accuracy}"
    yield f"  none           {found.bare.accuracy}"
    yield f"  chosen - none  {gain_text(gain(found.bare.outcomes, found.shown.outcomes))}"
