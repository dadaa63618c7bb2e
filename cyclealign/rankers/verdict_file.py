"""Where ``cyclealign rank`` puts its verdicts: on the terminal, or in a file that a second start goes on with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cyclealign.files.jsonl import Appender, write_jsonl
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_records import Verdict, read_verdicts, verdict_record
from cyclealign.types import Unranked, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """What the verdicts of a file depend on, kept beside it. ``input``, ``settings``: sha256."""

    FORMAT: ClassVar[int] = 1

    input: str
    ranker: str
    seed: int
    settings: str


class Verdicts:
    """The verdicts of one job. ``kept``: those on record, by prompt id, without those that are asked again; ``left``:
    the latter, of this process.

    Nothing is written before the first verdict arrives: a job that fails leaves the file as it was.

    Raises:
        UserError: the file, or the one beside it, holds something else, or verdicts of another job.
    """

    def __init__(self, path: Path | None, made_by: MadeBy) -> None:
        self._path = path
        self._made_by = made_by
        self._file: Appender | None = None
        self.left: list[Unranked] = []
        self.kept: dict[str, Verdict] = {}
        if path is not None and path.exists() and path.stat().st_size:
            self._check(path)
            self.kept = {i: v for i, v in read_verdicts(path).items() if _left(v) is None}
        elif path is not None and _beside(path).exists():
            read_record(MadeBy, _beside(path))  # of a file that was removed; anything else is not written over

    def add(self, verdict: Verdict) -> None:
        """One verdict a line, as they come."""
        if (left := _left(verdict)) is not None:
            self.left.append(left)
        else:
            self.kept[verdict.prompt_id] = verdict
        if self._path is None:
            print(json.dumps(verdict_record(verdict), ensure_ascii=False), flush=True)
            return
        if self._file is None:
            self._file = self._begun(self._path)
        self._file.add(verdict_record(verdict))

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        elif self._path is not None and not self._path.exists():
            self._path.touch()

    def _begun(self, path: Path) -> Appender:
        """The file with what is kept of it, one line a set: what failed before is asked again."""
        before = [v for i, v in read_verdicts(path).items() if _left(v) is None]
        try:
            write_record(_beside(path), self._made_by)
            write_jsonl(path, map(verdict_record, before))
        except OSError as error:
            raise UserError(f"--out {path}: cannot be written: {error.strerror}") from error
        return Appender(path)

    def _check(self, path: Path) -> None:
        if not _beside(path).exists():
            raise UserError(f"--out {path}: is there, and not from cyclealign rank; choose another name")
        found = read_record(MadeBy, _beside(path))
        for name in ("input", "ranker", "seed", "settings"):
            if getattr(found, name) != getattr(self._made_by, name):
                raise UserError(
                    f"--out {path}: holds verdicts of another job (its {name} differs); choose another name, or remove"
                    " the file"
                )


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.about.json")


def _left(verdict: Verdict) -> Unranked | None:
    """The verdict, where it is none that stands: a call that failed, or that the budget did not reach."""
    return verdict if isinstance(verdict, Unranked) and verdict.reason in ("error", "budget") else None
