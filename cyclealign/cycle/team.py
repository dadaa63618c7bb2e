"""Several processes, one of which decides: the others wait on ``state.json``, never in a collective that times out.

Ranking through an API can take hours, longer than any process group waits; so what the main process alone does
ends with a line in the state file, and the others poll it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cyclealign.files.atomic import write_atomic
from cyclealign.files.jsonl import read_json
from cyclealign.models.processes import process_count, process_rank, process_state
from cyclealign.types import RunStopped

T = TypeVar("T")
POLL_SECONDS = 0.2
KEPT_TURNS = 32
TELL_SECONDS = 1.0


class Team:
    """The processes of one launch. ``share`` runs work on the main one and hands its JSON value to all."""

    def __init__(self, state_file: Path, *, rank: int = 0, size: int = 1, launch: str = "") -> None:
        self.rank = rank
        self.size = size
        self._state_file = state_file
        self._launch = launch
        self._turn = 0
        self._told = 0.0  # when progress was last written
        self._state: dict[str, Any] = {}

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, stage: str, work: Callable[[], T], **about: Any) -> T:
        """Run ``work`` on the main process; every process returns its (JSON) value.

        Raises on the other processes: RunStopped when the main one failed or stopped.
        """
        self._turn += 1
        if not self.is_main:
            return self._wait()  # type: ignore[no-any-return]
        self._state = {k: v for k, v in self._state.items() if k not in ("done", "of")}  # of the stage before
        self.publish(stage=stage, **about)
        try:
            value = work()
        except BaseException as error:
            self.publish(ended=type(error).__name__, why=str(error))
            raise
        # Several turns are kept: a slow process may still be waiting for one that is already past.
        values = {**self._state.get("values", {}), str(self._turn): value}
        self._state["values"] = dict(list(values.items())[-KEPT_TURNS:])
        self.publish()
        return value

    def progress(self, done: int, of: int) -> None:
        """How far the present stage is, for those who watch; written at most once in ``TELL_SECONDS``."""
        now = time.monotonic()
        if self.is_main and now - self._told >= TELL_SECONDS:
            self._told = now
            self.publish(done=done, of=of)

    def publish(self, **about: Any) -> None:
        """Merge into ``state.json`` (main process only); also what ``cyclealign status`` reads."""
        if not self.is_main:
            return
        self._state |= about | {"launch": self._launch, "pid": os.getpid(), "at": time.time()}
        write_atomic(self._state_file, json.dumps(self._state, indent=2) + "\n", durable=False)

    def _wait(self) -> Any:
        while True:
            state = read_json(self._state_file) if self._state_file.exists() else {}
            if state.get("launch") == self._launch:
                values = state.get("values", {})
                if str(self._turn) in values:
                    return values[str(self._turn)]
                if "ended" in state:
                    raise RunStopped(f"the main process ended ({state['ended']})")
            time.sleep(POLL_SECONDS)


def launch_team(state_file: Path) -> Team:
    """The team of this launch, from the variables that accelerate and torchrun set.

    The processes agree on a launch token through the process group's store once, at the start, where all are
    present; a stale state file of a killed launch cannot be mistaken for this one's.
    """
    if process_count() == 1:
        return Team(state_file, launch=f"{os.getpid()}-{time.time_ns()}")
    from accelerate.utils import broadcast_object_list

    process_state()  # joins the group that the token goes through
    token = broadcast_object_list([f"{os.getpid()}-{time.time_ns()}"], from_process=0)[0]
    return Team(state_file, rank=process_rank(), size=process_count(), launch=str(token))
