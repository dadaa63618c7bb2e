"""From how sure on a cheap ranker may answer in the judge's place: a threshold with a guarantee.

After Trust or Escalate (Jung, Brahman and Choi 2024, arXiv 2407.18370, section 2): lists that both have ranked are the
calibration set, and fixed thresholds are tested one after the other, from the surest on, as long as each test rejects
that the agreement is too low. Since only the first that is not rejected could be a mistake, no correction is needed.
There a comparison is right or wrong and the bound is a binomial's. Here a list has many pairs, which are not
independent: what is tested is the mean over lists of the share of pairs that are not ordered as by the judge, a number
in [0, 1] for each list, by betting against it (Waudby-Smith and Ramdas 2024, arXiv 2010.09686), which is valid for any
distribution of that number and at any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from cyclealign.rankers.agreement import Tiers, places_of, tiers_of
from cyclealign.types import Given

# Fixed before any list is seen, as the test wants it.
THRESHOLDS = tuple(hundredths / 100 for hundredths in range(100, 49, -1))
# Thresholds that fewer lists than this share of the calibration set reach are passed over, and those that so few reach
# that no agreement of theirs would show anything.
FIRST_SHARE = 0.4
# Stakes, as shares of the largest that cannot ruin; the capital is divided among them beforehand.
STAKES = (0.25, 0.5, 0.75, 0.95)
ROUNDING = 1e-9
# Facts of a ledger: a list that two judges were compared on, and what came of all of them.
COMPARED, CALIBRATED = "compared ", "calibrated"


@dataclass(frozen=True, slots=True)
class Compared:
    """A list that both have ranked. sure: how sure the first was, in [0.5, 1]. agreement: ``pair_agreement``."""

    sure: float
    agreement: float


def pair_agreement(first: Tiers, judge: Tiers) -> float | None:
    """Share of the pairs which the judge orders that the first orders alike; a tie of its own is not alike. None where
    the judge orders none."""
    ours, theirs = places_of(first), places_of(judge)
    pairs = [(a, b) for a, b in combinations(theirs, 2) if theirs[a] != theirs[b]]
    if not pairs:
        return None
    return fmean((ours[a] - ours[b]) * (theirs[a] - theirs[b]) > 0 for a, b in pairs)


def unanimity(passes: Sequence[Given]) -> float:
    """How sure a judge is of a list that it was shown in several orders: mean over pairs of the larger share of its
    passes, 1 where all order all pairs alike, 0.5 at least. A tie is half for each."""
    places = [places_of(tiers_of(given)) for given in passes]
    pairs = combinations(places[0], 2)
    return fmean(max(n := fmean((p[a] < p[b]) + (p[a] == p[b]) / 2 for p in places), 1 - n) for a, b in pairs)


def evidence(losses: Iterable[float], most: float) -> float:
    """Against "the mean loss is at least ``most``", of losses in [0, 1] that are drawn alike: what a capital of 1 comes
    to by a bet on each that it is less. Under that hypothesis its mean is at most 1, so that it exceeds 1/alpha with
    probability at most alpha. In which order the losses come does not matter."""
    found = list(losses)
    logs = [sum(math.log1p(stake / (1 - most) * (most - loss)) for loss in found) for stake in STAKES]
    return fmean(math.exp(min(log, 700.0)) for log in logs)


def threshold(compared: Sequence[Compared], *, min_agreement: float, alpha: float) -> float | None:
    """The lowest confidence from which on the first agrees with the judge on at least ``min_agreement`` of the pairs of
    a list, in the mean over such lists, with error at most ``alpha``; None where that cannot be shown for any.

    The error is exact where lists are drawn alike and the surer ones do not agree less; see the module for the test.
    """
    chosen = None
    for level in THRESHOLDS:
        reached = [c for c in compared if c.sure >= level - ROUNDING]
        if len(reached) < FIRST_SHARE * len(compared) or evidence([0.0] * len(reached), 1 - min_agreement) < 1 / alpha:
            continue
        if evidence((1 - c.agreement for c in reached), 1 - min_agreement) < 1 / alpha:
            break
        chosen = level
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a calibration set says. lists: of them. agreement: mean share of pairs ordered alike; alone_from: the
    ``threshold``; reached, there: lists that are so sure, and their agreement. None: of no list."""

    lists: int
    agreement: float | None
    alone_from: float | None
    reached: int
    there: float | None
    min_agreement: float
    alpha: float


def calibrated(compared: Sequence[Compared], *, min_agreement: float, alpha: float) -> Calibration:
    """The threshold with what led to it."""
    found = threshold(compared, min_agreement=min_agreement, alpha=alpha)
    reached = [c.agreement for c in compared if found is not None and c.sure >= found - ROUNDING]
    return Calibration(
        lists=len(compared),
        agreement=fmean(c.agreement for c in compared) if compared else None,
        alone_from=found,
        reached=len(reached),
        there=fmean(reached) if reached else None,
        min_agreement=min_agreement,
        alpha=alpha,
    )


def calibration_text(found: Calibration) -> str:
    """What the calibration lists say, for people."""
    if found.agreement is None:
        return "no list was ranked by both judges; every list goes to the second"
    in_all = f"of {found.lists} lists that both judges ranked they order {found.agreement:.1%} of pairs alike"
    if found.alone_from is None or found.there is None:
        return f"{in_all}; at least {found.min_agreement:.0%} is not shown for any, so that all go to the second"
    return (
        f"{in_all}; the first answers alone where it is {found.alone_from:.0%} sure ({found.reached} of them,"
        f" {found.there:.1%} of pairs alike), at least {found.min_agreement:.0%} of pairs there with error at most"
        f" {found.alpha:.0%}"
    )
