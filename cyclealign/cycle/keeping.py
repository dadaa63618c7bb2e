"""What a run keeps: the weights in ``best/``, and how long each stage took."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclealign.cycle.team import Team
from cyclealign.files.atomic import flush, flush_tree
from cyclealign.files.jsonl import Appender
from cyclealign.files.records import encode
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Stage, Timing


def put_best(run: RunDir, weights: Path | None, check_weights: Callable[[Path], None]) -> None:
    """Weights in place of those of an earlier launch; what else stands in ``best/`` is not ours to remove."""
    if weights is not None:
        check_weights(weights)
    run.kept_file.unlink(missing_ok=True)
    for kind in ("adapter", "model"):
        shutil.rmtree(run.best / kind, ignore_errors=True)
    run.best.mkdir(exist_ok=True)
    if weights is not None:
        shutil.copytree(weights, run.best / weights.name)
        flush_tree(run.best / weights.name)
    flush(run.best.parent)


@contextmanager
def timed(run: RunDir, team: Team, stage: Stage, index: int) -> Iterator[None]:
    """Seconds per stage; a stage that a kill cut short leaves no row, its resumption does."""
    began = time.monotonic()
    yield
    if team.is_main:
        row = Timing(stage=stage, interaction=index, seconds=time.monotonic() - began)
        with Appender(run.timings) as file:
            file.add(encode(row))
