"""Weights on disk: an adapter or a whole model, written aside and renamed.

An interaction's directory holds ``adapter/`` (or ``model/`` after full fine-tuning), which generators read, and
``checkpoint/`` (optimiser, schedule, random states), from which the next interaction goes on.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from cyclealign.types import UserError

# What the Trainer's checkpoint holds besides optimiser, schedule and random states.
WEIGHT_FILES = ("adapter_*", "model*.safetensors*", "config.json", "generation_config.json")
LEFT_OUT = ("README.md", "training_args.bin")


def save_policy(model: Any, directory: Path, tokenizer: Any | None = None) -> None:
    """Save an adapter (PEFT model) or the full checkpoint in safetensors: written aside, then renamed."""
    aside = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)
    put_in_place(aside, directory)


def load_weights(model: Any, directory: Path) -> None:
    """Load what ``save_policy`` saved into a model of the same kind.

    Raises:
        UserError: the directory holds no such weights.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError(f"no weights (*.safetensors) in {directory}; was the run directory moved or cleaned?")
    state = {name: tensor for file in files for name, tensor in load_file(file).items()}
    if (directory / "adapter_config.json").is_file():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, state)
        return
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    missing = [n for n in model.load_state_dict(state, strict=False).missing_keys if n not in tied]
    if missing:
        raise UserError(f"the weights in {directory} lack {missing[0]} and {len(missing) - 1} more; wrong model?")


def publish(finished: Path, out: Path, *, tokenizer: Any | None = None) -> None:
    """Take a Trainer's checkpoint apart: weights for the generator, state for the next interaction.

    Args:
        finished: the Trainer's ``checkpoint-N``; it is gone afterwards.
        out: an interaction's directory; takes ``checkpoint/`` and the weights, each put there whole.
        tokenizer: of a whole model, saved with it into ``model/``; None: the weights are an adapter.
    """
    aside = out / f".weights.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for file in (f for pattern in WEIGHT_FILES for f in finished.glob(pattern)):
        file.rename(aside / file.name)
    for name in LEFT_OUT:
        (finished / name).unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)
    put_in_place(finished, out / "checkpoint")
    put_in_place(aside, out / ("adapter" if tokenizer is None else "model"))


def carry_over(start: Path, out: Path) -> None:
    """Copy an interaction's weights and state to another's directory, over what a killed attempt left there."""
    for part in (p for p in ("adapter", "model", "checkpoint") if (start / p).is_dir()):
        shutil.copytree(start / part, out / part, dirs_exist_ok=True)


def put_in_place(aside: Path, directory: Path) -> None:
    """Rename a finished directory to its name, replacing what a killed attempt left there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)
