"""Are the intervals of `cyclealign eval winrate` honest, and does length control take a length bias away? Simulated.

    python evals/judges/interval_honesty.py --out evals/results/interval_honesty.json

Coverage: of 1,000 simulated evals with wins, ties and losses of known shares, in how many the 95% interval holds the
true win rate. Length control: judges that in a set share of their verdicts prefer the longer answer and otherwise toss
a coin, on sides of which one is longer; how often the raw and the length-controlled interval hold 50%.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cyclealign.evaluation.length_control import length_controlled
from cyclealign.evaluation.statistics import Estimate, bootstrap_mean
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json

REPEATS = 1_000
LENGTH_REPEATS = 100
# Items; shares of losses, ties and wins.
SETTINGS = (
    (50, (0.45, 0.1, 0.45)),
    (100, (0.5, 0.0, 0.5)),
    (100, (0.3, 0.1, 0.6)),
    (200, (0.35, 0.05, 0.6)),
    (200, (0.1, 0.1, 0.8)),
    (500, (0.4, 0.2, 0.4)),
    (1000, (0.45, 0.05, 0.5)),
)
# Items; share of verdicts by length alone; how much longer the first side is (log of the ratio of medians), its spread.
LENGTHS = ((400, 0.3, 0.3, 0.5), (400, 0.7, 0.3, 0.5), (400, 0.5, 0.6, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [coverage(*setting, seed=n) for n, setting in enumerate(SETTINGS)]
    biased = [length_bias(*setting, seed=n) for n, setting in enumerate(LENGTHS)]
    write_json(arguments.out, {"repeats": REPEATS, "coverage": rows, "length_control": biased, **environment()})
    for row in [*rows, *biased]:
        print(row)


def coverage(n: int, shares: tuple[float, float, float], *, seed: int) -> dict[str, Any]:
    """In how many repeats the win rate's bootstrap interval holds the truth."""
    rng = np.random.default_rng(seed)
    truth = shares[2] + shares[1] / 2
    draws = rng.choice([0.0, 0.5, 1.0], (REPEATS, n), p=shares)
    found = [bootstrap_mean(row.tolist(), seed=number) for number, row in enumerate(draws)]
    return {"items": n, "loss_tie_win": shares, "true_win_rate": truth, "covered": sum(holds(e, truth) for e in found)}


def length_bias(n: int, p: float, longer: float, spread: float, *, seed: int) -> dict[str, Any]:
    """Raw and length-controlled win rate of a side that is no better, only longer, over both orders of every item."""
    rng = np.random.default_rng(seed)
    raw: list[Estimate | None] = []
    controlled: list[Estimate | None] = []
    first_is_longer = 0.0
    for number in range(LENGTH_REPEATS):
        mine, other = (rng.lognormal(5 + shift, spread, n).round() for shift in (longer, 0.0))
        by_length = (np.sign(mine - other) + 1) / 2
        verdicts = [np.where(rng.random(n) < p, by_length, rng.integers(0, 2, n)) for _ in range(2)]
        outcomes = ((verdicts[0] + verdicts[1]) / 2).tolist()
        raw.append(bootstrap_mean(outcomes, seed=number))
        controlled.append(length_controlled(outcomes, mine.tolist(), other.tolist(), seed=number))
        first_is_longer += float((mine > other).mean()) / LENGTH_REPEATS
    return {
        "items": n,
        "share_by_length": p,
        "first_is_longer": round(first_is_longer, 3),
        "raw_mean": round(float(np.mean([e.value for e in raw if e])), 4),
        "raw_holds_half": sum(holds(e, 0.5) for e in raw) / LENGTH_REPEATS,
        "controlled_mean": round(float(np.mean([e.value for e in controlled if e])), 4),
        "controlled_holds_half": sum(holds(e, 0.5) for e in controlled) / LENGTH_REPEATS,
    }


def holds(estimate: Estimate | None, truth: float) -> bool:
    return estimate is not None and estimate.low is not None and estimate.low <= truth <= (estimate.high or 0.0)


if __name__ == "__main__":
    main()
