"""``cyclealign eval ranker``: any ranker on labelled pairs and graded lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

from cyclealign.evaluation.bias import length_bias, passes_of, position_bias, self_consistency
from cyclealign.evaluation.judging import Judge, Judged, judged
from cyclealign.evaluation.labelled_pairs import credit
from cyclealign.evaluation.result import Item, Result, item_key, make_result
from cyclealign.evaluation.statistics import Figure, Figures, bootstrap_mean, share
from cyclealign.files.labelled import LabelledItem, by_subset
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.rankers.by_name import ledger_beside
from cyclealign.types import Ranking, Unranked


@dataclass(frozen=True, kw_only=True)
class RankerEval:
    """What to do: ``repeats`` above 1 puts all questions again, for self-consistency."""

    data: str
    judge: Judge
    repeats: int = 1


def evaluate_ranker(job: RankerEval, items: Sequence[LabelledItem], out: Path) -> Result:
    """Ask the ranker about all items and measure it.

    Raises:
        UserError: the ranker cannot be built or asked.
        BudgetExhausted: as ``judged``.
    """
    sets = [item.set for item in items]
    rounds = [judged(sets, job.judge, ledger_beside(out), repeat=n) for n in range(job.repeats)]
    metrics = ranker_metrics(items, rounds[0], seed=job.judge.seed)
    metrics["self_consistency"] = self_consistency([r.rankings for r in rounds], seed=job.judge.seed)
    metrics["cost"] = cost(rounds, len(items))
    about: dict[str, Figure] = {
        "data": job.data,
        "ranker": job.judge.spec,
        "options": list(job.judge.settings),
        "judge": job.judge.digest,
        "repeats": job.repeats,
    }
    records = [item_of(i, v, s) for i, v, s in zip(items, rounds[0].verdicts, rounds[0].shown, strict=True)]
    return make_result(
        "ranker",
        about=about,
        seed=job.judge.seed,
        metrics=metrics,
        items=records,
        primary="accuracy",
        subsets=ranker_subsets(items, rounds[0], seed=job.judge.seed),
    )


def ranker_metrics(items: Sequence[LabelledItem], found: Judged, *, seed: int) -> dict[str, Figure]:
    """All figures of one round of verdicts; items whose labels prefer nothing are left out of the accuracies.

    ``accuracy``: share of ranked items whose first choice is the best by label (a tie of the ranker counts its
    share). ``accuracy_unranked_wrong``: the same with what was not ranked counted as wrong, as leaderboards do.
    Lists have ``pair_accuracy``, ``kendall_tau`` and ``ndcg`` beside it.
    """
    pairs = list(zip(items, found.rankings, strict=True))
    texts = [{c.id: c.text for c in i.set.candidates} for i in items]
    passes = [passes_of(r, s) for r, s in zip(found.rankings, found.shown, strict=True)]
    metrics = accuracies(pairs, seed)
    metrics["unranked"] = _unranked(found)
    metrics["position_bias"] = position_bias(passes, seed=seed)
    metrics["length_bias"] = length_bias(found.rankings, [i.grades for i in items], texts)
    return metrics


def ranker_subsets(items: Sequence[LabelledItem], found: Judged, *, seed: int) -> dict[str, Figures]:
    """The accuracies of each subset."""
    rankings = {id(i): r for i, r in zip(items, found.rankings, strict=True)}
    groups = by_subset(list(items))
    return {name: accuracies([(i, rankings[id(i)]) for i in group], seed) for name, group in groups}


def accuracies(pairs: Sequence[tuple[LabelledItem, Ranking | None]], seed: int) -> dict[str, Figure]:
    """The accuracies of ``ranker_metrics`` over some of its items."""
    decided = [(i, r) for i, r in pairs if i.decided]
    ranked = [(i, r) for i, r in decided if r is not None]
    right = math.fsum(credit(r, i.grades) for i, r in ranked)
    lists = [(i, r) for i, r in ranked if len(i.grades) > 2]
    metrics: dict[str, Figure] = {
        "items": len(pairs),
        "accuracy": share(right, len(ranked)),
        "accuracy_unranked_wrong": share(right, len(decided)),
        "unranked_rate": share(sum(r is None for _, r in pairs), len(pairs)),
        "undecided_labels": len(pairs) - len(decided),
    }
    if lists:
        for name, measure in (("pair_accuracy", pair_accuracy), ("kendall_tau", _tau), ("ndcg", ndcg)):
            metrics[name] = bootstrap_mean([measure(r, i.grades) for i, r in lists], seed=seed)
    return metrics


def pair_accuracy(ranking: Ranking, grades: Mapping[str, float]) -> float:
    """Share of the pairs that the labels order which the ranking orders alike; its ties count half."""
    places = {i: n for n, tier in enumerate(ranking.tiers) for i in tier}
    ordered = [
        (a, b) if grades[a] > grades[b] else (b, a) for a, b in combinations(places, 2) if grades[a] != grades[b]
    ]
    if not ordered:
        return 0.5
    return fmean(0.5 if places[a] == places[b] else float(places[a] < places[b]) for a, b in ordered)


def ndcg(ranking: Ranking, grades: Mapping[str, float]) -> float:
    """nDCG in [0, 1] over the whole list, linear gains above the lowest grade, log2 discount.

    Tied responses share the mean gain of their tier, so that no order among them is made up (McSherry and Najork
    2008). 1.0 where all grades are equal.
    """
    least = min(grades.values())
    gains: list[float] = []
    for tier in ranking.tiers:
        gains += [fmean(grades[i] - least for i in tier)] * len(tier)
    ideal = _dcg(sorted((g - least for g in grades.values()), reverse=True))
    return _dcg(gains) / ideal if ideal else 1.0


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(g / math.log2(n + 2) for n, g in enumerate(gains))


def _tau(ranking: Ranking, grades: Mapping[str, float]) -> float:
    return kendall_tau(ranking, Ranking.from_scores(ranking.prompt_id, dict(grades)))


def _unranked(found: Judged) -> dict[str, Figure]:
    """How many have no verdict, by reason."""
    reasons = [v.reason for v in found.verdicts if isinstance(v, Unranked)]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def cost(rounds: Sequence[Judged], items: int) -> dict[str, Figure]:
    """Seconds an item of this invocation, and what the ledger says of all of them."""
    seconds = math.fsum(r.seconds for r in rounds)
    asked = max(1, items * len(rounds))
    found: dict[str, Figure] = {"seconds": seconds, "seconds_per_item": seconds / asked}
    spend = rounds[-1].spend
    if spend is not None:
        found |= spend | {"usd_per_item": spend["usd"] / asked}
    return found


def item_of(item: LabelledItem, verdict: Ranking | Unranked, shown: Sequence[Sequence[str]]) -> Item:
    """What the result file says of one item: its texts, labels, and what the ranker made of it."""
    return with_verdict(replace(unasked(item), value=value_of(item, verdict)), verdict, shown)


def unasked(item: LabelledItem) -> Item:
    """The same without a verdict."""
    return Item(
        key=item_key(item.set),
        id=item.id,
        subset=item.subset,
        prompt=item.set.prompt.messages[-1]["content"],
        responses={c.id: c.text for c in item.set.candidates},
        grades=dict(item.grades),
    )


def value_of(item: LabelledItem, verdict: Ranking | Unranked) -> float | None:
    """What a verdict counts for in the accuracy; None where there is none, or the labels prefer nothing."""
    return credit(verdict, item.grades) if isinstance(verdict, Ranking) and item.decided else None


def with_verdict(item: Item, verdict: Ranking | Unranked | None, shown: Sequence[Sequence[str]]) -> Item:
    """The item with what its ranker said, and saw; as it is where none was asked."""
    if verdict is None:
        return item
    if isinstance(verdict, Unranked):
        return replace(item, unranked=verdict.reason, detail=verdict.detail)
    return replace(
        item,
        tiers=verdict.tiers,
        scores=verdict.scores,
        passes=verdict.passes or (),
        shown=shown,
        reasons=[(reason.shown, reason.text) for reason in verdict.reasons],
    )
