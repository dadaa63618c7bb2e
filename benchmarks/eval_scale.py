"""Time and memory of evaluating 10,000 judged items: figures, result file and page, without the judging.

    python benchmarks/eval_scale.py --out benchmarks/results/eval_scale.json

Two orders an item from a judge that favours length and the first slot; `eval ranker` and
`eval winrate` on the same items.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cyclealign.evaluation.judging import Judged
from cyclealign.evaluation.ranker import item_of, ranker_metrics, ranker_subsets
from cyclealign.evaluation.result import Item, make_result, write_result
from cyclealign.evaluation.statistics import Figures
from cyclealign.evaluation.winrate import Outcome, outcome_item, winrate_metrics
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.labelled import LabelledItem
from cyclealign.files.records import encode
from cyclealign.rankers.consensus import aggregate
from cyclealign.reporting.eval_page import write_page
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking

ITEMS = 10_000
SHOWN = (("a", "b"), ("b", "a"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    items, found = made(arguments.items)
    before = peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        timings = {
            name: timed(partial(work, items, found, Path(folder) / f"{name}.json"))
            for name, work in (("ranker", ranker), ("winrate", winrate))
        }
        sizes = {p.name: p.stat().st_size for p in sorted(Path(folder).iterdir())}
    row = {"items": arguments.items, "seconds": timings, "file_bytes": sizes}
    memory = {"peak_bytes": peak_bytes(), "peak_bytes_before": before}
    write_json(arguments.out, row | memory | encode(environment()))
    print(row, memory)


def made(n: int) -> tuple[list[LabelledItem], Judged]:
    """Items of 200 words or so, and a judge's answers to both orders of each."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(2000)])
    items, rankings = [], []
    for number in range(n):
        texts = [" ".join(words[rng.integers(0, 2000, size)]) for size in rng.integers(50, 350, 2)]
        prompt = Prompt(({"role": "user", "content": f"question {number}"},))
        pair = CandidateSet(prompt, tuple(Candidate(i, t) for i, t in zip("ab", texts, strict=True)))
        grades = dict(zip("ab", rng.permutation([0.0, 1.0]).tolist(), strict=True))
        items.append(LabelledItem(id=str(number), subset=f"s{number % 8}", set=pair, grades=grades))
        likes = 0.3 * np.sign(len(texts[0]) - len(texts[1]))
        answers = [("a", "b") if rng.random() < 0.5 + likes + slot else ("b", "a") for slot in (0.1, -0.1)]
        rankings.append(aggregate(prompt.id, answers))
    return items, Judged(verdicts=tuple(rankings), shown=(SHOWN,) * n, seconds=0.0, spend=None)


def ranker(items: list[LabelledItem], found: Judged, out: Path) -> None:
    metrics = ranker_metrics(items, found, seed=0)
    records = [item_of(i, v, s) for i, v, s in zip(items, found.verdicts, found.shown, strict=True)]
    finish(out, metrics, records, "accuracy", ranker_subsets(items, found, seed=0))


def winrate(items: list[LabelledItem], found: Judged, out: Path) -> None:
    outcomes = [Outcome(i.set, value(v), v, s) for i, v, s in zip(items, found.verdicts, found.shown, strict=True)]
    finish(out, winrate_metrics(outcomes, seed=0), [outcome_item(o) for o in outcomes], "win_rate")


def value(verdict: Any) -> float:
    assert isinstance(verdict, Ranking)
    return 0.5 if len(verdict.tiers) == 1 else float(verdict.tiers[0][0] == "a")


def finish(
    out: Path, metrics: Figures, items: list[Item], primary: str, subsets: dict[str, Figures] | None = None
) -> None:
    result = make_result(out.stem, about={}, seed=0, metrics=metrics, items=items, primary=primary, subsets=subsets)
    write_result(out, result)
    write_page(out.with_suffix(".html"), result)


def timed(work: Callable[[], None]) -> dict[str, float]:
    started, cpu = time.monotonic(), time.process_time()
    work()
    return {"wall": time.monotonic() - started, "cpu": time.process_time() - cpu}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
