"""Key-value caches for training: the prompt's states are recorded once and read by all its responses.

Under gradient checkpointing every layer runs again in the backward pass and calls ``update`` again. So both
caches are idempotent: recording keeps the first states, branching stores nothing. ``DynamicCache`` would
append twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer


class _TrainingCache(Cache):  # type: ignore[misc]
    """What models ask of a cache, for one of fixed length; states keep their graph."""

    is_compileable = False

    def __init__(self, length: int) -> None:
        super().__init__(layers=[])
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1


class PromptCache(_TrainingCache):
    """Records each layer's prompt states: keys and values [B, heads, P, head width]."""

    def __init__(self) -> None:
        super().__init__(length=0)
        self.states: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.states.setdefault(layer_idx, (keys, values))
        return keys, values

    @staticmethod
    def joined(parts: Sequence[PromptCache], order: Int[Tensor, " B"]) -> PromptCache:
        """One of all prompts of the parts, one part after the other, then in ``order``; as wide as the widest."""
        if len(parts) == 1:
            return parts[0]
        whole = PromptCache()
        for layer in parts[0].states:
            both = zip(*(part.states[layer] for part in parts), strict=True)
            keys, values = (_as_wide(states).index_select(0, order) for states in both)
            whole.states[layer] = keys, values
        return whole


class BranchCache(_TrainingCache):
    """Puts the last ``length`` of a prompt's states before those of its responses; row r reads prompt ``owner[r]``."""

    def __init__(self, prompt: PromptCache, owner: Tensor, length: int) -> None:
        super().__init__(length=length)
        self._prompt, self._owner = prompt, owner

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        before = (s[..., -self.length :, :].index_select(0, self._owner) for s in self._prompt.states[layer_idx])
        joined = (torch.cat([old, new], dim=-2) for old, new in zip(before, (keys, values), strict=True))
        return next(joined), next(joined)


def _as_wide(states: Sequence[Tensor]) -> Tensor:
    """States [b, heads, p, head width] of several passes as one, padded on the left."""
    width = max(s.shape[-2] for s in states)
    return torch.cat([pad(s, (0, 0, width - s.shape[-2], 0)) for s in states])


def keep_cache_when_checkpointing(model: nn.Module) -> None:
    """Tell the layers that a cache may stay: transformers drops it otherwise, and trains without the prompt.

    Right for the caches of this module only, and for ``use_reentrant=False`` only (the reentrant form cuts
    the graph between prompt and responses).
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module._can_checkpoint_with_cache = True
