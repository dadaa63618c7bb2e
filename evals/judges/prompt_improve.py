"""Does `prompts improve` mend a wrong rule in an instruction, and what is a model that reads worth over chance?

    python evals/judges/prompt_improve.py --seeds 20 --out evals/results/prompt_improve.json

Judge and reflecting model are planted (tests/helpers/planted_rules.py), behind a real server on loopback: the judge
follows the rules that its instruction states, of which one of twelve is wrong (longer is better), so the accuracy of
every instruction is known. Two models propose, with the same calls: `reading` looks at the judge's mistakes, and drops
what is said of length where the longer response was put first in most of them; `random` drops, moves, replaces or
adds a rule without a look. Each search has its own seed, pairs and ledger. What comes of it is measured on pairs that
no search saw, paired with the template that it began with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))  # the server is the tests' own

from loopback import Loopback
from planted_rules import (
    WRONG,
    JudgeAndMind,
    Propose,
    accuracy,
    at_random,
    planted_lengths,
    planted_template,
    reading,
    right,
    rules_of,
)

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.curation.asking import judge
from cyclealign.curation.improving import improve
from cyclealign.curation.instruction_search import ImprovePlan
from cyclealign.curation.metering import MeteredLedger
from cyclealign.curation.reflection import Reflector
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.evaluation.result import Item, make_result, write_result
from cyclealign.evaluation.statistics import Figures, paired_difference
from cyclealign.judge.demonstrations import DemonstrationPool

PAIRS = 240
UNSEEN = 400
MINDS: dict[str, Propose] = {"reading": reading, "random": at_random}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = {name: [one(name, arguments.calls, seed) for seed in range(arguments.seeds)] for name in MINDS}
    cells = {name: cell(searches) for name, searches in found.items()}
    start = rules_of(planted_template().instruction)
    about: Figures = {
        "question": str(__doc__).splitlines()[0],
        "judge and reflecting model": "planted, on loopback",
        "calls": arguments.calls,
        "pairs": PAIRS,
        "unseen": UNSEEN,
        "start": {"rules": len(start), "accuracy": accuracy(start)},
    }
    metrics: Figures = {"searches": found, "reading - random": over_chance(found)}
    by_seed = [{name: searches[seed]["unseen"] for name, searches in found.items()} for seed in range(arguments.seeds)]
    items = [Item(key=str(seed), value=own["reading"], values=own) for seed, own in enumerate(by_seed)]
    result = make_result(
        "prompt_improve",
        about=about,
        seed=0,
        metrics=metrics,
        items=items,
        primary="unseen",
        subsets=cells,
        arms=list(found),
    )
    write_result(arguments.out, result)
    for name, figures in cells.items():
        print(name, figures)
    print("reading - random", metrics["reading - random"])


def over_chance(found: dict[str, list[dict[str, Any]]]) -> Any:
    """Accuracy on unseen pairs that reading gains over random edits, a search each."""
    reading_, random_ = ([s["unseen"] for s in found[name]] for name in ("reading", "random"))
    return paired_difference(random_, reading_)


def cell(searches: list[dict[str, Any]]) -> dict[str, Any]:
    """All searches of one model. ``gain``: on all unseen pairs of all searches, paired."""
    before = [float(v) for s in searches for v in s["before"]]
    after = [float(v) for s in searches for v in s["after"]]
    for search in searches:
        del search["before"], search["after"]
    return {
        "searches": len(searches),
        "repaired": sum(s["repaired"] for s in searches),
        "kept": sum(s["kept"] for s in searches),
        "kept_without_gain": sum(s["kept"] and s["true_gain"] <= 0 for s in searches),
        "calls_most_used": max(s["requests"] for s in searches),
        "calls_mean": fmean(s["requests"] for s in searches),
        "accuracy_start": fmean(before),
        "accuracy_end": fmean(after),
        "gain": paired_difference(before, after),
        "seconds_a_search": fmean(s["seconds"] for s in searches),
    }


def one(name: str, calls: int, seed: int) -> dict[str, Any]:
    """One search, and what it is worth on unseen pairs; what was not kept is the template that was there."""
    template = planted_template()
    pairs = labelled_pairs(planted_lengths(PAIRS, PAIRS * seed), None)
    pool = DemonstrationPool.start(DemonstrationsConfig(), static=(), template=template)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Loopback(judge=JudgeAndMind(MINDS[name])) as server:
        box = BlackBoxConfig(model="judge", base_url=server.url, max_concurrency=16)
        with MeteredLedger(Path(folder) / "ledger.sqlite", most_calls=calls) as ledger:
            found = improve(
                ImprovePlan(template=template, calls=calls, passes=1, seed=seed),
                pairs,
                pool,
                lambda made: judge(box, ledger, seed=seed, template=made),
                Reflector(box.model_copy(update={"model": "mind"}), ledger).propose,
                ledger,
            )
        requests = len(server.requests)
    start, end = (rules_of(t.instruction) for t in (template, found.best if found.kept else template))
    unseen = range(10**6 + UNSEEN * seed, 10**6 + UNSEEN * (seed + 1))
    before, after = ([right(i, rules) for i in unseen] for rules in (start, end))
    return {
        "seed": seed,
        "repaired": WRONG not in end,
        "kept": found.kept,
        "test": found.test,
        "proposals": found.proposals,
        "measured": len(found.candidates) - 1,
        "true_gain": accuracy(end) - accuracy(start),
        "unseen": fmean(after),
        "before": before,
        "after": after,
        "requests": requests,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
