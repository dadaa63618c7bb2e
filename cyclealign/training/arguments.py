"""From the ``training`` section to transformers' TrainingArguments, and from lists to optimiser steps."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.utils import enable_tf32, is_torch_bf16_gpu_available, is_torch_tf32_available

from cyclealign.config.training_keys import check_training
from cyclealign.models.dtypes import compute_dtype
from cyclealign.models.processes import default_device
from cyclealign.types import UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import Config


# Schedules that follow a figure which the Trainer would have to measure.
NEED_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")


def training_defaults(config: Config) -> dict[str, Any]:
    """Where the ``training`` section is silent and transformers' defaults do not fit. Batches are lists."""
    cuda = default_device() == "cuda"
    dtype = compute_dtype(config.policy, default_device())
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
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "dataloader_pin_memory": cuda,
        # Every list passes through every weight; looking for unused ones costs a walk over the graph each
        # step.
        "ddp_find_unused_parameters": False,
        # The reentrant form cuts the graph between a cached prompt and its responses.
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


def training_values(config: Config) -> dict[str, Any]:
    """The ``training`` section over ``training_defaults``: what a run knows of its training without a Trainer."""
    return {**training_defaults(config), **config.training}


def check_arguments(config: Config) -> None:
    """Refuse what TrainingArguments or its Trainer would only refuse after candidates were made and paid for.

    Raises:
        UserError: an unknown key (naming the nearest), one that the run owns, a value of a wrong type, or one that
            neither the run nor this machine can follow.
    """
    check_training(config.training)
    values = training_values(config)
    if values.get("lr_scheduler_type") in NEED_EVALUATIONS:
        raise UserError(
            f"training.lr_scheduler_type: {values['lr_scheduler_type']} needs evaluations by the Trainer, and a run"
            " makes none; use linear, cosine or constant"
        )
    if values.get("bf16") and not values["use_cpu"] and not is_torch_bf16_gpu_available():
        raise UserError("training.bf16: needs an Ampere GPU or a newer one; set policy.dtype=float16, or bf16=false")
    if values.get("tf32") and not is_torch_tf32_available():
        raise UserError("training.tf32: needs an Ampere GPU or a newer one; remove it")


def set_matmul_precision(config: Config) -> None:
    """``training.tf32`` for this process, and what ``torch_compile`` chooses where it is silent.

    TrainingArguments does the same where it is made, which is at a fit: scores before the first fit, and after a
    resume, have to be those of a run that was never stopped.
    """
    values = training_values(config)
    wanted = values.get("tf32")
    if values.get("torch_compile") and wanted is None and not values["fp16"]:
        wanted = True
    if wanted is not None and is_torch_tf32_available():
        enable_tf32(wanted)


class OneDevice(TrainingArguments):  # type: ignore[misc]
    """Several GPUs without a launcher would become DataParallel, which splits a prompt's candidates."""

    @property
    def n_gpu(self) -> int:
        return min(int(super().n_gpu), 1)


def training_arguments(config: Config, *, output_dir: Path, seed: int, max_steps: int) -> TrainingArguments:
    """Arguments of one interaction's Trainer. Making them sets this process's device and precision: once a fit.

    Raises:
        UserError: a value that is refused; ``check_arguments`` finds what can be found before.
    """
    owned = {
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "max_steps": max_steps,
        "remove_unused_columns": False,
        # The last step saves in any case. An interaction of a cycle is as short as to be begun again; lists that exist
        # may take days. The data is laid out in order, so nothing is skipped on the way in.
        "save_strategy": "steps",
        "save_steps": 10**9 if config.lists is None else config.lists.checkpoint_steps,
        **({} if config.lists is None else {"save_total_limit": 1}),
        "ignore_data_skip": True,
        "train_sampling_strategy": "sequential",
        "report_to": "none",  # the run's trackers outlive a Trainer and are among its callbacks
    }
    try:
        return OneDevice(**deepcopy({**training_values(config), **owned}))  # it writes into fsdp_config
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"training: {str(error).splitlines()[0]}") from error


def lists_per_step(config: Config, processes: int = 1) -> int:
    """Training lists of one optimiser step, over all processes."""
    values = training_values(config)
    return int(values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * processes)


def optimizer_steps(config: Config, lists: int, processes: int = 1) -> int:
    """Optimiser steps of one interaction over ``lists`` training lists."""
    epochs = training_values(config)["num_train_epochs"]
    return math.ceil(max(1, round(lists * epochs)) / lists_per_step(config, processes)) if lists else 0


def training_order(lists: int, epochs: float, seed: int) -> list[int]:
    """Indices in the order of training: a fresh permutation for each epoch, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    order = [i for _ in range(math.ceil(epochs)) for i in torch.randperm(lists, generator=generator).tolist()]
    return order[: max(1, round(lists * epochs))]
