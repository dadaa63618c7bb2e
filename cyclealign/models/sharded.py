"""Weights that are cut over the processes of a launch (DTensors), whole again, and whole ones cut as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cyclealign.models.processes import is_main


def is_cut(model: nn.Module) -> bool:
    """Whether processes share a model's weights; each of its forward passes then takes all of them."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def takes_all_processes(model: nn.Module) -> bool:
    """The same, with the weights that DeepSpeed's ZeRO-3 cuts."""
    return is_cut(model) or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def most_of_all(count: int, device: torch.device) -> int:
    """The largest of all processes' counts; called on every process."""
    most = torch.tensor(count, device=device)
    if dist.is_initialized():
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def whole(tensor: Tensor) -> Tensor:
    """The values of all processes; called on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_as(own: Tensor, values: Tensor) -> Tensor:
    """Whole values, which every process has, as ``own`` is: a part of them, or as they are."""
    if not isinstance(own, DTensor):
        return values
    values = values.to(own.device_mesh.device_type)
    return distribute_tensor(values, own.device_mesh, own.placements, src_data_rank=None)


def all_cut_as(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``cut_as`` by name."""
    return {name: cut_as(own[name], tensor) if name in own else tensor for name, tensor in values.items()}


def whole_state(model: nn.Module) -> dict[str, Tensor] | None:
    """What a saved policy is made of, whole and on the main process's CPU (of an adapted model what is trained); None
    where it is not cut, so that it saves itself. Called on every process, which hold one whole tensor at a time."""
    if not is_cut(model):
        return None
    state = model.state_dict()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found = {}
    for name in trained if hasattr(model, "peft_config") else [n for n in state if n not in tied]:
        tensor = whole(state[name])
        if is_main():
            found[name] = tensor.cpu()
    return found
