"""Paths of a run and its interactions; create, lock, ``open_run``.

Append-only JSONL files tolerate a torn last line (a killed process); everything else is written aside and renamed.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import IO

from cyclealign.files.atomic import write_atomic
from cyclealign.files.records import read_record, read_records
from cyclealign.files.run_figures import Metrics
from cyclealign.files.run_records import PromptRecord
from cyclealign.files.run_state import Kept, State
from cyclealign.types import Prompt, UserError


class InteractionDir:
    """Paths of one interaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.candidates = path / "candidates.jsonl"
        self.white_box = path / "white_box.jsonl"
        self.cascade = path / "cascade.json"
        self.black_box = path / "black_box.jsonl"
        self.agreement = path / "agreement.jsonl"
        self.demonstrations = path / "demonstrations.jsonl"
        self.train_log = path / "train.jsonl"
        self.summary = path / "summary.json"
        self.canary = path / "canary.json"

    @property
    def trained(self) -> bool:
        """The train log is written last, after the weights and the optimiser state are in place."""
        return self.train_log.exists()

    @property
    def weights(self) -> Path:
        """The adapter, or the full model after full fine-tuning."""
        adapter = self.path / "adapter"
        return adapter if adapter.exists() else self.path / "model"


class RunDir:
    """A run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.prompts = path / "prompts"
        self.ledger = path / "ledger.sqlite"
        self.state_file = path / "state.json"
        self.timings = path / "timings.jsonl"
        self.best = path / "best"
        self.kept_file = self.best / "kept.json"
        self.start = path / "start"
        self.report = path / "report.html"
        self._lock: IO[str] | None = None

    def create(self, config_yaml: str) -> None:
        """Make the directory for a new run; refuse one that already holds work."""
        if any((self.path / "interactions").glob("*/*.jsonl")):
            raise UserError(
                f"run directory {self.path} already holds a run: continue it with `cyclealign resume {self.path}`,"
                " or choose another name (name=...) or output_dir"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir: cannot make {self.path}: {error.strerror}") from error
        self.lock()
        for stale in ("interactions", "evaluations", "prompts", "start"):
            shutil.rmtree(self.path / stale, ignore_errors=True)
        self.state_file.unlink(missing_ok=True)
        write_atomic(self.config, config_yaml)

    def lock(self) -> None:
        """One process writes; the lock dies with the process."""
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"run directory {self.path} is in use by another process") from error

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def interaction(self, index: int) -> InteractionDir:
        return InteractionDir(self.path / "interactions" / f"{index:04d}")

    def interactions(self) -> list[InteractionDir]:
        """All interactions that have begun, in order."""
        return [InteractionDir(p) for p in sorted((self.path / "interactions").glob("[0-9]*"))]

    def evaluation(self, trained: int) -> Path:
        """Directory of the evaluation after ``trained`` interactions (0: the start model)."""
        return self.path / "evaluations" / f"{trained:04d}"

    def evaluations(self) -> dict[int, Metrics]:
        """Metrics of all finished evaluations, by number of interactions trained."""
        found = sorted((self.path / "evaluations").glob("[0-9]*/metrics.json"))
        return {int(p.parent.name): read_record(Metrics, p) for p in found}

    def state(self) -> State | None:
        """What ``state.json`` says; None before the run began."""
        return read_record(State, self.state_file) if self.state_file.exists() else None

    def kept(self) -> Kept | None:
        """What ``best/kept.json`` says; None while the run has not finished."""
        return read_record(Kept, self.kept_file) if self.kept_file.exists() else None

    def train_prompts(self) -> list[Prompt]:
        return [r.prompt for r in read_records(PromptRecord, self.prompts / "train.jsonl")]

    def eval_prompts(self) -> list[Prompt]:
        return [r.prompt for r in read_records(PromptRecord, self.prompts / "eval.jsonl")]


def open_run(path: Path) -> RunDir:
    """The run of a directory. UserError where it holds none, or one of another format (``state.json`` says which)."""
    run = RunDir(path)
    if not run.config.is_file():
        raise UserError(f"{path}: not a run directory (no config.yaml in it)")
    run.state()
    return run
