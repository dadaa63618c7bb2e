"""What a person sees of a running cycle: one live line on a terminal, one line a stage anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cyclealign.run_dir import RunDir
from cyclealign.status import Status, duration, money, read_status
from cyclealign.types import UserError

if TYPE_CHECKING:
    from rich.status import Status as LiveLine

POLL_SECONDS = 1.0


@contextmanager
def shown(run: RunDir) -> Iterator[None]:
    """Show the run's progress on stderr while the body runs; it reads the run's files and touches nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    done = threading.Event()
    with console.status("starting") as live:
        watcher = threading.Thread(
            target=_watch, args=(run, done, live if console.is_terminal else None), name="progress", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(run: RunDir, done: threading.Event, live: LiveLine | None) -> None:
    began = time.monotonic()
    last_stage: tuple[str, int | None] | None = None
    while not done.wait(POLL_SECONDS):
        try:
            status = read_status(run)
        except (OSError, ValueError, KeyError, UserError):
            continue  # a file in the middle of its first write: the next look will find it whole
        line = progress_line(status, time.monotonic() - began)
        if live is not None:
            live.update(line)
        elif (status.stage, status.interaction) != last_stage:
            print(line, file=sys.stderr, flush=True)
        last_stage = (status.stage, status.interaction)


def progress_line(status: Status, elapsed: float) -> str:
    """``interaction 2 · generate_and_rank · 31 of 64 ranked (0.5/s) · $0.0123 of $5.00 · 3 min 5 s``."""
    parts = [] if status.interaction is None else [f"interaction {status.interaction}"]
    parts.append(status.stage.replace("_", " "))
    if status.stage == "generate_and_rank":
        parts.append(f"{status.candidates} sampled, {status.ranked} ranked of {status.active}")
        if elapsed > 0 and status.ranked:
            parts.append(f"{status.ranked / max(status.quiet, 1.0):.1f}/s")
    if status.spend is not None:
        parts.append(money(status))
    return " · ".join([*parts, duration(elapsed)])
