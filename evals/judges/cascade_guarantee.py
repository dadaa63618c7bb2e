"""Does a cascade's threshold keep what it states, and how many lists does it spare? Simulated pairs of judges.

    python evals/judges/cascade_guarantee.py --out evals/results/cascade_guarantee.json

A dear judge and a cheap one, four candidates a list. Readers: each candidate has a normal worth, the dear judge orders
by the worth, the cheap one by the worth with a normal error of the list's own size, and each of its passes with noise
of its own; it is as sure as its passes agree. Planted: lists of a given mean agreement whose confidence says nothing,
their pairs independent of each other, or all of a list right or reversed, which is the most that they can depend.
Edge: in the surest half exactly as stated, or just below it. 200 lists calibrate, each time anew; "broken": the true
agreement of the lists that are answered alone is below the stated one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from cyclealign.evaluation.statistics import share
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode
from cyclealign.rankers.calibration import ROUNDING, Compared, pair_agreement, threshold, unanimity
from cyclealign.rankers.consensus import aggregate

K = 4
PAIRS = K * (K - 1) // 2
LISTS = 200
REPEATS = 200
TRUTH = 20_000  # lists by which the true agreement at a threshold is known
MIN_AGREEMENT, ALPHA = 0.9, 0.1
Draw = Callable[[random.Random], Compared]


@dataclass(frozen=True)
class World:
    """A pair of judges: what each list that both rank comes to."""

    name: str
    draw: Draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    rows = [row(world, arguments.repeats) for world in worlds()]
    settings = {"min_agreement": MIN_AGREEMENT, "alpha": ALPHA, "lists": LISTS, "repeats": arguments.repeats}
    write_json(arguments.out, {"settings": settings, "judges": rows, "environment": encode(environment())})
    for found in rows:
        print(found)


def worlds() -> list[World]:
    readers = [reader(agreement, passes) for passes in (2, 3) for agreement in (0.95, 0.9, 0.85, 0.75)]
    flat = [planted(mean, whole=whole) for whole in (False, True) for mean in (0.95, 0.9, 0.89, 0.8)]
    return [*readers, *flat, edge(0.9), edge(0.89)]


def row(world: World, repeats: int) -> dict[str, Any]:
    """How often the statement is broken, and what is spared."""
    draw = random.Random(f"truth {world.name}")
    truth = sorted((world.draw(draw) for _ in range(TRUTH)), key=lambda c: -c.sure)
    found = [outcome(world, truth, seed) for seed in range(repeats)]
    broken = share(sum(agreement is not None and agreement < MIN_AGREEMENT for _, agreement in found), repeats)
    assert broken is not None
    alone = [part for part, _ in found]
    return {
        "judge": world.name,
        "agreement": fmean(c.agreement for c in truth),
        "broken": broken.record(),
        "alone": fmean(alone),
        "alone in at least 40%": sum(part >= 0.4 for part in alone) / repeats,
        "never alone": alone.count(0.0) / repeats,
    }


def outcome(world: World, truth: Sequence[Compared], seed: int) -> tuple[float, float | None]:
    """Share of all lists that one calibration lets the cheap judge answer alone, and its true agreement there."""
    draw = random.Random(f"{world.name} {seed}")
    level = threshold([world.draw(draw) for _ in range(LISTS)], min_agreement=MIN_AGREEMENT, alpha=ALPHA)
    if level is None:
        return 0.0, None
    answered = [c.agreement for c in truth if c.sure >= level - ROUNDING]
    return len(answered) / len(truth), fmean(answered) if answered else None


def reader(agreement: float, passes: int) -> World:
    """One whose consensus orders about that share of pairs as the dear judge does."""
    noise = noise_of(agreement, passes)
    return World(f"reads, {passes} passes, {agreement:.0%}", lambda draw: read(noise, passes, draw))


def read(noise: float, passes: int, draw: random.Random) -> Compared:
    worth = [draw.gauss(0, 1) for _ in range(K)]
    error = noise * draw.expovariate(1.0)  # some lists are hard for it, and it shows
    view = [w + draw.gauss(0, error) for w in worth]
    orders = [order([v + draw.gauss(0, error) for v in view]) for _ in range(passes)]
    agreement = pair_agreement(aggregate("", orders).tiers, tuple((i,) for i in order(worth)))
    assert agreement is not None
    return Compared(unanimity(orders), agreement)


def order(values: Sequence[float]) -> tuple[str, ...]:
    return tuple(str(i) for i in sorted(range(len(values)), key=values.__getitem__, reverse=True))


@cache
def noise_of(agreement: float, passes: int) -> float:
    """By bisection on lists of one seed."""
    low, high = 0.0, 8.0
    for _ in range(12):
        middle = (low + high) / 2
        draw = random.Random(7)
        mean = fmean(read(middle, passes, draw).agreement for _ in range(1_500))
        low, high = (middle, high) if mean > agreement else (low, middle)
    return low


def planted(mean: float, *, whole: bool) -> World:
    """Lists of that mean agreement, whatever the confidence."""
    kind = "lists right or reversed" if whole else "pairs by chance"

    def draw_one(draw: random.Random) -> Compared:
        return Compared(draw.choice((0.5, 0.75, 1.0)), agreed(mean, draw, whole=whole))

    return World(f"{kind}, {mean:.0%}", draw_one)


def edge(surest: float) -> World:
    """The surest half agrees so, the others less."""

    def draw_one(draw: random.Random) -> Compared:
        sure = draw.random() < 0.5
        return Compared(1.0 if sure else 0.6, agreed(surest if sure else 0.7, draw, whole=True))

    return World(f"surest half {surest:.0%}, the others 70%", draw_one)


def agreed(mean: float, draw: random.Random, *, whole: bool) -> float:
    if whole:
        return float(draw.random() < mean)
    return sum(draw.random() < mean for _ in range(PAIRS)) / PAIRS


if __name__ == "__main__":
    main()
