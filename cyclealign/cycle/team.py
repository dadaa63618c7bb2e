"""Several processes, one of which decides: the others wait on ``state.json``, never in a collective that times out.

Ranking through an API can take hours, longer than any process group waits; so what the main process alone does
ends with a line in the state file, and the others poll it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cyclealign.files.locks import LOCK, is_unheld
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_state import Place, Stage, State
from cyclealign.models.processes import process_count, process_rank, process_state
from cyclealign.types import RunStopped

T = TypeVar("T")
POLL_SECONDS = 0.2
KEPT_TURNS = 32
TELL_SECONDS = 1.0
# What a collective says whose other end is gone, by torch's back ends.
LOST = ("gloo", "Connection closed", "Connection reset", "NCCL")


class Team:
    """The processes of one launch. ``share`` runs work on the main one and hands its JSON value to all.

    ``judge``: the back end that the run asks, for those who read the state file.
    """

    def __init__(self, state_file: Path, *, judge: str, rank: int = 0, size: int = 1, launch: str = "") -> None:
        self.rank = rank
        self.size = size
        self._state_file = state_file
        self._turn = 0
        self._told = 0.0  # when progress was last written
        self._state = State(stage="building", launch=launch, pid=os.getpid(), at=0.0, judge=judge, values={})

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, stage: Stage, work: Callable[[], T], at: Place | None = None) -> T:
        """Run ``work`` on the main process; every process returns its (JSON) value. ``at``: where the stage works.

        Raises on the other processes: RunStopped when the main one failed or stopped.
        """
        self._turn += 1
        if not self.is_main:
            return self._wait()  # type: ignore[no-any-return]
        self._publish(_moved(replace(self._state, stage=stage, done=None, of=None, unit=None), at))
        try:
            value = work()
        except BaseException as error:
            self.failed(error)
            raise
        # Several turns are kept: a slow process may still be waiting for one that is already past.
        values = {**self._state.values, str(self._turn): value}
        self._publish(replace(self._state, values=dict(list(values.items())[-KEPT_TURNS:])))
        return value

    def progress(self, done: int, of: int, unit: str | None = None) -> None:
        """How far the present stage is, for those who watch; written at most once in ``TELL_SECONDS``. ``unit``: what
        is counted, in a stage that counts more than one thing."""
        now = time.monotonic()
        if self.is_main and now - self._told >= TELL_SECONDS:
            self._told = now
            self._publish(replace(self._state, done=done, of=of, unit=unit))

    def failed(self, error: BaseException) -> None:
        """This process ends with an error: the others must not wait for it.

        Raises:
            RunStopped: the error is that another process of the launch is gone.
        """
        self._publish(replace(self._state, ended=type(error).__name__, why=str(error)))
        if self.size > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST):
            raise RunStopped(f"one of the {self.size} processes ended before its work was done") from error

    def finished(self, stopped: str | None) -> None:
        """The run is over; ``stopped``: the drift limit that ended it early."""
        self._publish(replace(self._state, stage="finished", stopped=stopped))

    def _publish(self, state: State) -> None:
        """Write ``state.json`` (main process only); also what ``cyclealign status`` reads."""
        if self.is_main:
            self._state = replace(state, at=time.time())
            write_record(self._state_file, self._state, durable=False)

    def _wait(self) -> Any:
        while True:
            gone = is_unheld(self._state_file.with_name(LOCK))  # asked first: what it wrote at its end still counts
            state = read_record(State, self._state_file) if self._state_file.exists() else None
            if state is not None and state.launch == self._state.launch:
                if str(self._turn) in state.values:
                    return state.values[str(self._turn)]
                if state.ended is not None:
                    raise RunStopped(f"the main process ended ({state.ended})")
                if gone:
                    raise RunStopped("the main process is gone")
            time.sleep(POLL_SECONDS)


def _moved(state: State, at: Place | None) -> State:
    """The state with the place's numbers; of what the place does not name, those of an earlier stage stand."""
    if at is None:
        return state
    return replace(
        state,
        interaction=at.interaction,
        batch=state.batch if at.batch is None else at.batch,
        round=state.round if at.round is None else at.round,
        prompts=state.prompts if at.prompts is None else at.prompts,
    )


def launch_team(state_file: Path, *, judge: str) -> Team:
    """The team of this launch, from the variables that accelerate and torchrun set.

    The processes agree on a launch token through the process group's store once, at the start, where all are
    present; a stale state file of a killed launch cannot be mistaken for this one's.
    """
    if process_count() == 1:
        return Team(state_file, judge=judge, launch=f"{os.getpid()}-{time.time_ns()}")
    from accelerate.utils import broadcast_object_list

    process_state()  # joins the group that the token goes through
    token = broadcast_object_list([f"{os.getpid()}-{time.time_ns()}"], from_process=0)[0]
    return Team(state_file, judge=judge, rank=process_rank(), size=process_count(), launch=str(token))
