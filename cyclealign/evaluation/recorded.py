"""Judgements that somebody recorded: accuracy, agreement and position bias without asking anyone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

from cyclealign.evaluation.bias import Pass, position_bias
from cyclealign.evaluation.statistics import Figure, bootstrap_mean, share

GIVEN, SWAPPED = ("1", "2"), ("2", "1")  # the two orders in which a pair can stand before a judge


@dataclass(frozen=True, slots=True)
class TwoOrders:
    """A judge's winner of one pair under both presentation orders, in the pair's own numbering; None: it named none."""

    id: str
    label: str
    given: str | None
    swapped: str | None


def two_order_figures(pairs: Sequence[TwoOrders], *, seed: int = 0) -> dict[str, Figure]:
    """Accuracy in each order as published leaderboards count it (no winner is wrong), and position bias beside.

    ``accuracy`` is the mean over both orders, its interval a bootstrap over pairs; ``both_correct``: right in both;
    ``same_winner``: share of pairs answered in both orders whose winner does not depend on the order.
    """
    n = len(pairs)
    given, swapped = [p.given == p.label for p in pairs], [p.swapped == p.label for p in pairs]
    both = sum(a and b for a, b in zip(given, swapped, strict=True))
    answered = [p for p in pairs if p.given is not None and p.swapped is not None]
    return {
        "n": n,
        "correct_given": sum(given),
        "correct_swapped": sum(swapped),
        "correct_both": both,
        "accuracy_given": share(sum(given), n),
        "accuracy_swapped": share(sum(swapped), n),
        "accuracy": bootstrap_mean([(a + b) / 2 for a, b in zip(given, swapped, strict=True)], seed=seed),
        "both_correct": share(both, n),
        "same_winner": share(sum(p.given == p.swapped for p in answered), len(answered)),
        "no_winner": share(sum((p.given is None) + (p.swapped is None) for p in pairs), 2 * n),
        "position_bias": position_bias([_passes(p) for p in pairs], seed=seed),
    }


def _passes(pair: TwoOrders) -> list[Pass]:
    orders = ((GIVEN, pair.given), (SWAPPED, pair.swapped))
    return [(shown, (w, "2" if w == "1" else "1")) for shown, w in orders if w is not None]


def class_agreement(gold: Sequence[Hashable], said: Sequence[Hashable]) -> dict[str, Figure]:
    """Agreement with labels of several classes: accuracy, Cohen's kappa, macro precision, recall and F1.

    Classes are those of ``gold``; a class that is never said has precision and F1 0.

    Raises:
        ValueError: not as many of the one as of the other.
    """
    pairs = Counter(zip(gold, said, strict=True))
    right = sum(count for (a, b), count in pairs.items() if a == b)
    golds, saids = Counter(gold), Counter(said)
    per_class = []
    for name in sorted(golds, key=str):
        hits = pairs[name, name]
        precision, recall = hits / saids[name] if saids[name] else 0.0, hits / golds[name]
        per_class.append((precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0))
    precision, recall, f1 = (fmean(values) for values in zip(*per_class, strict=True))
    return {
        "correct": right,
        "accuracy": share(right, len(gold)),
        "cohen_kappa": cohen_kappa(gold, said),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
    }


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement of two raters above what their own class shares give by chance (Cohen 1960); 1.0 where chance is 1."""
    n = len(first)
    a, b = Counter(first), Counter(second)
    observed = sum(x == y for x, y in zip(first, second, strict=True)) / n
    chance = sum(a[c] * b[c] for c in a) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 else 1.0
