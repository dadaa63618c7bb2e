"""What ``test_ddp.py`` launches: one step on sharded weights against one on whole weights; prints the differences."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from logprob_cases import LISTS, with_lora
from tiny_policy import tiny_llama
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from cyclealign.models.encoded_lists import collate
from cyclealign.models.logprobs import Plan, attach, causal_lm, token_logprobs


def build(*, lora: bool) -> Any:
    model: Any = tiny_llama()
    torch.manual_seed(1)
    if lora:
        model.requires_grad_(False)
        model = with_lora(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    attach(model)
    return model.train()


def gradient_error(plan: Plan, *, lora: bool) -> float:
    """|sharded - whole| / |whole| over the gradients, averaged over processes that hold different lists."""
    whole, sharded = build(lora=lora), build(lora=lora)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in causal_lm(sharded).model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    batch = collate(LISTS[dist.get_rank() :][:2], pad=0)
    for model in (whole, sharded):
        token_logprobs(model, batch, plan).sum().backward()
    error = size = 0.0
    for mine, theirs in zip(sharded.parameters(), whole.parameters(), strict=True):
        if theirs.grad is not None:
            dist.all_reduce(theirs.grad)
            expected = theirs.grad / dist.get_world_size()
            error += float((mine.grad.full_tensor() - expected).square().sum())
            size += float(expected.square().sum())
    return float((error / size) ** 0.5)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    # The last: three passes on the first process, two on the second.
    plans = (Plan("padded"), Plan("cached_prefix"), *(Plan(of, True, 2) for of in ("padded", "cached_prefix")))
    found = [gradient_error(plan, lora=lora) for plan in plans for lora in (False, True)]
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()
