"""What every distiller does with its run directory and its trainer; the method itself is elsewhere."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from cyclealign.config.extras import require_extra
from cyclealign.config.training_keys import check_training
from cyclealign.distill.config import DistillConfig
from cyclealign.files.atomic import write_atomic
from cyclealign.files.began import MARKER, Began, began
from cyclealign.files.environment import warn_of_untested
from cyclealign.files.jsonl import read_json
from cyclealign.files.locks import LOCK, held
from cyclealign.files.records import FileRecord, read_record, write_record
from cyclealign.files.strict_yaml import write_yaml
from cyclealign.models.processes import default_device, is_main
from cyclealign.types import UserError

F = TypeVar("F", bound=FileRecord)
log = logging.getLogger(__name__)
STOOD = 0.98  # of the first quarter's mean loss, in the last one: nothing was learned


def once(kind: type[F], config: DistillConfig, train: Callable[[], F], *, sentence_transformers: bool = True) -> F:
    """What ``train`` returns, written as ``summary.json``, the last file of a run: with it the run has ended, and the
    next call returns it without training. One process does this in a directory; the processes of one launch share it.

    Args:
        sentence_transformers: whether the run trains with it; it must then be installed.

    Raises:
        UserError: sentence-transformers is not installed, another process trains here; and as ``claim``.
    """
    if sentence_transformers:
        require_extra("sentence_transformers", "retrieval", "cyclealign distill")
    began(config.run_dir, "distillation")  # in somebody else's directory not even a lock is made
    with held(config.run_dir, f"{config.run_dir}") if is_main() else nullcontext():
        if (ended := claim(kind, config)) is not None:
            return ended
        if is_main():
            warn_of_untested()
        summary = train()
        write_record(config.run_dir / "summary.json", summary)
        return summary


def claim(kind: type[F], config: DistillConfig) -> F | None:
    """The run's directory holds the config and what its files were; a directory of another run is not touched.

    A directory that holds these alone, as a run leaves that ended on a mistake, is free for another one.

    Returns the summary, a record of ``kind``, of a run that has already ended.

    Raises:
        UserError: a directory that is not empty and no distillation's, another config in it, files that have changed
            since, or unknown training arguments.
    """
    check_training(config.training)
    path, inputs = config.run_dir / "config.yaml", config.run_dir / "inputs.json"
    marker, lock = config.run_dir / MARKER, config.run_dir / LOCK
    if began(config.run_dir, "distillation") is None:
        write_record(marker, Began(what="distillation"))
    text, digests = write_yaml(config.model_dump(mode="json")), _digests(config.model_dump())
    if path.exists() and any(entry not in (path, inputs, marker, lock) for entry in config.run_dir.iterdir()):
        if path.read_text(encoding="utf-8") != text:
            raise UserError(f"{config.run_dir}: holds a distillation with another config; choose another name")
        known = read_json(inputs)
        if changed := sorted(file for file in digests if digests[file] != known.get(file)):
            raise UserError(f"{config.run_dir}: {changed[0]} has changed since this run began; choose another name")
    write_atomic(path, text)
    write_atomic(inputs, json.dumps(digests, indent=2) + "\n")
    ended = config.run_dir / "summary.json"
    return read_record(kind, ended) if ended.exists() else None


def _digests(section: Mapping[str, object]) -> dict[str, str]:
    """sha256 of every file that a config names; the cache of a teacher's vectors, which grows, knows its teacher."""
    found: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found |= _digests(value)
        elif isinstance(value, Path) and value.is_file() and key != "vectors":
            with value.open("rb") as file:
                found[str(value)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def training_arguments(config: DistillConfig, stage: str = "checkpoints", **defaults: Any) -> dict[str, Any]:
    """Keyword arguments for any of transformers' argument classes: ours, the method's defaults, the user's, the run's.

    ``stage``: folder of the run directory that takes the checkpoints.
    """
    ours: dict[str, Any] = {
        "report_to": [],
        "logging_steps": 10,
        "lr_scheduler_type": "constant",
        "dataloader_pin_memory": default_device() == "cuda",
    }
    own = {
        "output_dir": str(config.run_dir / stage),
        "seed": config.seed,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        **({} if config.steps is None else {"max_steps": config.steps}),
    }
    return {**ours, **defaults, **config.training, **own}


def train_or_resume(trainer: Any) -> tuple[float | None, float | None]:
    """Train, or go on from the last whole checkpoint of the trainer's folder; first and last logged loss.

    A loss that stood still is warned of: the model is saved, and looks like any other.
    """
    # transformers writes this file last and takes the newest folder for whole, also where a kill left it half written.
    whole = [file.parent for file in Path(trainer.args.output_dir).glob("checkpoint-*/trainer_state.json")]
    last = max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    _warn_if_it_stood(losses)
    return (losses[0], losses[-1]) if losses else (None, None)


def _warn_if_it_stood(losses: Sequence[float]) -> None:
    if (quarter := len(losses) // 4) == 0:
        return
    first, last = fmean(losses[:quarter]), fmean(losses[-quarter:])
    if last > STOOD * first > 0:
        log.warning(
            "the loss stood still: %.4g in the first quarter of the steps, %.4g in the last; try student.dropout=0"
            " (small encoders that read two texts as one may learn nothing with it), more steps, or another"
            " training.learning_rate",
            first,
            last,
        )
