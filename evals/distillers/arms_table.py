"""Markdown of a result file's arms and claims, as the documentation has them.

python evals/distillers/arms_table.py evals/results/pld.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    metrics = json.loads(parser.parse_args().result.read_text(encoding="utf-8"))["metrics"]
    for part, found in parts(metrics):
        print(f"\n### {part}\n")
        print("\n".join([*arms(found), "", *claims(found)]))


def parts(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and measures by arm beside claims, of each part that makes claims."""
    if "claims" in metrics:  # one part, its figures by arm
        measures = next(iter(metrics["figures"].values()))
        yield "all", {m: {arm: row[m] for arm, row in metrics["figures"].items()} for m in measures} | metrics
    for part, found in metrics.items():
        if isinstance(found, dict) and any(name.endswith("claims") for name in found):
            yield part, found
        elif isinstance(found, dict):  # by direction
            yield from ((f"{part}, {below}", each) for below, each in parts(found))


def arms(found: dict[str, Any]) -> Iterator[str]:
    """One row an arm: the mean over seeds of each measure."""
    measures = {name: rows for name, rows in found.items() if is_measure(rows)}
    yield f"| arm | {' | '.join(measures)} |"
    yield "|---" * (len(measures) + 1) + "|"
    for arm in next(iter(measures.values())):
        yield f"| {arm} | {' | '.join(f'{mean(rows[arm]):.4f}' for rows in measures.values())} |"


def is_measure(rows: Any) -> bool:
    """Seeds of each arm, or their mean."""
    return isinstance(rows, dict) and all(isinstance(row, list | float) for row in rows.values())


def mean(row: list[float] | float) -> float:
    return fmean(row) if isinstance(row, list) else row


def claims(found: dict[str, Any]) -> Iterator[str]:
    yield "| claim | measure | difference | 95% interval | smallest detectable | verdict |"
    yield "|---|---|---|---|---|---|"
    for name, rows in found.items():
        for row in rows if name.endswith("claims") else ():
            measure = row.get("measure") or name.removesuffix("claims").rstrip("_") or "accuracy"
            interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
            size = f"{row['smallest_detectable']:.4f}"
            yield f"| {row['claim']} | {measure} | {row['value']:+.4f} | {interval} | {size} | {row['verdict']} |"


if __name__ == "__main__":
    main()
