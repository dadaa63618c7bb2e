"""How much of the package the tests run, from coverage's JSON: lines of all of it, branches of ``judge/``.

    python tests/whole/coverage_figures.py runs/coverage/coverage.json --out evals/results/coverage.json

Exit code 1 where a share is below what is promised.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode

LEAST_LINES, LEAST_BRANCHES = 0.92, 0.90
Summary = Mapping[str, int]


def share(files: Iterable[Summary], what: str) -> float:
    """what: ``line`` or ``branch``."""
    done, there = {"line": ("covered_lines", "num_statements"), "branch": ("covered_branches", "num_branches")}[what]
    of = list(files)
    return sum(file[done] for file in of) / max(1, sum(file[there] for file in of))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", action="store_true", help="of some tests alone: nothing is promised of them")
    asked = parser.parse_args()
    files: dict[str, Summary] = {
        name: file["summary"] for name, file in json.loads(asked.measured.read_text())["files"].items()
    }
    folders = sorted({str(Path(name).parent) for name in files})
    of = {folder: [s for name, s in files.items() if str(Path(name).parent) == folder] for folder in folders}
    lines, branches = share(files.values(), "line"), share(of["cyclealign/judge"], "branch")
    by_folder = {folder: {what: share(of[folder], what) for what in ("line", "branch")} for folder in folders}
    found = {
        "lines": lines,
        "branches_of_judge": branches,
        "statements": sum(f["num_statements"] for f in files.values()),
    }
    write_json(asked.out, found | {"folders": by_folder} | encode(environment()))
    for folder, shares in by_folder.items():
        print(f"{folder:24} lines {shares['line']:.1%}  branches {shares['branch']:.1%}")
    print(
        f"lines of the package {lines:.1%} (at least {LEAST_LINES:.0%}), branches of judge/ {branches:.1%}"
        f" (at least {LEAST_BRANCHES:.0%})"
    )
    return int(not asked.part and (lines < LEAST_LINES or branches < LEAST_BRANCHES))


if __name__ == "__main__":
    raise SystemExit(main())
