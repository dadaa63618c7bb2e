"""Whom does a run's stop rule stop? Judges of known worth, 1,000 simulated runs each, four candidates a list.

    python evals/judges/stop_rule.py --out evals/results/stop_rule.json

A judge that goes by the slot, one that tosses coins, and readers that order a share of pairs as the truth does:
each candidate has a normal worth, and each look at it adds normal noise of its own (Thurstone 1927, case V). Lists are
shown again as a run with ``passes`` 1 does: the first 32, and 5% of the next 96. Beside the rule: the same with the
interval at 32 alone, and with an interval that must lie below 0 at either look.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclealign.cycle.consistency import FIRST, LAST, advice
from cyclealign.evaluation.consistency import consistency
from cyclealign.evaluation.statistics import share
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode
from cyclealign.rankers.agreement import kendall_tau

K = 4
REPEAT = 0.05
RUNS = 1_000
READERS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    rows = [row(name, arguments.runs) for name in ("slot", "coin", *READERS)]
    write_json(arguments.out, {"runs": arguments.runs, "judges": rows, "environment": encode(environment())})
    for found in rows:
        print(found)


def row(judge: str | float, runs: int) -> dict[str, Any]:
    """In how many runs a judge is stopped, and at which look."""
    found = [stopped_at(judge, seed) for seed in range(runs)]
    by_plain = sum(below(judge, seed) for seed in range(runs))
    stopped = share(sum(at is not None for at in found), runs)
    assert stopped is not None
    return {
        "judge": judge if isinstance(judge, str) else f"right on {judge:.0%} of pairs",
        f"stopped at {FIRST}": found.count(FIRST),
        f"stopped at {LAST}": found.count(LAST),
        "stopped": stopped.record(),
        "stopped if an interval must lie below 0": by_plain,
    }


def stopped_at(judge: str | float, seed: int) -> int | None:
    """The look at which a simulated run stops, or None."""
    taus = shown_taus(judge, seed)
    for lists, seen in ((FIRST, taus[:FIRST]), (LAST, taus)):
        if advice(consistency(seen), lists, 0.0) is not None:
            return lists
    return None


def below(judge: str | float, seed: int) -> bool:
    """Whether the interval lies below 0 at either look."""
    taus = shown_taus(judge, seed)
    ends = [found.high for seen in (taus[:FIRST], taus) if (found := consistency(seen)) is not None]
    return any(high is not None and high < 0 for high in ends)


def shown_taus(judge: str | float, seed: int) -> list[float]:
    """Tau of each list of the first 128 that is shown in both orders."""
    draw = random.Random(f"{judge} {seed}")
    again = FIRST + sum(draw.random() < REPEAT for _ in range(LAST - FIRST))
    noise = 0.0 if isinstance(judge, str) else noise_of(judge)
    return [tau(judge, noise, draw) for _ in range(again)]


def tau(judge: str | float, noise: float, draw: random.Random) -> float:
    """Of one list's two answers, candidates named by their place in the first order."""
    if judge == "slot":
        return kendall_tau("abcd", "dcba")
    worth = [draw.gauss(0, 1) if judge != "coin" else 0.0 for _ in range(K)]
    return kendall_tau(*(answer(worth, noise or 1.0, draw) for _ in range(2)))


def answer(worth: Sequence[float], noise: float, draw: random.Random) -> str:
    seen = [value + draw.gauss(0, noise) for value in worth]
    return "".join("abcd"[i] for i in sorted(range(K), key=seen.__getitem__, reverse=True))


def noise_of(right: float) -> float:
    """Standard deviation of the noise with which a share ``right`` of pairs is ordered as their worths are.

    Of two worths from N(0, 1) and noise s, P(right) = 1/2 + arctan(1/s) / pi.
    """
    return 1 / math.tan(math.pi * (right - 0.5))


if __name__ == "__main__":
    main()
