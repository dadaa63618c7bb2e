"""The training log as charts: the loss, its parts, and how much of the teacher's order the policy has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from cyclealign.files.jsonl import read_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.charts import Line, LineChart

LOSS_POINTS = 300  # a longer training log is averaged over consecutive rows
PARTS = {"rank_loss": "ranking loss", "best_nll": "NLL of the best", "anchor": "distance to the start model"}
STEPS = "optimiser steps"
Row = Mapping[str, float]


def loss_charts(run: RunDir) -> Iterator[LineChart]:
    """Every logged row of the training, over optimiser steps."""
    logged = [r for i in run.interactions() for r in read_jsonl(i.train_log) if "loss" in r]
    rows: list[Row] = [{"step": n + 1, **row} for n, row in enumerate(logged)]
    if not rows:
        return
    size = math.ceil(len(rows) / LOSS_POINTS)
    note = f"Each point is the mean of {size} logged rows." if size > 1 else ""
    label = "mean loss of a list"
    yield LineChart("loss", "Training loss", STEPS, label, (_line("loss", rows, "loss", size),), note=note)
    parts = tuple(_line(name, rows, key, size) for key, name in PARTS.items() if _varies(rows, key))
    if len(parts) > 1:
        whole = f"Before their weights in the sum. {note}".strip()
        yield LineChart("loss-parts", "Parts of the loss", STEPS, label, parts, note=whole)
    if _varies(rows, "accuracy"):
        yield LineChart(
            key="train-accuracy",
            title="Pairs ordered as by the teacher, in training",
            x_label=STEPS,
            y_label="share of pairs",
            lines=(_line("policy", rows, "accuracy", size),),
            rules=(("chance", 0.5),),
            note=f"Measured before each step, on lists that the policy is about to learn from. {note}".strip(),
        )


def _varies(rows: Sequence[Row], key: str) -> bool:
    return any(row.get(key) for row in rows)


def _line(name: str, rows: Sequence[Row], key: str, size: int) -> Line:
    points = [(float(r["step"]), float(r[key])) for r in rows if key in r]
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return Line(name, tuple((g[-1][0], sum(y for _, y in g) / len(g)) for g in groups))
