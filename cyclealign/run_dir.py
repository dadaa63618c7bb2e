"""The run directory: files are the state (docs/run_directory.md). Records in, records out, atomic where it matters.

Append-only JSONL files tolerate a torn last line (a killed process); everything else is written aside and renamed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from cyclealign.atomic import write_atomic
from cyclealign.types import Candidate, CandidateSet, Cascaded, Prompt, Ranking, Unranked, UserError

Verdict = Ranking | Unranked


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def read_jsonl(path: Path) -> Iterator[Any]:
    """Records of a file, none when it is missing. A last line without its newline is what a kill left: skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


class Appender:
    """Appends records to a JSONL file, each with one write, after cutting off a torn last line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            whole = path.read_bytes().rfind(b"\n") + 1
            os.truncate(path, whole)
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def add(self, record: Any) -> None:
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def prompt_record(prompt: Prompt) -> dict[str, Any]:
    record: dict[str, Any] = {"prompt_id": prompt.id, "messages": list(prompt.messages)}
    if prompt.chosen is not None and prompt.rejected is not None:
        record |= {"chosen": prompt.chosen, "rejected": prompt.rejected}
    return record


def prompt_from(record: dict[str, Any]) -> Prompt:
    return Prompt(tuple(record["messages"]), record.get("chosen"), record.get("rejected"))


def set_record(item: CandidateSet) -> dict[str, Any]:
    candidates = [dataclasses.asdict(c) for c in item.candidates]
    return {**prompt_record(item.prompt), "candidates": candidates, "drawn": item.drawn}


def set_from(record: dict[str, Any]) -> CandidateSet:
    candidates = tuple(Candidate(**c) for c in record["candidates"])
    return CandidateSet(prompt_from(record), candidates, record["drawn"])


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    if isinstance(verdict, Unranked):
        return {"prompt_id": verdict.prompt_id, "unranked": verdict.reason, "detail": verdict.detail}
    record: dict[str, Any] = {"prompt_id": verdict.prompt_id, "tiers": verdict.tiers}
    extras = {
        "scores": verdict.scores,
        "votes": verdict.votes,
        "confidence": verdict.confidence,
        "passes": verdict.passes or None,
        "cascade": verdict.cascade and verdict.cascade.record(),
    }
    return record | {k: v for k, v in extras.items() if v is not None}


def verdict_from(record: dict[str, Any]) -> Verdict:
    if "unranked" in record:
        return Unranked(record["prompt_id"], record["unranked"], record.get("detail", ""))
    return Ranking(
        prompt_id=record["prompt_id"],
        tiers=tuple(tuple(t) for t in record["tiers"]),
        scores=record.get("scores"),
        votes=record.get("votes"),
        confidence=record.get("confidence"),
        passes=tuple(tuple(p) for p in record.get("passes", ())),
        cascade=Cascaded.from_record(record["cascade"]) if "cascade" in record else None,
    )


def read_sets(path: Path) -> dict[str, CandidateSet]:
    """Candidate sets of a ``candidates.jsonl``, by prompt id."""
    return {r["prompt_id"]: set_from(r) for r in read_jsonl(path)}


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Rankings and unranked items of a ``*_box.jsonl``, by prompt id."""
    return {r["prompt_id"]: verdict_from(r) for r in read_jsonl(path)}


def read_rankings(path: Path) -> dict[str, Ranking]:
    return {i: v for i, v in read_verdicts(path).items() if isinstance(v, Ranking)}


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

    def evaluations(self) -> dict[int, dict[str, Any]]:
        """Metrics of all finished evaluations, by number of interactions trained."""
        found = sorted((self.path / "evaluations").glob("[0-9]*/metrics.json"))
        return {int(p.parent.name): read_json(p) for p in found}

    def state(self) -> dict[str, Any]:
        """What ``state.json`` says; empty before the run began."""
        return dict(read_json(self.state_file)) if self.state_file.exists() else {}

    def train_prompts(self) -> list[Prompt]:
        return [prompt_from(r) for r in read_jsonl(self.prompts / "train.jsonl")]

    def eval_prompts(self) -> list[Prompt]:
        return [prompt_from(r) for r in read_jsonl(self.prompts / "eval.jsonl")]
