"""The ``training`` section: names and types of transformers' TrainingArguments, checked before a run begins."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal

from cyclealign.config.schema import OWNED_TRAINING_KEYS
from cyclealign.config.training_types import KEYS
from cyclealign.types import UserError

# Where the value would only fail after candidates were made and paid for.
LEAST = {
    "learning_rate": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "warmup_steps": 0.0,
    "num_train_epochs": 0.0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "torch_empty_cache_steps": 1,
}


def check_training(training: Mapping[str, Any]) -> None:
    """Refuse names that TrainingArguments does not have, names that the run owns, and values of a wrong type.

    Raises:
        UserError: naming the key.
    """
    if not training:
        return
    for key, value in training.items():
        if key in OWNED_TRAINING_KEYS:
            raise UserError(f"training.{key}: set by the run itself (see seed, output_dir, cycle); remove it")
        if key == "hub_token":
            raise UserError("training.hub_token: a secret would be written to the run directory; use `hf auth login`")
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean training.{close[0]}?" if close else "; its keys are transformers.TrainingArguments"
            raise UserError(f"unknown key training.{key}{hint}")
        _check_value(key, value, KEYS[key])
    _check_together(training)


def _check_value(key: str, value: Any, annotation: Any) -> None:
    from pydantic import TypeAdapter, ValidationError

    options = typing.get_args(annotation) or (annotation,)
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
    if choices:
        if value not in choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; one of {', '.join(map(str, choices))}"
            raise UserError(f"training.{key}: {json.dumps(value)} is not known{hint}")
        return
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        names = " or ".join(_readable_type(o) for o in options)
        raise UserError(f"training.{key}: expected {names}, got {json.dumps(value)}") from error
    if value is not None and key in LEAST and value < LEAST[key]:
        raise UserError(f"training.{key}: expected a value >= {LEAST[key]}, got {value}")


def _check_together(training: Mapping[str, Any]) -> None:
    """Values that are fine one by one; transformers refuses them when training begins."""
    if training.get("fp16") and training.get("bf16"):
        raise UserError("training.fp16: true beside training.bf16; keep one of them")
    by_steps = training.get("logging_strategy", "steps") == "steps"
    every = training.get("logging_steps", 1)
    if by_steps and (every == 0 or (every > 1 and every != int(every))):
        raise UserError(f"training.logging_steps: expected a whole number or a share of all steps, got {every}")
    if training.get("dataloader_prefetch_factor") is not None and not training.get("dataloader_num_workers"):
        raise UserError("training.dataloader_prefetch_factor: needs training.dataloader_num_workers >= 1")


def _readable_type(option: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    base = typing.get_origin(option) or option
    return names.get(option) or {list: "a list", dict: "a section"}.get(base) or str(option)
