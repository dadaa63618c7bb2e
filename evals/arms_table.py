"""Markdown of a result file's arms and claims, as the documentation has them.

python evals/arms_table.py evals/results/pld.json
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
    for part, found in metrics.items():
        print(f"\n### {part}\n")
        print("\n".join([*arms(found), "", *claims(found)]))


def arms(found: dict[str, Any]) -> Iterator[str]:
    """One row an arm: the mean over seeds of each measure."""
    measures = {name: rows for name, rows in found.items() if is_measure(rows)}
    yield f"| arm | {' | '.join(measures)} |"
    yield "|---" * (len(measures) + 1) + "|"
    for arm in next(iter(measures.values())):
        yield f"| {arm} | {' | '.join(f'{fmean(rows[arm]):.4f}' for rows in measures.values())} |"


def is_measure(rows: Any) -> bool:
    return isinstance(rows, dict) and all(isinstance(row, list) for row in rows.values())


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
