"""Log-probs of encoded lists without gradient, shared out over the processes of a launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn

from cyclealign.models.encoded_lists import EncodedList, collate, on_device, token_batches
from cyclealign.models.layouts import autocast
from cyclealign.models.logprobs import Plan, sequence_scores, token_logprobs
from cyclealign.models.processes import process_state

GPU_TOKENS = 32_768


@dataclass(frozen=True)
class TokenScorer:
    """Scores lists with one model (prepared by ``logprobs.attach``), in evaluation mode.

    On the CPU every list is its own batch: then a score does not depend on what else was scored with it, and
    a resumed run repeats it exactly. ``shared``: every process must call it, with the same lists; else one process
    scores alone.
    """

    model: nn.Module
    plan: Plan
    pad: int
    device: torch.device
    dtype: torch.dtype
    shared: bool = True

    def __call__(self, lists: Sequence[EncodedList]) -> list[tuple[Float[Tensor, " T"], ...]]:
        """For each list and response: log p of every scored token, in nats (on the CPU)."""
        alone = self.device.type == "cpu"
        batches = [[i] for i in range(len(lists))] if alone else list(token_batches(lists, GPU_TOKENS))
        if not batches:
            return []
        processes = process_state()
        first, step = (processes.process_index, processes.num_processes) if self.shared else (0, 1)
        mine = range(first, len(batches), step)
        # Sharded models need every process in every forward pass: those with fewer batches run one again.
        rounds = math.ceil(len(batches) / step)
        found: list[tuple[int, tuple[Tensor, ...]]] = []
        for turn in range(rounds):
            batch = batches[mine[turn] if turn < len(mine) else 0]
            scored = zip(batch, self._batch([lists[i] for i in batch]), strict=True)
            found += scored if turn < len(mine) else []
        if step > 1:
            found = gather_object(found)
        return [rows for _, rows in sorted(found, key=lambda pair: pair[0])]

    def _batch(self, lists: Sequence[EncodedList]) -> list[tuple[Tensor, ...]]:
        mode = self.model.training
        self.model.eval()
        batch = on_device(collate(lists, self.pad), self.device)
        with torch.no_grad(), autocast(self.device, self.dtype):
            logprobs = token_logprobs(self.model, batch, self.plan).cpu()
        self.model.train(mode)
        rows = iter(logprobs)
        return [tuple(next(rows)[read : len(ids)].clone() for ids, read in item.rows) for item in lists]


def mean_logprob(tokens: Float[Tensor, " T"]) -> float:
    """Nats per token of one response: the score that ranks it, by the same function as in the loss."""
    _, mean = sequence_scores(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool))
    return float(mean)
