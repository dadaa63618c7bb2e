"""Weights on disk: an adapter or a whole model, written aside and renamed.

An interaction's directory holds ``adapter/`` (or ``model/`` after full fine-tuning), which generators read, and
``checkpoint/`` (optimiser, schedule, random states), from which the next interaction goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cyclealign.files.atomic import flush, flush_tree
from cyclealign.files.jsonl import read_json
from cyclealign.models.sharded import all_cut_as
from cyclealign.types import UserError

# What the Trainer's checkpoint holds besides optimiser, schedule and random states.
WEIGHT_FILES = ("adapter_*", "model*.safetensors*", "config.json", "generation_config.json")
STATE = "trainer_state.json"
LEFT_OUT = ("README.md", "training_args.bin", "pytorch_model_fsdp.bin")


def save_policy(
    model: Any, directory: Path, tokenizer: Any | None = None, *, state: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Save an adapter (PEFT model) or the full checkpoint in safetensors: written aside, then renamed.

    ``state``: the weights of a model that is cut (``sharded.whole_state``).
    """
    with written_aside(directory) as aside:
        model.save_pretrained(aside, state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)


@contextmanager
def written_aside(directory: Path) -> Iterator[Path]:
    """Where to write what takes the place of ``directory`` once it is whole; of what fails nothing is left aside."""
    aside = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield aside
        put_in_place(aside, directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def check_weights(directory: Path) -> None:
    """Whether a saved adapter or model is one: every file whole, every weight a finite number.

    Raises:
        UserError: naming the file and the tensor.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError(f"no weights (*.safetensors) in {directory}; was the run directory moved or cleaned?")
    for file in files:
        for name, tensor in _tensors(file).items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{file}: {name} holds NaN or infinite weights: the training diverged")
    read_json(directory / ("adapter_config.json" if is_adapter(directory) else "config.json"))
    _check_shards(directory, files)


def is_adapter(directory: Path) -> bool:
    return (directory / "adapter_config.json").exists() or (directory / "adapter_model.safetensors").exists()


def check_base(directory: Path, base: str) -> None:
    """UserError where an adapter was trained on another model than ``base``, as paths or hub ids have it."""
    named = read_json(directory / "adapter_config.json").get("base_model_name_or_path")
    if named is not None and Path(named).name != Path(base).name:
        raise UserError(f"{directory}: is an adapter of {named}, expected one of {base}")


def _check_shards(directory: Path, files: Sequence[Path]) -> None:
    """A model in several files has an index, which names them all."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict):
        raise UserError(f"{index}: names no files (weight_map); put it back from a copy")
    if missing := sorted(set(map(str, named.values())) - {file.name for file in files}):
        raise UserError(f"{directory / missing[0]}: is not there; put it back from a copy")


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, whose header is held against its size."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: is damaged or cut short ({error}); put it back from a copy") from error


def load_weights(model: Any, directory: Path) -> None:
    """Load what ``save_policy`` saved into a model of the same kind.

    Raises:
        UserError: the directory holds no such weights: damaged, not finite, lacking, or of another model.
    """
    check_weights(directory)
    state = {n: tensor for file in sorted(directory.glob("*.safetensors")) for n, tensor in _tensors(file).items()}
    if is_adapter(directory):
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        own = get_peft_model_state_dict(model)
        _check_same(directory, own, state)
        set_peft_model_state_dict(model, all_cut_as(own, state))
        return
    own = {n: t for n, t in model.state_dict().items() if n in state}
    _check_same(directory, own, state)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    missing = [n for n in model.load_state_dict(all_cut_as(own, state), strict=False).missing_keys if n not in tied]
    if missing:
        raise UserError(f"the weights in {directory} lack {missing[0]} and {len(missing) - 1} more; wrong model?")


def _check_same(directory: Path, own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    """UserError where names or shapes of saved tensors are not those of the model's own."""
    for name in sorted(own.keys() | saved.keys()):
        ours, theirs = (tuple(s[name].shape) if name in s else None for s in (own, saved))
        if ours != theirs:
            why = f"{name}: expected {ours or 'no such tensor'}, got {theirs or 'none'}"
            raise UserError(f"the weights in {directory} are of another model ({why})")


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


def unfinished(work: Path) -> Path | None:
    """The latest checkpoint of a Trainer that was cut short, whole: its state is written last. Another number of
    processes may have written it: what random states there are is not asked, since nothing is drawn in training."""
    found = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    return next((p for p in found if _is_json(p / STATE)), None)


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def carry_over(start: Path, out: Path) -> None:
    """Copy an interaction's weights and state to another's directory, over what a killed attempt left there."""
    for part in (p for p in ("adapter", "model", "checkpoint") if (start / p).is_dir()):
        shutil.copytree(start / part, out / part, dirs_exist_ok=True)
        flush_tree(out / part)


def put_in_place(aside: Path, directory: Path) -> None:
    """Flush a finished directory and rename it to its name, replacing what a killed attempt left there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    flush_tree(aside)
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)
    flush(directory.parent)
