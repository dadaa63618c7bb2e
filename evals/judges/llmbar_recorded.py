"""LLMBar's published accuracies again, from its recorded judgements; with position bias and intervals beside.

    python evals/judges/llmbar_recorded.py --data DIR [--published DIR] --out evals/results/llmbar_recorded.json

``--data``: ``instances.jsonl.gz`` and ``llm_judgments.tsv.gz``. ``--published``: a checkout of the benchmark's
repository (or any folder with its ``evaluators/JUDGE/STRATEGY/statistics.json``). Where the data holds all instances
of a cell the counts must be equal; where some are missing, the published count lies between ours and ours plus those.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from cyclealign.evaluation.recorded import TwoOrders, two_order_figures
from cyclealign.evaluation.result import Item, make_result, write_result
from cyclealign.evaluation.statistics import Estimate
from cyclealign.files.foreign_json import json_rows

Cell = tuple[str, str, str]  # judge, strategy, subset
ADVERSARIAL = "Adversarial/"
# Our name of a count, and the published one: right in the given order, in the swapped one, in both.
COUNTS = {"correct_given": "correct_False", "correct_swapped": "correct_True", "correct_both": "correct_both"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--published", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cells = read_cells(arguments.data)
    figures = {cell: two_order_figures(pairs) for cell, pairs in sorted(cells.items())}
    benchmark = summary(cells)
    metrics: dict[str, Any] = {"cells": len(figures), "judgements": 2 * sum(len(p) for p in cells.values())}
    if arguments.published:
        metrics["against_published"] = against_published(figures, arguments.published)
    result = make_result(
        "llmbar_recorded",
        about={"question": "accuracy of recorded judges on LLMBar in both orders, and how far the order decides"},
        seed=0,
        metrics=metrics,
        subsets={f"{r['judge']} {r['strategy']}": rounded(r) for r in benchmark},
        items=[Item(key=f"{j} {s} {u}", subset=u, values=rounded(short(f))) for (j, s, u), f in figures.items()],
        primary="accuracy",
    )
    write_result(arguments.out, result)
    print(json.dumps(metrics))
    for row in benchmark:
        flip = row["position_bias"]["flip_rate"].value
        print(f"{row['judge']:13} {row['strategy']:24} {row['accuracy'].value:.3f} flips {flip:.3f} (n={row['n']})")


def read_cells(data: Path) -> dict[Cell, list[TwoOrders]]:
    """Recorded winners of every judge, strategy and subset."""
    instances = {r["id"]: r for _, r in json_rows(data / "instances.jsonl.gz")}
    cells: dict[Cell, list[TwoOrders]] = defaultdict(list)
    with gzip.open(data / "llm_judgments.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            instance = instances[row["id"]]
            winners = (None if w == "NA" else w for w in (row["winner_given_order"], row["winner_swapped_order"]))
            pair = TwoOrders(row["id"], str(instance["label"]), *winners)
            cells[row["evaluator"], row["strategy"], instance["subset"]].append(pair)
    return cells


def summary(cells: dict[Cell, list[TwoOrders]]) -> list[dict[str, Any]]:
    """Each judge and strategy over the benchmark proper: natural and adversarial instances together."""
    proper: dict[tuple[str, str], list[TwoOrders]] = defaultdict(list)
    for (judge, strategy, subset), pairs in sorted(cells.items()):
        if subset == "Natural" or subset.startswith(ADVERSARIAL):
            proper[judge, strategy] += pairs
    rows = [{"judge": j, "strategy": s, **two_order_figures(pairs)} for (j, s), pairs in proper.items()]
    return sorted(rows, key=lambda row: -row["accuracy"].value)


def against_published(figures: dict[Cell, dict[str, Any]], folder: Path) -> dict[str, int]:
    """Our counts beside the published ones of every statistics file that is there."""
    plain = {tuple(map(_plain, cell)): cell for cell in figures}
    checked = []
    for path in sorted(folder.rglob("statistics.json")):
        *subset, _, judge, strategy, _ = path.relative_to(folder).parts
        names = [n for n in subset if n not in ("Dataset", "LLMBar")]
        cell = plain.get((_plain(judge), _plain(strategy), _plain("/".join(names))))
        if cell is None:
            continue
        published = json.loads(path.read_text(encoding="utf-8"))
        for ours, theirs in COUNTS.items():
            count, of = map(int, re.findall(r"\d+", published[theirs])[:2])
            mine, n = figures[cell][ours], figures[cell]["n"]
            checked.append((n == of, mine == count, mine <= count <= mine + of - n))
    return {
        "counts": len(checked),
        "possible": sum(possible for _, _, possible in checked),
        "counts_of_whole_cells": sum(whole for whole, _, _ in checked),
        "equal_of_whole_cells": sum(whole and equal for whole, equal, _ in checked),
    }


def short(figures: dict[str, Any]) -> dict[str, Any]:
    """A cell's counts, and its main figures with their intervals' ends."""
    named = {"accuracy": figures["accuracy"], **(figures["position_bias"] or {})}
    kept: dict[str, float | None] = {k: v for k, v in figures.items() if isinstance(v, int)}
    for name in ("accuracy", "flip_rate", "first_slot_share"):
        found: Estimate | None = named.get(name)
        value, low, high = (found.value, found.low, found.high) if found else (None, None, None)
        kept |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return kept


def rounded(value: Any) -> Any:
    """Floats to six decimals: the file is for reading and comparing."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, Estimate):
        return Estimate(rounded(value.value), rounded(value.low), rounded(value.high), value.n)
    return round(value, 6) if isinstance(value, float) else value


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


if __name__ == "__main__":
    main()
