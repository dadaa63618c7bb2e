"""FSDP2: the policy's weights, gradients and optimiser state cut over the processes of a launch.

A model is cut as it is loaded, not at its first step: it scores before it learns, and need never be whole on a GPU. The
cut is one unit a block; embeddings, last norm and head are the root's, so that they are whole while a forward pass runs
and the head is one matrix, however many chunks of tokens a process has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_load_full_state_dict
from accelerate.utils.modeling import get_non_persistent_buffers
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

from cyclealign.config.schema import Config
from cyclealign.models.logprobs import causal_lm
from cyclealign.models.processes import process_state
from cyclealign.training.arguments import training_arguments, training_values
from cyclealign.types import UserError

ASKED = "ACCELERATE_USE_FSDP"  # accelerate's launcher sets them, and accelerate itself where it is given a plugin
EMPTY = "FSDP_CPU_RAM_EFFICIENT_LOADING"
LAUNCH = "torchrun --nproc_per_node N -m cyclealign …, or accelerate launch"


class Sharding:
    """How this launch cuts models, by accelerate's plugin."""

    def __init__(self, plugin: FullyShardedDataParallelPlugin) -> None:
        self._plugin = plugin
        self._named = tuple(plugin.transformer_cls_names_to_wrap or ())
        plugin.auto_wrap_policy = None  # it would look for the units again, which then have another class

    def join(self, accelerator: Accelerator) -> None:
        """Let a Trainer's accelerator take the model as one that is cut.

        accelerate has FSDP for GPUs alone, and would train whole copies on CPUs without a word; torch has it over gloo
        too.
        """
        state = accelerator.state
        state.fsdp_plugin, state.distributed_type = self._plugin, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        os.environ[EMPTY] = "false"  # which its plugin may have set

    def cut(self, load: Callable[[], nn.Module]) -> nn.Module:
        """A model that the main process loads on the CPU, cut over all of them. Called on every process."""
        with _others_load_nothing():
            model = load()
        whole = model.state_dict()
        buffers = {n: model.get_buffer(n).clone() for n in get_non_persistent_buffers(model, recurse=True, fqns=True)}
        model.to("meta")
        causal_lm(model).tie_weights()
        precision = self._plugin.mixed_precision_policy or MixedPrecisionPolicy()
        # Also the root is cut again after each forward pass: scoring would leave it whole, for an optimiser to take.
        for unit in (*self._blocks(model), model):
            fully_shard(unit, reshard_after_forward=True, mp_policy=precision, offload_policy=self._plugin.cpu_offload)
        on_cpu = isinstance(self._plugin.cpu_offload, CPUOffloadPolicy)
        fsdp2_load_full_state_dict(process_state(), model, whole, cpu_offload=on_cpu)
        for name, values in buffers.items():
            owner, _, own = name.rpartition(".")
            model.get_submodule(owner).register_buffer(own, values.to(process_state().device), persistent=False)
        causal_lm(model).tie_weights()
        return model

    def _blocks(self, model: nn.Module) -> list[nn.Module]:
        """The units: what ``transformer_layer_cls_to_wrap`` names, else what the architecture keeps on one device."""
        names = set(self._named or causal_lm(model)._no_split_modules or ())
        found = [module for module in model.modules() if type(module).__name__ in names]
        if not found:
            raise UserError(
                f"training.fsdp: this architecture has no block named {', '.join(sorted(names)) or 'anywhere'};"
                " name its class in training.fsdp_config.transformer_layer_cls_to_wrap"
            )
        return found


@contextmanager
def _others_load_nothing() -> Iterator[None]:
    """transformers leaves weights empty on all processes but the first of a machine: right for a model that is cut,
    wrong for every other one."""
    before = {name: os.environ.get(name) for name in (ASKED, EMPTY)}
    os.environ |= dict.fromkeys(before, "true")
    try:
        yield
    finally:
        for name in before:
            del os.environ[name]
        os.environ |= {name: value for name, value in before.items() if value is not None}


def sharding(config: Config, dtype: torch.dtype) -> Sharding | None:
    """What ``training.fsdp`` or the launcher asks for; None where nobody does. ``dtype``: what a forward pass is in.

    Raises:
        UserError: no launcher started this process, or it is asked for in a way that a run cannot follow.
    """
    if not training_values(config).get("fsdp") and os.environ.get(ASKED, "false").lower() != "true":
        return None
    if "RANK" not in os.environ:
        raise UserError(f"training.fsdp: needs processes to cut the weights over: {LAUNCH}")
    if config.policy.quantization is not None:
        raise UserError("policy.quantization: 4bit weights are not cut over processes; remove it, or training.fsdp")
    process_state()
    args = training_arguments(config, output_dir=Path(), seed=0, max_steps=1)
    plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
    if plugin.fsdp_version != 2:
        raise UserError(f"training.fsdp_config.version: expected 2, got {plugin.fsdp_version}")
    if not plugin.reshard_after_forward:
        raise UserError("training.fsdp_config.reshard_after_forward: expected true: a run scores between its steps")
    if plugin.activation_checkpointing:
        raise UserError(
            "training.fsdp_config.activation_checkpointing: would drop the cached prompts; use"
            " training.gradient_checkpointing"
        )
    os.environ[EMPTY] = "false"  # which the plugin, or the launcher, may have set: for models that are not cut, too
    # accelerate's own casts what comes out as well: log-probabilities to three digits.
    half = dtype in (torch.bfloat16, torch.float16)
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=dtype if half else None, reduce_dtype=torch.float32
    )
    return Sharding(plugin)
