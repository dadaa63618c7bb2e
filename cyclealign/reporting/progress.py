"""What a person sees of a running cycle: live bars on a terminal, lines anywhere else.

Everything is read from the run's files, so that a resumed run and ``cyclealign status`` say the same.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Timing
from cyclealign.reporting.status import Status, duration, money, read_status
from cyclealign.types import UserError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

POLL_SECONDS = 1.0
WINDOW_SECONDS = 60.0  # over which a rate is measured: sampling comes in chunks, and rates drift
LINE_SECONDS = 30.0  # between the lines of one stage, away from a terminal


@contextmanager
def shown(run: RunDir) -> Iterator[None]:
    """Show the run's progress on stderr while the body runs; it reads the run's files and touches nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    done = threading.Event()
    bars = Bars(run) if console.is_terminal else None
    watcher = threading.Thread(target=_watch, args=(run, done, bars), name="progress", daemon=True)
    if bars is not None:
        bars.progress.start()
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        if bars is not None:
            bars.progress.stop()


def _watch(run: RunDir, done: threading.Event, bars: Bars | None) -> None:
    lines = Lines()
    while not done.wait(POLL_SECONDS):
        try:
            status = read_status(run)
        except (OSError, UserError):
            continue  # a file in the middle of its first write: the next look will find it whole
        if bars is not None:
            bars.update(status)
        elif line := lines.update(status, time.monotonic()):
            print(line, file=sys.stderr, flush=True)


class Lines:
    """A line when a stage begins, and every ``LINE_SECONDS`` in which it moved."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._key: tuple[str, int | None, str] | None = None
        self._pace = Pace()
        self._told, self._units = 0.0, 0.0

    def update(self, status: Status, now: float) -> str | None:
        """Take in a look at the run; what is to be said now, if anything."""
        key, units = (status.stage, status.interaction, status.unit), units_done(status)
        begins = self._key is None or self._key[:2] != key[:2]
        if key != self._key:
            self._key, self._pace = key, Pace()
        self._pace.saw(units, now)
        if not begins and (units == self._units or now - self._told < LINE_SECONDS):
            return None
        self._told, self._units = now, units
        return progress_line(status, self._pace, now - self._began)


def units_done(status: Status) -> float:
    """What a pace is measured in: of a list that is ranked, half is that it is sampled."""
    if status.stage == "generate_and_rank" and status.done is not None and status.total:
        return (status.done + max(status.done, min(status.candidates, status.total))) / 2
    return float(status.done or 0)


class Pace:
    """Units a second over the last ``WINDOW_SECONDS``, and the time that the rest takes at that pace."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def saw(self, done: float, at: float) -> None:
        """What was there at the first look was done before: it tells nothing of the pace."""
        self._seen.append((at, done))
        while len(self._seen) > 2 and at - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """None until something was seen to be done."""
        if len(self._seen) < 2:
            return None
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        return (now - before) / (last - first) if now > before and last > first else None

    def left(self, total: int) -> float | None:
        """Seconds until ``total``; None where the pace is not known."""
        rate = self.rate
        return None if rate is None else max(total - self._seen[-1][1], 0) / rate


class Bars:
    """A bar for the run's interactions and one for the present stage; finished stages leave a line."""

    def __init__(self, run: RunDir) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._run = run
        self._whole: TaskID = self.progress.add_task("starting", total=None, said="")
        self._stage: TaskID | None = None
        self._key: tuple[str, int | None] | None = None
        self._pace = Pace()
        self._began = time.monotonic()

    def update(self, status: Status) -> None:
        """Take in a look at the run."""
        key = (status.stage, status.interaction)
        if key != self._key:
            self._next_stage(status, key)
        assert self._stage is not None
        if status.done is not None:
            self._pace.saw(units_done(status), time.monotonic())
        self.progress.update(
            self._stage, completed=status.done or 0, total=status.total or None, said=said(status, self._pace)
        )
        at_most = run_seconds_left(self._run, status)
        whole = [money(status)] if status.spend is not None else []
        whole += [f"at most {duration(at_most)} left"] if at_most else []
        name = f"interaction {min(status.trained + 1, status.planned)} of at most {status.planned}"
        self.progress.update(
            self._whole, description=name, completed=status.trained, total=status.planned, said=" · ".join(whole)
        )

    def _next_stage(self, status: Status, key: tuple[str, int | None]) -> None:
        if self._stage is not None and self._key is not None:
            stage, interaction = self._key
            name = stage.replace("_", " ") + ("" if interaction is None else f" {interaction}")
            self.progress.console.print(f"{name}: {duration(time.monotonic() - self._began)}", highlight=False)
            self.progress.remove_task(self._stage)
        self._key, self._pace, self._began = key, Pace(), time.monotonic()
        self._stage = self.progress.add_task(status.stage.replace("_", " "), total=None, said="")


def said(status: Status, pace: Pace) -> str:
    """``31 of 64 ranked · 40 sampled · 0.5/s · 1 min 6 s left``; empty where the stage tells nothing."""
    if status.done is None or not status.total:
        return ""
    parts = [f"{status.done} of {status.total} {status.unit}".rstrip()]
    if status.stage == "generate_and_rank" and status.done < status.candidates:
        parts.append(f"{status.candidates} sampled")
    left = pace.left(status.total)
    if pace.rate is not None and left is not None:
        parts += [f"{pace.rate:.1f}/s", f"{duration(left)} left"]
    return " · ".join(parts)


def run_seconds_left(run: RunDir, status: Status) -> float | None:
    """Most seconds for the interactions to come, from the mean of those that were trained; None before the first."""
    if not status.trained:
        return None
    rows = [row for row in read_records(Timing, run.timings) if row.stage != "evaluate" or row.interaction > 0]
    return sum(row.seconds for row in rows) / status.trained * max(status.planned - status.trained, 0)


def progress_line(status: Status, pace: Pace, elapsed: float) -> str:
    """``interaction 2 · generate and rank · 31 of 64 ranked · 0.5/s · 1 min left · $0.0123 of $5.00 · 3 min 5 s``."""
    parts = [] if status.interaction is None else [f"interaction {status.interaction}"]
    parts += [status.stage.replace("_", " "), *filter(None, [said(status, pace)])]
    if status.spend is not None:
        parts.append(money(status))
    return " · ".join([*parts, duration(elapsed)])
