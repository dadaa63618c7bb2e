"""Time of the ranking losses over long lists, beside a softmax cross-entropy over the same; and how it grows.

    python benchmarks/list_losses.py [--out benchmarks/results/list_losses.json]

Forward and backward of one list on one thread, best of several. A loss that compares all pairs by definition has a
matrix of K x K entries: it is measured to K = 3,000, and ``bytes`` says what the matrix takes at K in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from cyclealign.files.environment import environment
from cyclealign.files.records import encode
from cyclealign.losses import PRO, AnyLoss, RankedScores, RankingLoss, tier_levels

PAIRWISE = ("rrhf", "pro", "simpo", "dpo", "idcm", "ranknet", "lambdarank")  # by definition
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
MOST_PAIRED = 3_000
LEVELS = 5


@dataclass(frozen=True, kw_only=True)
class Timed:
    """ms, and times that of the cross-entropy, by K; growth: exponent of the time between the two largest K.
    bytes: of the K x K matrices of a pairwise loss at the largest K, each."""

    loss: str
    pairwise: bool
    ms: dict[int, float]
    times: dict[int, float]
    growth: float
    bytes: int | None


def bundle(size: int, needs: str) -> RankedScores:
    draw = torch.Generator().manual_seed(size)
    student = torch.randn(1, size, generator=draw, requires_grad=True)
    teacher = torch.rand(1, size, generator=draw)
    if needs == "levels":
        teacher = (teacher * LEVELS).floor()
    valid = torch.ones(1, size, dtype=torch.bool)
    return RankedScores(
        student=student,
        teacher=teacher,
        valid=valid,
        best_nll=torch.zeros(1),
        levels=tier_levels(teacher, valid) if needs == "levels" else None,
        positive=torch.zeros(1, dtype=torch.long),
    )


def best_of(step: Callable[[], Tensor], repeats: int) -> float:
    """Milliseconds of forward and backward."""
    return best_ms(lambda: torch.autograd.backward(step()), repeats)


def best_ms(work: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return min(found)


def entropy_ms(size: int) -> float:
    scores, target = torch.randn(1, size, requires_grad=True), torch.zeros(1, dtype=torch.long)
    return best_of(lambda: torch.nn.functional.cross_entropy(scores, target), 50)


def operation_times(entropy: dict[int, float]) -> dict[str, dict[int, float]]:
    """What losses of an order cannot do without: forward alone, in times of the cross-entropy with its backward."""
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "argsort": lambda scores: scores.argsort(dim=1, descending=True, stable=True),
        "logcumsumexp": lambda scores: scores.logcumsumexp(dim=1),
    }
    found: dict[str, dict[int, float]] = {}
    for name, operation in operations.items():
        found[name] = {}
        for size in SIZES:
            scores = torch.randn(1, size)
            ms = best_ms(lambda scores=scores, operation=operation: operation(scores), 50)  # type: ignore[misc]
            found[name][size] = round(ms / entropy[size], 2)
    return found


def measured(loss: RankingLoss, *, pairwise: bool, entropy: dict[int, float]) -> Timed:
    sizes = [size for size in SIZES if not pairwise or size <= MOST_PAIRED]
    ms = {}
    for size in sizes:
        scores = bundle(size, loss.needs)
        ms[size] = best_of(lambda scores=scores: loss(scores).loss, 5 if pairwise else 20)  # type: ignore[misc]
    small, large = sizes[-2:]
    growth = math.log(ms[large] / ms[small]) / math.log(large / small)
    name = loss.name if not isinstance(loss, PRO) or loss.gap_temperature else "pro, gap_temperature false"
    return Timed(
        loss=name,
        pairwise=pairwise,
        ms={size: round(value, 3) for size, value in ms.items()},
        times={size: round(value / entropy[size], 2) for size, value in ms.items()},
        growth=round(growth, 2),
        bytes=4 * large * large if pairwise else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/list_losses.json"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    entropy = {size: entropy_ms(size) for size in SIZES}
    losses: list[tuple[RankingLoss, bool]] = [(kind(), kind().name in PAIRWISE) for kind in get_args(AnyLoss)]
    losses.append((PRO(gap_temperature=False), False))
    found = [measured(loss, pairwise=pairwise, entropy=entropy) for loss, pairwise in losses]
    for row in found:
        print(f"{row.loss:28} K=1,000: {row.times[1000]:8.2f} x, growth K^{row.growth}{' (pairs)' * row.pairwise}")
    result = {
        "cross_entropy_ms": {size: round(value, 4) for size, value in entropy.items()},
        "operation_times": operation_times(entropy),
        "losses": [asdict(row) for row in found],
        "environment": encode(environment()),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
