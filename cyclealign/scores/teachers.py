"""Teachers of ``cyclealign score``: whoever can rank or score, by name, or the scores that stand in the file.

A teacher knows what it gives: magnitudes, levels, or an order alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclealign.losses import losses_fed_by
from cyclealign.rankers.by_name import RankerSpec, code_digest, fitted_file, ranker_spec
from cyclealign.scores.sidecar import Gives
from cyclealign.types import UserError

FILE = "file"  # the teacher that is the scores of the input file


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """``--teacher KIND:PLACE``, checked but not loaded. ``ranker``: None where the file's own scores are meant."""

    ranker: RankerSpec | None
    gives: Gives

    @property
    def name(self) -> str:
        return FILE if self.ranker is None else self.ranker.name

    @property
    def listwise(self) -> bool:
        """Whether it looks at whole lists, so that they are committed whole."""
        return self.ranker is not None and not self.ranker.kind.scores


def parse_teacher(spec: str, options: Sequence[str], *, file_gives: Gives) -> TeacherSpec:
    """What a name on the command line asks for.

    Args:
        options: ``key=value`` of the black_box section, for judges.
        file_gives: what the scores in the file are, for the teacher ``file``.

    Raises:
        UserError: as ``ranker_spec``, and for a recording that cannot be read.
    """
    if spec == FILE:
        return TeacherSpec(ranker=None, gives=file_gives)
    found = ranker_spec(spec, options, flag="--teacher", besides=FILE)
    # What is kept is a utility for each pair: of votes the magnitudes alone.
    return TeacherSpec(ranker=found, gives="magnitude" if found.gives == "votes" else found.gives)


def check_feeds(specs: Sequence[TeacherSpec], loss: str) -> None:
    """UserError where a teacher cannot feed a loss, naming those that it can."""
    known = losses_fed_by("magnitude")
    if loss not in known:
        raise UserError(f"--for: expected one of {', '.join(known)}; got {loss!r}")
    for spec in specs:
        fed = losses_fed_by(spec.gives)
        if loss not in fed:
            raise UserError(
                f"--for {loss}: needs magnitudes, but {spec.name} gives {described(spec.gives)};"
                f" it can feed {', '.join(fed)}"
            )


def described(gives: Gives) -> str:
    return {"order": "an order alone", "magnitude": "magnitudes", "levels": "levels"}[gives]


def provenance(spec: RankerSpec, settings: Mapping[str, object]) -> dict[str, object]:
    """What makes a teacher the same one again."""
    found: dict[str, object] = {"kind": spec.kind.name, "model": spec.place, **settings}
    if not spec.kind.scores:
        kept = {"base_url", "template", "passes", "reasoning", "request"}
        found |= {k: v for k, v in spec.box.model_dump(mode="json").items() if k in kept}
    weights = fitted_file(spec) if spec.kind.place == "RUN" else Path(spec.place)
    if code := code_digest(spec):
        found["sha256"] = code
    elif spec.place and weights.exists():
        found["sha256"] = fingerprint(weights)
    return found


def fingerprint(path: Path) -> str:
    """sha256 over a file, or over the names and contents of a directory's files."""
    total = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        total.update(f"{name}\0{digest}\0".encode())
    return total.hexdigest()
