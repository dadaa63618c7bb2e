"""Rows in forward passes of like length: what a batch of unlike rows costs is its padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cyclealign.models.sharded import most_of_all, takes_all_processes

# A further pass costs what so many tokens do: its kernels are started anew, and are small ones. On a GPU that keeps it
# busy, on the CPU little (benchmarks/cached_prefix.py).
PASS_TOKENS = {"cpu": 32, "cuda": 2048}
BOUNDARIES = 128  # places at which very many rows may be parted: all of them would take their square


class Passes:
    """How many forward passes a batch takes, and what is computed again; see ``logprobs.Plan``.

    Rows of like length run together. Where every pass takes all processes, a pass more of one is one more of all, and
    its weights are brought together once more: then there are as few as ``most`` allows, everywhere as many.
    """

    def __init__(self, model: nn.Module, device: torch.device, most: int | None) -> None:
        self._device = device
        self._most = most if torch.is_grad_enabled() else None
        self._together = takes_all_processes(model)

    def prompts(self, lengths: Int[Tensor, " B"]) -> list[Int[Tensor, " b"]]:
        """Rows of each pass over prompts, whose activations are always held."""
        return self._parted(lengths, None)

    def states(
        self, lengths: Int[Tensor, " R"], mask: Bool[Tensor, "R T"], run: Callable[[Int[Tensor, " r"]], Tensor]
    ) -> Float[Tensor, "N D"]:
        """``run`` of the rows of each pass, which gives [n, D] for their true places in ``mask``; in ``mask``'s order.

        Args:
            lengths: tokens of each row.
        """
        parts = self._parted(lengths, self._most)
        if len(parts) == 1 and self._most is None:
            return run(torch.arange(len(lengths), device=self._device))
        whole = len(parts)
        if self._together:  # what is run twice is left out, and has a backward pass all the same
            parts += [parts[0][:1]] * (most_of_all(whole, self._device) - whole)
        found = [run(rows) if self._most is None else checkpoint(run, rows, use_reentrant=False) for rows in parts]
        places = (mask.flatten().cumsum(0) - 1).view_as(mask)
        order = torch.cat([places[rows][mask[rows]] for rows in parts[:whole]]).argsort()
        return torch.cat(found)[order]

    def _parted(self, lengths: Int[Tensor, " R"], most: int | None) -> list[Int[Tensor, " r"]]:
        if self._together:
            size = len(lengths) if most is None else most
            return list(torch.split(torch.arange(len(lengths), device=self._device), size))
        cost = PASS_TOKENS.get(self._device.type, PASS_TOKENS["cuda"])
        parts = like_lengths(lengths.tolist(), pass_tokens=cost, most=most)
        return [torch.tensor(sorted(part), device=self._device) for part in parts]


def like_lengths(lengths: Sequence[int], *, pass_tokens: int, most: int | None = None) -> list[list[int]]:
    """Indices of all rows in passes, so that padded tokens and ``pass_tokens`` a pass are least together.

    Within sorted lengths the best passes are neighbours, so the least is found by dynamic programming.

    Args:
        most: rows of one pass; None: any number.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    step = -(-len(order) // BOUNDARIES)
    ends = [*range(0, len(order), max(1, min(step, most or step))), len(order)]
    least: list[tuple[int, int]] = [(0, 0)]  # up to each end: tokens, and where its last pass begins
    for j in range(1, len(ends)):
        options = [
            (least[i][0] + (ends[j] - ends[i]) * lengths[order[ends[i]]] + pass_tokens, i)
            for i in range(j - 1, -1, -1)
            if most is None or ends[j] - ends[i] <= most
        ]
        least.append(min(options))
    found, j = [], len(ends) - 1
    while j > 0:
        i = least[j][1]
        found.append(order[ends[i] : ends[j]])
        j = i
    return found[::-1]
