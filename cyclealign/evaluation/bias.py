"""What moves a judge besides quality: the slot a response stands in, its length, and chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from cyclealign.evaluation.statistics import Figure, bootstrap_mean, share
from cyclealign.rankers.agreement import kendall_tau, tiers_of
from cyclealign.types import Given, Ranking

Order = tuple[str, ...]
Pass = tuple[Order, Given]
"""One presentation of an item: the ids as they stood before the judge, and what it answered, best first."""


def passes_of(ranking: Ranking | None, shown: Sequence[Order]) -> tuple[Pass, ...]:
    """The presentations behind a verdict; none where the ranker saw no order or gave no ranking."""
    if ranking is None or not shown or not ranking.passes:
        return ()
    return tuple(zip(shown, ranking.passes, strict=True))


def position_bias(items: Sequence[Sequence[Pass]], *, seed: int = 0) -> dict[str, Figure] | None:
    """How far the slot decides; None where no item was shown in an order.

    ``flip_rate``: share of items with two presentations or more whose first choice is not the same in all (0 for a
    judge that reads, 1 for one that answers by slot). ``first_slot_share``: share of presentations whose first
    choice stood first (of a tie its share); ``first_slot_chance`` is what an unbiased judge has where every order is
    shown. ``tau_between_orders``: mean Kendall tau of the answers to different orders of an item.
    ``first_slot_flips``: of the items that flipped under two orders, the share that went for the first slot both times.
    """
    shown = [p for item in items for p in item]
    if not shown:
        return None
    several = [item for item in items if len(item) >= 2]
    flipped = [item for item in several if len({_first(given) for _, given in item}) > 1]
    first = [sum(_first(given) == {order[0]} for order, given in item) for item in flipped if len(item) == 2]
    one_sided = [n for n in first if n != 1]
    taus = [kendall_tau(item[0][1], other[1]) for item in several for other in item[1:]]
    return {
        "flip_rate": share(len(flipped), len(several)),
        "first_slot_share": share(math.fsum(map(_for_first_slot, shown)), len(shown)),
        "first_slot_chance": sum(1 / len(order) for order, _ in shown) / len(shown),
        "first_slot_flips": share(sum(n == 2 for n in one_sided), len(one_sided)),
        "tau_between_orders": bootstrap_mean(taus, seed=seed),
    }


def _first(given: Given) -> frozenset[str]:
    """Its first choice, or those that it ties there."""
    return frozenset(tiers_of(given)[0])


def _for_first_slot(shown: Pass) -> float:
    """Whether the first choice stood first; of a tie its share."""
    order, given = shown
    first = _first(given)
    return (order[0] in first) / len(first)


def length_bias(
    rankings: Sequence[Ranking | None], grades: Sequence[Mapping[str, float]], texts: Sequence[Mapping[str, str]]
) -> dict[str, Figure] | None:
    """How often the longer response wins, for the judge and for the labels; over pairs of different length and grade.

    Every pair of candidates of an item that the labels order counts once; a tie of the judge counts half. Lengths are
    characters. ``excess`` above 0: the judge likes length more than the labels do. None where no such pair is.
    """
    judge = label = pairs = 0.0
    right = {True: [0.0, 0], False: [0.0, 0]}
    for ranking, grade, text in zip(rankings, grades, texts, strict=True):
        places = {i: n for n, tier in enumerate(ranking.tiers) for i in tier} if ranking else {}
        ids = [i for i in grade if i in places]
        for a, b in combinations(ids, 2):
            longer, shorter = (a, b) if len(text[a]) > len(text[b]) else (b, a)
            if grade[a] == grade[b] or len(text[a]) == len(text[b]):
                continue
            won = 0.5 if places[a] == places[b] else float(places[longer] < places[shorter])
            best_is_longer = grade[longer] > grade[shorter]
            judge, label, pairs = judge + won, label + best_is_longer, pairs + 1
            right[best_is_longer][0] += won if best_is_longer else 1 - won
            right[best_is_longer][1] += 1
    if not pairs:
        return None
    return {
        "judge_prefers_longer": share(judge, int(pairs)),
        "labels_prefer_longer": share(label, int(pairs)),
        "excess": (judge - label) / pairs,
        "accuracy_longer_is_better": share(right[True][0], int(right[True][1])),
        "accuracy_shorter_is_better": share(right[False][0], int(right[False][1])),
    }


def self_consistency(repeats: Sequence[Sequence[Ranking | None]], *, seed: int = 0) -> dict[str, Figure] | None:
    """Agreement of a judge with itself when the same questions are put again; None for fewer than two rounds.

    ``same_first_choice``: share of items whose best tier is the same in all rounds. ``tau``: mean Kendall tau of the
    later rounds with the first. Items without a ranking in some round take no part.
    """
    if len(repeats) < 2:
        return None
    found = [[r for r in item if r is not None] for item in zip(*repeats, strict=True)]
    whole = [item for item in found if len(item) == len(repeats)]
    same = sum(len({frozenset(r.tiers[0]) for r in item}) == 1 for item in whole)
    taus = [kendall_tau(item[0], other) for item in whole for other in item[1:]]
    return {
        "rounds": len(repeats),
        "same_first_choice": share(same, len(whole)),
        "tau": bootstrap_mean(taus, seed=seed),
    }
