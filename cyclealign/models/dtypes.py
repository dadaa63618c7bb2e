"""What a policy computes in and is saved in. Imports torch alone: the command that starts servers asks too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cyclealign.types import UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import PolicyConfig


def compute_dtype(policy: PolicyConfig, device: torch.device | str) -> torch.dtype:
    """``policy.dtype``, by which ``auto`` means float32 on a CPU, where half precision is slower unless the processor
    multiplies in it (AMX, AVX512-BF16), and bfloat16 on a GPU.

    Raises:
        UserError: float16 on a CPU, where its gradients are neither scaled nor fast.
    """
    on_cpu = torch.device(device).type == "cpu"
    if policy.dtype == "auto":
        return torch.float32 if on_cpu else torch.bfloat16
    if on_cpu and policy.dtype == "float16":
        raise UserError("policy.dtype: float16 is for a GPU; on a CPU use bfloat16 or float32")
    dtype: torch.dtype = getattr(torch, policy.dtype)
    return dtype


def saved_dtype(policy: PolicyConfig) -> torch.dtype:
    """What a merged model is written in."""
    dtype: torch.dtype = torch.bfloat16 if policy.dtype == "auto" else getattr(torch, policy.dtype)
    return dtype
