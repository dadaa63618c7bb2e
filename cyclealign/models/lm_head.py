"""log softmax(head(states))[targets] in chunks of positions: whole logits exist neither forward nor backward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Logits held at a time (elements): small enough to be lost beside the activations, large enough for the device.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**25}


def head_logprobs(
    project: nn.Module, states: Float[Tensor, "N D"], targets: Int[Tensor, " N"], vocab: int
) -> Float[Tensor, " N"]:
    """Log-probs in nats, float32 or wider; the logits are made again in the backward pass.

    A plain linear head is computed by ``LinearHead``, in one buffer. Others (quantised, adapted, hooked, weights
    partitioned by ZeRO-3, or the identity where ``states`` are logits already) are called as modules.
    """
    size = max(1, CHUNK_ELEMENTS.get(states.device.type, CHUNK_ELEMENTS["cuda"]) // vocab)
    if type(project) is nn.Linear and project.weight.numel() == states.shape[1] * vocab and not _hooked(project):
        found: Tensor = LinearHead.apply(  # type: ignore[no-untyped-call]
            states, project.weight, project.bias, targets, size
        )
        return found
    chunks = []
    for state, target in zip(torch.split(states, size), torch.split(targets, size), strict=True):
        if torch.is_grad_enabled():
            part = checkpoint(_chunk, project, state, target, use_reentrant=False, preserve_rng_state=False)
        else:
            part = _chunk(project, state, target)
        chunks.append(part)
    return torch.cat(chunks)


class LinearHead(torch.autograd.Function):
    """log softmax(states W^T + b)[targets], with W, b and states differentiable once.

    Forward keeps one number a position (logsumexp). Backward makes a chunk's logits z again and turns them in place
    into d/dz = g (1[target] - softmax(z)). Arithmetic is autocast's where that is on; sums are float32 or wider.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, size: int) -> Tensor:
        device = states.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        ctx.wide = torch.promote_types(ctx.dtype, torch.float32)
        ctx.size = size
        inputs, matrix = states.to(ctx.dtype), weight.to(ctx.dtype)
        found, normaliser = (states.new_empty(len(states), dtype=ctx.wide) for _ in range(2))
        with torch.autocast(device, enabled=False):
            buffer = _buffer(ctx, inputs, matrix)
            for start in range(0, len(states), size):
                part = slice(start, start + size)
                logits = _logits(ctx, inputs[part], matrix, bias, buffer)
                top = logits.amax(dim=1, keepdim=True)
                chosen = logits.gather(1, targets[part, None])[:, 0]
                normaliser[part] = top[:, 0] + logits.sub_(top).exp_().sum(dim=1).log()
                found[part] = chosen - normaliser[part]
        ctx.save_for_backward(states, weight, bias, targets, normaliser)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        states, weight, bias, targets, normaliser = ctx.saved_tensors
        inputs, matrix = states.to(ctx.dtype), weight.to(ctx.dtype)
        to_states = torch.empty_like(states)
        to_weight = torch.zeros_like(weight, dtype=ctx.wide) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias, dtype=ctx.wide) if bias is not None and ctx.needs_input_grad[2] else None
        with torch.autocast(states.device.type, enabled=False):
            buffer = _buffer(ctx, inputs, matrix)
            for start in range(0, len(states), ctx.size):
                part = slice(start, start + ctx.size)
                slope = gradient[part, None]
                logits = _logits(ctx, inputs[part], matrix, bias, buffer)
                wide = (
                    logits.sub_(normaliser[part, None]).exp_().mul_(-slope).scatter_add_(1, targets[part, None], slope)
                )
                if to_bias is not None:
                    to_bias += wide.sum(dim=0)
                narrow = wide.to(ctx.dtype)
                to_states[part] = (narrow @ matrix).to(states.dtype)
                if to_weight is not None and to_weight.dtype == ctx.dtype:
                    to_weight.addmm_(narrow.T, inputs[part])
                elif to_weight is not None:
                    to_weight += narrow.T @ inputs[part]
        return (
            to_states,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
        )


def _buffer(ctx: Any, inputs: Tensor, matrix: Tensor) -> Tensor:
    """One chunk of logits, used again for every chunk: the CPU's allocator fragments otherwise."""
    return inputs.new_empty(min(ctx.size, len(inputs)), len(matrix))


def _logits(ctx: Any, inputs: Tensor, matrix: Tensor, bias: Tensor | None, buffer: Tensor) -> Tensor:
    logits = torch.mm(inputs, matrix.T, out=buffer[: len(inputs)]).to(ctx.wide)
    return logits if bias is None else logits.add_(bias)


def _hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _chunk(project: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    logits: Tensor = project(states)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)
