"""Does `demos search` find the best set of demonstrations, and what is that worth over a random set?

    python evals/judges/demo_search.py --seeds 10 --out evals/results/demo_search.json

A real server on loopback plays a judge whose accuracy depends on which demonstrations it sees
(tests/helpers/planted_judge.py), so that the best set and the accuracy of every set are known exactly. Two pools: in
`additive`
the values of demonstrations add up (in logits); in `copies` the second best one says what the best one says, so that
both together are worth no more than one. Each search has its own seed, pairs and ledger. The baseline is the mean
over all sets of that size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cyclealign.files.records import encode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))  # the server is the tests' own

from loopback import Loopback
from planted_judge import PlantedJudge, planted_pairs, planted_pool

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.curation.asking import judge
from cyclealign.curation.metering import MeteredLedger
from cyclealign.curation.search import METHODS, Method, SearchPlan, search
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json

SIZE = 3
PAIRS = 400
ADDITIVE = {0: 1.0, 3: 0.9, 7: 0.8, 1: 0.3, 9: 0.2, 4: -0.4, 10: -0.6, 6: -0.8}  # the other four are worth nothing
COPIES = ADDITIVE | {5: 0.95}
POOLS = {"additive": PlantedJudge(ADDITIVE), "copies": PlantedJudge(COPIES, copies=[frozenset({0, 5})])}
N = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--calls", type=int, nargs="+", default=[400, 800, 1600])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cells = [
        cell(name, method, calls, arguments.seeds) for name in POOLS for method in METHODS for calls in arguments.calls
    ]
    known = {name: about(planted) for name, planted in POOLS.items()}
    setting = {"pool": N, "size": SIZE, "pairs": PAIRS, "sets": known}
    write_json(arguments.out, {"setting": setting, "environment": encode(environment()), "cells": cells})
    for found in cells:
        print({k: v for k, v in found.items() if k != "searches"})


def about(planted: PlantedJudge) -> dict[str, Any]:
    best, accuracy = planted.best(N, SIZE)
    return {
        "best": best,
        "best_accuracy": accuracy,
        "random_accuracy": planted.mean(N, SIZE),
        "none": planted.accuracy(()),
    }


def cell(name: str, method: Method, calls: int, seeds: int) -> dict[str, Any]:
    """All searches of one pool, method and budget; accuracies are the planted judge's true ones."""
    searches = [one(POOLS[name], method, calls, seed) for seed in range(seeds)]
    best, _ = POOLS[name].best(N, SIZE)
    true = [s["true_accuracy"] for s in searches]
    margins = [t - POOLS[name].mean(N, SIZE) for t in true]
    return {
        "pool": name,
        "method": method,
        "calls_allowed": calls,
        "calls_most_used": max(s["requests"] for s in searches),
        "found_best": sum(s["chosen"] == best for s in searches),
        "seeds": seeds,
        "true_accuracy": fmean(true),
        "over_random": fmean(margins),
        "over_random_least": min(margins),
        "over_random_sd": stdev(margins) if seeds > 1 else None,
        "seconds_a_search": fmean(s["seconds"] for s in searches),
        "searches": searches,
    }


def one(planted: PlantedJudge, method: Method, calls: int, seed: int) -> dict[str, Any]:
    pool, pairs = planted_pool(N), labelled_pairs(planted_pairs(PAIRS * (seed + 1))[PAIRS * seed :], None)
    plan = SearchPlan(pool=pool, size=SIZE, calls=calls, passes=1, method=method, seed=seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Loopback(judge=planted) as server:
        box = BlackBoxConfig(model="judge", base_url=server.url, max_concurrency=16)
        with MeteredLedger(Path(folder) / "ledger.sqlite", most_calls=calls) as ledger:
            found = search(plan, pairs, judge(box, ledger, seed=seed), ledger)
        requests = len(server.requests)
    chosen = tuple(i for i, d in enumerate(pool) if d.id in found.chosen)
    return {
        "seed": seed,
        "chosen": chosen,
        "true_accuracy": planted.accuracy(chosen),
        "reported": found.shown.accuracy.estimate.record() if found.shown.accuracy.estimate else None,
        "requests": requests,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
