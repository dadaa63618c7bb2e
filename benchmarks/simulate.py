"""What a run takes in tokens, bytes, money and hours, told by arithmetic and by replay; the plans of docs/scale.md.

    python benchmarks/simulate.py [--run RUN] [--out benchmarks/results/simulate.json]

The arithmetic divides amounts by rates. The replay walks through the interactions chunk by chunk as the loop does: a
chunk is judged while the next is generated, with so many calls in flight; white-box ranking and training follow when
all are judged. ``--run``: the rates are those of a run's own ``timings.jsonl``, all interactions but the last, and the
last one, told from them, is held against what it took.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from cyclealign.config.schema import GeneratorConfig
from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Timing

CHUNK = GeneratorConfig().chunk  # prompts that are generated before the judge gets them


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Amounts of a run, and rates of the whole machine park: tokens or calls a second, seconds, USD a million tokens.

    gpus: held for the whole of the run. trained: share of the lists that are trusted and trained on. call_in: tokens of
    demonstrations and instructions of a call; candidates come on top. row_bytes: of a call on the ledger, its index
    and a short reply included (`ledger_scale.py`).
    """

    name: str
    prompts: int
    batch: int
    candidates: int
    prompt_tokens: int
    response_tokens: int
    passes: int
    trained: float
    gpus: int
    generate: float
    score: float
    train: float
    in_flight: int
    latency_s: float
    call_in: int
    call_out: int
    usd_in: float
    usd_out: float
    token_bytes: float = 4.2
    row_bytes: int = 500


@dataclass(frozen=True, kw_only=True)
class Needs:
    generated_tokens: int
    scored_tokens: int
    trained_tokens: int
    calls: int
    judge_tokens_in: int
    judge_tokens_out: int
    usd: float
    run_bytes: int
    ledger_bytes: int
    hours: float
    replayed_hours: float
    gpu_hours: float


def sequence_tokens(plan: Plan) -> int:
    """Of a list in training and scoring, the prompt once: cached prefix."""
    return plan.prompt_tokens + plan.candidates * plan.response_tokens


def stage_seconds(plan: Plan, prompts: int) -> tuple[float, float, float, float]:
    """Generation, judging, white-box ranking (two forwards, current and start weights), training."""
    tokens = prompts * sequence_tokens(plan)
    return (
        prompts * plan.candidates * plan.response_tokens / plan.generate,
        prompts * plan.passes * plan.latency_s / plan.in_flight,
        2 * tokens / plan.score,
        plan.trained * tokens / plan.train,
    )


def batches(plan: Plan) -> list[int]:
    return [min(plan.batch, plan.prompts - first) for first in range(0, plan.prompts, plan.batch)]


def arithmetic_seconds(plan: Plan) -> float:
    """Generation and judging overlap: the longer of both, beside what follows."""
    generate, judge, score, train = stage_seconds(plan, plan.prompts)
    return max(generate, judge) + score + train


@cache
def interaction_seconds(plan: Plan, size: int) -> float:
    """Every call in its place: chunk by chunk, ``in_flight`` at once."""
    free, at = [0.0] * plan.in_flight, 0.0
    for first in range(0, size, CHUNK):
        chunk = min(CHUNK, size - first)
        at += chunk * plan.candidates * plan.response_tokens / plan.generate
        for _ in range(chunk * plan.passes):
            heapq.heappush(free, max(at, heapq.heappop(free)) + plan.latency_s)
    _, _, score, train = stage_seconds(plan, size)
    return max(at, *free) + score + train


def replayed_seconds(plan: Plan) -> float:
    return sum(interaction_seconds(plan, size) for size in batches(plan))


def needs(plan: Plan) -> Needs:
    calls = plan.prompts * plan.passes
    tokens_in = calls * (plan.call_in + plan.prompt_tokens + plan.candidates * plan.response_tokens)
    scored = 2 * plan.prompts * sequence_tokens(plan)
    seconds, replayed = arithmetic_seconds(plan), replayed_seconds(plan)
    return Needs(
        generated_tokens=plan.prompts * plan.candidates * plan.response_tokens,
        scored_tokens=scored,
        trained_tokens=round(plan.trained * plan.prompts * sequence_tokens(plan)),
        calls=calls,
        judge_tokens_in=tokens_in,
        judge_tokens_out=calls * plan.call_out,
        usd=round((tokens_in * plan.usd_in + calls * plan.call_out * plan.usd_out) / 1e6, 2),
        run_bytes=round(plan.prompts * sequence_tokens(plan) * plan.token_bytes),
        ledger_bytes=calls * plan.row_bytes,
        hours=round(seconds / 3600, 2),
        replayed_hours=round(replayed / 3600, 2),
        gpu_hours=round(plan.gpus * replayed / 3600, 1),
    )


# Rates of GPUs are computed (docs/scale.md): a run's own timings are to be put in their place.
PLANS = (
    Plan(
        name="7B on one 80 GB GPU", prompts=20_000, batch=2_000, candidates=4, prompt_tokens=300, response_tokens=200,
        passes=2, trained=0.7, gpus=1, generate=2_500, score=28_000, train=9_500, in_flight=32, latency_s=2.0,
        call_in=1_500, call_out=40, usd_in=0.15, usd_out=0.6,
    ),
    Plan(
        name="70B on 2 x 8", prompts=20_000, batch=2_000, candidates=4, prompt_tokens=300, response_tokens=200,
        passes=2, trained=0.7, gpus=16, generate=6_000, score=22_800, train=7_600, in_flight=32, latency_s=2.0,
        call_in=1_500, call_out=40, usd_in=0.15, usd_out=0.6,
    ),
    Plan(
        name="a million prompts a day (7B)", prompts=1_000_000, batch=50_000, candidates=4, prompt_tokens=300,
        response_tokens=200, passes=2, trained=0.7, gpus=8, generate=20_000, score=228_000, train=76_000,
        in_flight=128, latency_s=2.0, call_in=1_500, call_out=40, usd_in=0.15, usd_out=0.6,
    ),
)  # fmt: skip


def last_interaction(run: RunDir) -> tuple[float, float]:
    """Seconds of a run's last interaction: told from the mean of each stage before it, and measured."""
    stages: dict[str, dict[int, float]] = defaultdict(dict)
    for row in read_records(Timing, run.timings):
        stages[row.stage][row.interaction] = row.seconds
    last = max(i for rows in stages.values() for i in rows)
    told = {stage: fmean(s for i, s in rows.items() if i < last) for stage, rows in stages.items() if len(rows) > 1}
    return sum(told.values()), sum(rows[last] for stage, rows in stages.items() if stage in told and last in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/simulate.json"))
    arguments = parser.parse_args()
    found = {plan.name: {"plan": asdict(plan), "needs": asdict(needs(plan))} for plan in PLANS}
    for name, both in found.items():
        print(name, json.dumps(both["needs"]))
    result: dict[str, object] = {"plans": found}
    if arguments.run is not None:
        told, took = last_interaction(RunDir(arguments.run))
        result["replayed_run"] = {"told_s": round(told, 1), "took_s": round(took, 1)}
        print(f"last interaction: told {told:.1f} s, took {took:.1f} s")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
