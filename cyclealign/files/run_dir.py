"""Paths of a run and its interactions; create, lock, ``open_run``.

Append-only JSONL files tolerate a torn last line (a killed process); everything else is written aside and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cyclealign.files.atomic import write_atomic
from cyclealign.files.began import MARKER, Began, began, check_unchanged, lines_of
from cyclealign.files.held_out_lists import HeldOutList
from cyclealign.files.locks import LOCK, Lock
from cyclealign.files.records import read_record, read_records, write_record
from cyclealign.files.run_figures import Metrics
from cyclealign.files.run_records import PromptRecord, StoredPrompts, prompt_record
from cyclealign.files.run_state import Kept, ListsTaken, State
from cyclealign.types import Prompt, UserError

# What a run writes before its first candidate, and may write again.
BEGINNING = (
    *("config.yaml", "environment.json", "state.json"),
    *(f"prompts/{n}" for n in ("train.jsonl", "eval.jsonl", "template.yaml", "demonstrations.jsonl", "versions.json")),
    *("prompts/ranker.py", "prompts/scorer.py", "prompts/loss.py"),
)


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
        self.began_file = path / MARKER
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.prompts = path / "prompts"
        self.ledger = path / "ledger.sqlite"
        self.answers = path / "answers.jsonl"
        self.state_file = path / "state.json"
        self.timings = path / "timings.jsonl"
        self.best = path / "best"
        self.kept_file = self.best / "kept.json"
        self.start = path / "start"
        self.report = path / "report.html"
        self.lists_file = path / "lists.json"  # of a run over lists that exist
        self.held_out = InteractionDir(path / "held_out")  # those of them that only measure
        self._lock: Lock | None = None

    def create(
        self, config_yaml: str, train: Sequence[Prompt] = (), held_out: Sequence[Prompt] = (), *, processes: int = 1
    ) -> None:
        """Begin a new run: marker, config and prompts; refuse a directory that holds work, or is not ours.

        Of a run that ended before its first candidate, what it had written at its start is written anew.
        """
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir: cannot make {self.path}: {error.strerror}") from error
        self.lock()
        try:
            self.check_free()
            prompts = {f"prompts/{name}.jsonl": p for name, p in (("train", train), ("eval", held_out))}
            files = {name: lines_of(_lines(p)) for name, p in prompts.items()}
            write_record(self.began_file, Began(what="run", config=config_yaml, files=files, processes=processes))
            for stale in BEGINNING:
                (self.path / stale).unlink(missing_ok=True)
            write_atomic(self.path / "config.yaml", config_yaml)
            for name, found in prompts.items():
                write_atomic(self.path / name, _lines(found))
        except BaseException:
            self.unlock()
            raise

    def check_free(self) -> None:
        """UserError where no run can begin here."""
        began(self.path, "run")
        work = [p for folder in ("interactions", "evaluations") for p in (self.path / folder).glob("*/*.jsonl")]
        if work or self.start.exists() or self.best.exists():
            raise UserError(
                f"run directory {self.path} already holds a run: continue it with `cyclealign resume {self.path}`,"
                " or choose another name (name=...) or output_dir"
            )

    def began(self) -> Began:
        """What the run began with. UserError where its marker is not there, or its prompts are others."""
        found = began(self.path, "run")
        if found is None:
            raise UserError(f"{self.path}: no run began here (no {MARKER})")
        check_unchanged(self.path, found)
        return found

    def lock(self) -> None:
        """One process writes; the lock dies with the process."""
        self._lock = Lock(self.path / LOCK, f"run directory {self.path}")

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
        """What ``state.json`` says, or where a power cut left none, what the other files do; None before the run
        began. Nothing depends on it but what people are shown: a resume writes its own."""
        try:
            json.loads(self.state_file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return self._state_of_files()
        return read_record(State, self.state_file)

    def _state_of_files(self) -> State | None:
        begun, found = self.interactions(), self.evaluations()
        if not begun and not found:
            return None
        finished = self.kept_file.exists()
        return State(
            stage="finished" if finished else "building",
            launch="",
            pid=0,
            at=self.path.stat().st_mtime,
            judge="openai" if self.ledger.exists() else "local",
            interaction=len(begun) - 1 if begun else None,
            values={},
            ended=None if finished else "lost",
            why=None if finished else "state.json cannot be read",
        )

    def kept(self) -> Kept | None:
        """What ``best/kept.json`` says; None while the run has not finished."""
        return read_record(Kept, self.kept_file) if self.kept_file.exists() else None

    def lists(self) -> ListsTaken | None:
        """The lists that a run has taken from elsewhere; None where it samples its own, or has not read them yet."""
        return read_record(ListsTaken, self.lists_file) if self.lists_file.exists() else None

    def held_out_lists(self, trained: int) -> list[HeldOutList]:
        """What an evaluation found on the held-out lists; empty where there is none."""
        return list(read_records(HeldOutList, self.evaluation(trained) / "lists.jsonl"))

    def train_prompts(self) -> Sequence[Prompt]:
        """All of them, each read when it is asked for: eight bytes of memory a prompt."""
        return StoredPrompts(self.prompts / "train.jsonl")

    def eval_prompts(self) -> list[Prompt]:
        return [r.prompt for r in read_records(PromptRecord, self.prompts / "eval.jsonl")]


def open_run(path: Path) -> RunDir:
    """The run of a directory. UserError where it holds none, or one of another format (``state.json`` says which)."""
    run = RunDir(path)
    if not run.config.is_file():
        raise UserError(f"{path}: not a run directory (no config.yaml in it)")
    run.state()
    return run


def _lines(prompts: Sequence[Prompt]) -> Iterator[str]:
    return (json.dumps(prompt_record(p), ensure_ascii=False) + "\n" for p in prompts)
