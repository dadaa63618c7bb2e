"""A judge's accuracy on labelled pairs, in one arm of a measurement or several, and the result that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cyclealign.curation.asking import Outcome
from cyclealign.curation.metering import Lap
from cyclealign.evaluation.result import Difference, Item, Result, item_key, make_result
from cyclealign.evaluation.statistics import Estimate, Figure, Figures, paired_difference, share
from cyclealign.types import CandidateSet


class Paid(NamedTuple):
    """What a measurement paid for now, not before."""

    calls: int
    usd: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """``estimate``: over the pairs that got a verdict, with Wilson's interval; None where none did. ``asked`` counts
    all, ``unranked`` those without a verdict, by reason."""

    estimate: Estimate | None
    asked: int
    unranked: Mapping[str, int]

    def figures(self) -> dict[str, Figure]:
        """As they stand in a result."""
        return {"accuracy": self.estimate, "asked": self.asked, "unranked": dict(self.unranked)}

    def __str__(self) -> str:
        if self.estimate is None or self.estimate.interval is None:
            return f"no verdict on {self.asked} pairs"
        value, n, (low, high) = self.estimate.value, self.estimate.n, self.estimate.interval
        missing = f", {self.asked - n} without a verdict" if self.asked > n else ""
        return f"{value:.1%} ({low:.1%} to {high:.1%}) of {n} pairs{missing}"


def accuracy_of(outcomes: Sequence[Outcome]) -> Accuracy:
    """Mean score of the ranked pairs; a tie counts half."""
    scores = [o.score for o in outcomes if o.score is not None]
    reasons: list[str] = [o.unranked for o in outcomes if o.unranked is not None]
    unranked = {r: reasons.count(r) for r in sorted(set(reasons))}
    return Accuracy(estimate=share(sum(scores), len(scores)), asked=len(outcomes), unranked=unranked)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One arm, asked about every pair; ``cost``: what its calls take, paid now or before."""

    name: str
    outcomes: tuple[Outcome, ...]
    cost: Lap

    @property
    def accuracy(self) -> Accuracy:
        return accuracy_of(self.outcomes)

    def figures(self) -> dict[str, Figure]:
        """As they stand in a result."""
        return self.accuracy.figures() | {"cost": self.cost._asdict()}


def gain(first: Sequence[Outcome], second: Sequence[Outcome]) -> Estimate | None:
    """Second accuracy minus the first, over the pairs that both ranked; None where there is no such pair."""
    both = zip(first, second, strict=True)
    scores = [(a.score, b.score) for a, b in both if a.score is not None and b.score is not None]
    return paired_difference([a for a, _ in scores], [b for _, b in scores])


def gains(arms: Sequence[Measured]) -> dict[str, Estimate | None]:
    """Each arm against the first, by the names of both."""
    base = arms[0]
    return {f"{a.name} - {base.name}": gain(base.outcomes, a.outcomes) for a in arms[1:]}


def gain_text(found: Estimate | None) -> str:
    """For people."""
    if found is None or found.interval is None:
        return "no pair with both verdicts"
    return f"{found.value:+.1%} ({found.interval[0]:+.1%} to {found.interval[1]:+.1%})"


def arms_result(
    name: str,
    arms: Sequence[Measured],
    pairs: Sequence[CandidateSet],
    *,
    about: Figures,
    seed: int,
    metrics: Figures,
    paid: Paid,
) -> Result:
    """A result file of arms on the same pairs: ``eval compare`` has a column for each."""
    return make_result(
        name,
        about=about,
        seed=seed,
        metrics={**metrics, "paid_now": paid._asdict()},
        subsets={a.name: a.figures() for a in arms},
        differences={n: Difference(difference=g) for n, g in gains(arms).items()},
        arms=[a.name for a in arms],
        items=[_item(pair, {a.name: a.outcomes[n].score for a in arms}) for n, pair in enumerate(pairs)],
        primary="accuracy",
    )


def _item(pair: CandidateSet, values: Mapping[str, float | None]) -> Item:
    return Item(
        key=item_key(pair),
        id=pair.prompt.id,
        prompt=pair.prompt.messages[-1]["content"],
        responses={c.id: c.text for c in pair.candidates},
        value=list(values.values())[-1],
        values=values,
    )
