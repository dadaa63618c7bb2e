"""What ``cyclealign score`` is asked for, checked before anything is loaded or paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclealign.scores.calibration import check_method
from cyclealign.scores.formats import ORDER_ONLY, READERS, WRITERS, detect, read_as
from cyclealign.scores.sidecar import Gives, recorded_gives
from cyclealign.scores.teachers import TeacherSpec, check_feeds, described, parse_teacher
from cyclealign.types import UserError


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """What the command line asks for.

    file: candidates, in a format of ``scores.formats``. write: ``FORMAT:PATH``. loss: what the scores are for.
    file_gives: what the scores in the file are, where that does not follow from its format. options: ``key=value`` of
    the black_box section.
    """

    file: Path
    store: Path
    teachers: tuple[str, ...]
    format: str = "auto"
    queries: Path | None = None
    documents: Path | None = None
    file_gives: Gives | None = None
    calibrate: str = "raw"
    write: str | None = None
    loss: str | None = None
    options: tuple[str, ...] = ()
    seed: int = 42


def checked_metric(spec: str) -> str:
    """``--metric``: a teacher on a scale of its own that people read."""
    if not spec.startswith("coherence:") or spec == "coherence:":
        raise UserError(f"--metric: expected coherence:PATH, a directory of cyclealign distill quantidce; got {spec!r}")
    return spec


def input_format(job: ScoreJob) -> str:
    """The format of the input file, named or seen."""
    if job.format != "auto" and job.format not in READERS:
        raise UserError(f"--format: expected auto, {', '.join(READERS)}; got {job.format!r}")
    if job.format == "auto":
        return detect(job.file, ids=job.queries is not None or job.documents is not None)
    if not job.file.exists():
        raise UserError(f"{job.file}: no such file")
    return job.format


def checked_teachers(job: ScoreJob, format: str) -> list[TeacherSpec]:
    """The teachers, checked against each other, the calibration and the loss; nothing is loaded."""
    if not job.teachers:
        raise UserError("--teacher or --metric: at least one is needed")
    file_gives: Gives = job.file_gives or recorded_gives(job.file) or read_as(job.file, format)
    specs = [parse_teacher(spec, job.options, file_gives=file_gives) for spec in dict.fromkeys(job.teachers)]
    check_method(job.calibrate)
    ordinal = [spec for spec in specs if spec.gives != "magnitude"]
    if ordinal and (len(specs) > 1 or job.calibrate != "raw"):
        what = "averaged" if len(specs) > 1 else "calibrated"
        raise UserError(f"{ordinal[0].name} gives {described(ordinal[0].gives)}, which cannot be {what}")
    if job.loss is not None:
        check_feeds(specs, job.loss)
    return specs


def target_of(job: ScoreJob, specs: Sequence[TeacherSpec]) -> tuple[str, Path] | None:
    """Format and path of what is to be written."""
    if job.write is None:
        return None
    format, _, path = job.write.partition(":")
    if format not in WRITERS or not path:
        raise UserError(f"--write: expected FORMAT:PATH with one of {', '.join(WRITERS)}; got {job.write!r}")
    if Path(path).exists():
        raise UserError(f"--write: {path} is there already; remove it, or write elsewhere")
    for spec in specs:
        if spec.gives != "magnitude" and format not in ORDER_ONLY:
            raise UserError(
                f"--write {format}: its readers take scores for magnitudes, but {spec.name} gives"
                f" {described(spec.gives)}; use {' or '.join(ORDER_ONLY)}"
            )
    return format, Path(path)
