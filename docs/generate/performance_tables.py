"""The tables of ``docs/performance.md`` from ``benchmarks/results/``, between the marks that name them.

python docs/generate/performance_tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from links import ROOT

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def training() -> str:
    rows = read("training_peers")["rows"]
    arms = list(rows[0]["cached_prefix_over"])

    def cell(row: dict[str, Any], arm: str) -> str:
        times = row["cached_prefix_over"].get(arm)
        return "" if times is None else f"{times:.2f}"

    names = {"padded": f"{read('cached_prefix')['parameters'] / 1e6:.0f}M, padded"}
    head = ["cached prefix over", *(f"K = {row['candidates']}" for row in rows)]
    bound = ["bound by operations, of padded", *(f"{row['flop_ratio']:.2f}" for row in rows)]
    return table(
        head,
        [bound, *([names.get(arm, arm), *(cell(row, arm) for row in rows)] for arm in arms if arm != "cached_prefix")],
    )


def layouts() -> str:
    rows = read("cached_prefix")["rows"]
    return table(
        ["setting", "cached prefix over padded", "gradients differ by"],
        ([row["setting"], f"{row['ratio']:.2f}", f"{row['gradient_difference']:.0e}"] for row in rows),
    )


def judging() -> str:
    rows = read("judge_client")["rows"]

    def cells(row: dict[str, Any]) -> list[str]:
        rate, cpu = row["calls_per_second"], row["cpu_ms_a_call"]
        return [
            str(row["at_once"]),
            *(f"{rate[arm]:,.{1 if rate[arm] < 100 else 0}f} ({cpu[arm]:.1f})" for arm in rate),
        ]

    arms = list(rows[0]["calls_per_second"])
    return table(["at once", *arms], map(cells, sorted(rows, key=lambda row: int(row["at_once"]))))


def parts_of_a_call() -> str:
    parts = read("judge_client")["parts_cpu_ms"]
    return table(list(parts), [[f"{ms:.2f}" for ms in parts.values()]])


def generation() -> str:
    found = read("generation")["sampling"]
    slowest = found["transformers generate"]["lists_per_second"]
    return table(
        ["engine", "lists a second", "over transformers generate"],
        (
            [name, f"{arm['lists_per_second']:.1f}", f"{arm['lists_per_second'] / slowest:.1f}"]
            for name, arm in found.items()
        ),
    )


def overlap() -> str:
    found = read("overlap")["rows"]
    columns = ("generation", "judging", "stage", "following", "stage_ratio", "ratio")
    return table(
        [
            *("generation : judging", "generation alone, s", "judging alone, s", "both at once, s", "what follows, s"),
            *("both over the longer", "interaction over the longer and what follows"),
        ],
        (
            [
                f"{row['generation_over_judging']:g}",
                *(f"{row[name]:.{2 if name.endswith('ratio') else 1}f}" for name in columns),
            ]
            for row in found
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (training, layouts, judging, parts_of_a_call, overlap, generation)
}


def page() -> str:
    """The page with its tables as the results have them."""

    def made(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", made, PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
