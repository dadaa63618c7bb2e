"""The training log as charts: the loss, its parts, and how much of the teacher's order the policy has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import TrainRow
from cyclealign.reporting.charts import Line, LineChart

LOSS_POINTS = 300  # a longer training log is averaged over consecutive rows
Figure = Callable[[TrainRow], float | None]
PARTS: tuple[tuple[str, Figure], ...] = (
    ("ranking loss", lambda row: row.rank_loss),
    ("NLL of the best", lambda row: row.best_nll),
    ("distance to the start model", lambda row: row.anchor),
)
STEPS = "optimiser steps"


def loss_charts(run: RunDir) -> Iterator[LineChart]:
    """Every logged row of the training, over optimiser steps."""
    rows = [row for i in run.interactions() for row in read_records(TrainRow, i.train_log)]
    if not rows:
        return
    size = math.ceil(len(rows) / LOSS_POINTS)
    note = f"Each point is the mean of {size} logged rows." if size > 1 else ""
    label = "mean loss of a list"
    yield LineChart("loss", "Training loss", STEPS, label, (_line("loss", rows, lambda r: r.loss, size),), note=note)
    parts = tuple(_line(name, rows, of, size) for name, of in PARTS if _varies(rows, of))
    if len(parts) > 1:
        whole = f"Before their weights in the sum. {note}".strip()
        yield LineChart("loss-parts", "Parts of the loss", STEPS, label, parts, note=whole)
    if _varies(rows, lambda r: r.accuracy):
        yield LineChart(
            key="train-accuracy",
            title="Pairs ordered as by the teacher, in training",
            x_label=STEPS,
            y_label="share of pairs",
            lines=(_line("policy", rows, lambda r: r.accuracy, size),),
            rules=(("chance", 0.5),),
            note=f"Measured before each step, on lists that the policy is about to learn from. {note}".strip(),
        )


def _varies(rows: Sequence[TrainRow], of: Figure) -> bool:
    return any(map(of, rows))


def _line(name: str, rows: Sequence[TrainRow], of: Figure, size: int) -> Line:
    points = [(r.step, y) for r in rows if (y := of(r)) is not None]
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return Line(name, tuple((g[-1][0], sum(y for _, y in g) / len(g)) for g in groups))
