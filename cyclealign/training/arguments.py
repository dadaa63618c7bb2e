"""From the ``training`` section to transformers' TrainingArguments, and from lists to optimiser steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cyclealign.config.training_keys import check_training
from cyclealign.types import UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from cyclealign.config.schema import Config


def training_defaults(config: Config) -> dict[str, Any]:
    """Where the ``training`` section is silent and transformers' defaults do not fit. Batches are lists."""
    cuda = torch.cuda.is_available()
    return {
        "learning_rate": 5e-6 if config.policy.lora is None else 1e-4,
        "num_train_epochs": 1.0,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "run_name": config.name,
        "disable_tqdm": True,  # the run shows its own progress, over all stages
        "use_cpu": not cuda,
        "bf16": cuda and config.policy.dtype == "bfloat16",
        "fp16": cuda and config.policy.dtype == "float16",
        "dataloader_pin_memory": cuda,
        # Every list passes through every weight; looking for unused ones costs a walk over the graph each
        # step.
        "ddp_find_unused_parameters": False,
        # The reentrant form cuts the graph between a cached prompt and its responses.
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


def training_arguments(config: Config, *, output_dir: Path, seed: int, max_steps: int) -> TrainingArguments:
    """Arguments of one interaction's Trainer.

    Raises:
        UserError: an unknown key (naming the nearest), one that the run owns, or a value that is refused.
    """
    from transformers import TrainingArguments

    check_training(config.training)
    owned = {
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "max_steps": max_steps,
        "remove_unused_columns": False,
        # One checkpoint, at the last step; the data is laid out in order, so nothing is skipped on the way
        # in.
        "save_strategy": "steps",
        "save_steps": 10**9,  # the last step saves in any case, and a constant is the same in every checkpoint
        "ignore_data_skip": True,
        "train_sampling_strategy": "sequential",
    }
    try:
        arguments = TrainingArguments(**{**training_defaults(config), **config.training, **owned})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"training: {str(error).splitlines()[0]}") from error
    # Several GPUs without a launcher would become DataParallel, which splits a prompt's candidates.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def optimizer_steps(config: Config, lists: int, processes: int = 1) -> int:
    """Optimiser steps of one interaction over ``lists`` training lists."""
    values = {**training_defaults(config), **config.training}
    batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * processes
    return math.ceil(max(1, round(lists * values["num_train_epochs"])) / batch) if lists else 0


def training_order(lists: int, epochs: float, seed: int) -> list[int]:
    """Indices in the order of training: a fresh permutation for each epoch, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    order = [i for _ in range(math.ceil(epochs)) for i in torch.randperm(lists, generator=generator).tolist()]
    return order[: max(1, round(lists * epochs))]
