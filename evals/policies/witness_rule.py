"""Whom does a run's witness rule stop? Simulated runs whose witness does not move, and runs whose witness falls.

    python evals/policies/witness_rule.py --out evals/results/witness_rule.json

96 held-out prompts, of which 48 choose. Each has a worth of its own, the same at every evaluation, and each evaluation
adds noise: of as much spread as the worths for a scorer, of a coin's for a judge that compares with the start model
(1, 0.5 or 0; the start model has 0.5). Where the witness falls, it rises by ``step`` standard deviations of the noise
for three interactions and falls by as much at each one after. The ranker rises at every evaluation, which is the worst
that it can do to the rule, or stands still with noise. Beside the rule: the same with an ordinary 95% interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cyclealign.cycle.witness_rule import look, witness_fell
from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.statistics import paired_difference, share
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode
from cyclealign.files.run_figures import Metrics

PROMPTS = 96
RUNS = 1_000
LENGTHS = (3, 5, 10, 20, 50)
STEPS = (0.1, 0.2, 0.3, 0.5)
IDS = [f"prompt {i}" for i in range(PROMPTS)]
HALVES = Halves({name: place for place, name in enumerate(IDS)})
CHOOSING = HALVES.choosing(IDS)
Draw = Callable[[np.random.Generator, int, float], list[np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    rows = [
        row(witness, ranker, length, 0.0, arguments.runs)
        for witness in WITNESSES
        for ranker in ("rises", "stands still")
        for length in LENGTHS
    ]
    rows += [row(witness, "rises", 10, step, arguments.runs) for witness in WITNESSES for step in STEPS]
    record = {"runs": arguments.runs, "prompts": PROMPTS, "choosing": len(CHOOSING), "rows": rows}
    write_json(arguments.out, record | {"environment": encode(environment())})
    for found in rows:
        print(found)


def row(witness: str, ranker: str, length: int, step: float, runs: int) -> dict[str, Any]:
    """In how many runs of so many interactions the witness ends the run, and when at the median."""
    found = [stopped_at(witness, ranker, length, step, seed) for seed in range(runs)]
    ends = [at for at in found if at is not None]
    stopped = share(len(ends), runs)
    assert stopped is not None
    return {
        "witness": witness,
        "moves": f"falls by {step} standard deviations an interaction after the third" if step else "does not",
        "ranker": ranker,
        "interactions": length,
        "stopped": stopped.record(),
        "median interaction": float(np.median(ends)) if ends else None,
        "stopped if an ordinary interval must lie below 0": sum(
            stopped_at(witness, ranker, length, step, seed, plain=True) is not None for seed in range(runs)
        ),
    }


def stopped_at(witness: str, ranker: str, length: int, step: float, seed: int, *, plain: bool = False) -> int | None:
    """The interaction after which a simulated run ends, or None."""
    draw = np.random.default_rng([seed, length])
    values = WITNESSES[witness](draw, length, step)
    evaluations: dict[int, Metrics] = {}
    for n in range(length + 1):
        gain = float(n) if ranker == "rises" else float(draw.normal())
        evaluations[n] = metrics(values[n], gain)
        if (plain_fell if plain else witness_fell)(evaluations, n, HALVES):
            return n
    return None


def plain_fell(evaluations: dict[int, Metrics], trained: int, halves: Halves) -> bool:
    """The rule with an ordinary interval at each of its two looks."""
    if trained < 2:
        return False
    for n in (trained - 1, trained):
        found = look(evaluations, n, halves)
        assert found is not None
        then, now = ([evaluations[m].rewards[i] for i in CHOOSING] for m in (found.best, n))
        change = paired_difference(then, now)
        rises = found.ranker is not None and found.ranker_best is not None and found.ranker > found.ranker_best
        if change is None or change.high is None or change.high >= 0 or not rises:
            return False
    return True


def scores(draw: np.random.Generator, length: int, step: float) -> list[np.ndarray]:
    worth = draw.normal(size=PROMPTS)
    return [worth + level(n, step) + draw.normal(size=PROMPTS) for n in range(length + 1)]


def verdicts(draw: np.random.Generator, length: int, step: float) -> list[np.ndarray]:
    """A fifth are ties; ``level`` moves the share of wins by as many standard deviations of a verdict."""
    found = [np.full(PROMPTS, 0.5)]
    for n in range(1, length + 1):
        won = np.clip(0.5 + 0.45 * level(n, step), 0, 1)
        verdict = (draw.random(PROMPTS) < won).astype(float)
        found.append(np.where(draw.random(PROMPTS) < 0.2, 0.5, verdict))
    return found


def level(n: int, step: float) -> float:
    return step * (n if n <= 3 else 6 - n)


WITNESSES: dict[str, Draw] = {"scorer": scores, "judge": verdicts}


def metrics(values: np.ndarray, gain: float) -> Metrics:
    rewards = dict(zip(IDS, map(float, values), strict=True))
    return Metrics(
        replies=PROMPTS,
        mean_words=12.0,
        distinct1=0.4,
        distinct2=0.8,
        kept_of_drawn=1.0,
        nll_start=2.0,
        nll_by_prompt={},
        scorer="simulated",
        reward=float(np.mean([rewards[i] for i in HALVES.reporting(IDS)])),
        reward_choosing=float(np.mean([rewards[i] for i in CHOOSING])),
        reward_by_prompt=rewards,
        ranker_by_prompt=dict.fromkeys(CHOOSING, gain),
        white_box_accuracy=None,
        black_box_accuracy=None,
        version="simulated",
    )


if __name__ == "__main__":
    main()
