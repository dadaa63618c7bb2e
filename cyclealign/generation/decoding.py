"""Batched sampling from a transformers model, made for many short replies.

What ``generate`` would do, without what makes it slow here: a prompt is read once for its K samples, the cache
grows in place instead of being copied for every token, rows that have ended leave the batch, and top-p needs no
sorting. Each row has its own stream of random numbers, so a sample hangs on nothing but its seed (and on
floating-point rounding, which is the same on a CPU for the same batch).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ROOM = 32  # tokens by which a full cache grows
ATTEMPTS = 3  # random numbers that a row has for one token
CROWDED = 0.85  # share of live rows below which the others leave the batch
FOLDED = "cyclealign_folded_sdpa"


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room to grow; transformers' own copies all keys and values for every token."""

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = _with_room(self.keys, end), _with_room(self.values, end)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._room = None


def _with_room(states: Tensor, end: int) -> Tensor:
    *outer, length, width = states.shape
    room = states.new_empty(*outer, end + ROOM, width)
    room[..., :length, :] = states
    return room


def folded_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> Any:
    """SDPA that lets the query heads of one group read their keys together while one token is decoded.

    transformers copies keys and values for every query head as soon as there is a mask.
    """
    groups = query.shape[1] // key.shape[1]
    if groups == 1 or query.shape[2] > 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    rows, heads, _, width = query.shape
    folded = query.reshape(rows, key.shape[1], groups, width)
    found = nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=attention_mask, scale=rest.get("scaling")
    )
    return found.reshape(rows, 1, heads, -1), None


AttentionInterface.register(FOLDED, folded_attention)
AttentionMaskInterface.register(FOLDED, sdpa_mask)


def prefer_folded_attention(model: Any) -> None:
    """Use ``folded_attention`` where the model would use plain SDPA on a CPU."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(FOLDED)


class Batch:
    """Rows that decode together; ``logits`` [R, V] in float32 are those of each row's next token."""

    logits: Float[Tensor, "R V"]

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        length = max(map(len, prompts))
        ids = torch.tensor([[pad] * (length - len(p)) + list(p) for p in prompts], device=model.device)
        seen = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        self._model = model
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._takes = inspect.signature(core.forward).parameters
        self._ragged = any(len(p) < length for p in prompts)
        self._seen = seen
        self._last = torch.tensor([-1], device=model.device)
        self._cache = DynamicCache(config=model.config)
        self._cache.layers = [GrowingLayer() if type(x) is DynamicLayer else x for x in self._cache.layers]
        self._forward(ids, (seen.cumsum(-1) - 1).clamp(min=0))

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Keep (or repeat) rows, in this order."""
        self._cache.reorder_cache(rows)
        self._seen, self.logits = self._seen[rows], self.logits[rows]

    def advance(self, tokens: Int[Tensor, " R"]) -> None:
        """Append one token to each row."""
        positions = self._seen.sum(-1, keepdim=True)
        self._seen = nn.functional.pad(self._seen, (0, 1), value=1)
        self._forward(tokens[:, None], positions)

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        # A position, not a count: the slice that a count takes has gaps, over which torch multiplies by copying the
        # whole head for every row.
        optional = {"position_ids": positions, "logits_to_keep": self._last}
        out = self._model(
            input_ids=ids,
            attention_mask=self._seen if self._ragged else None,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._takes},
        )
        self.logits = out.logits[:, -1].float()


def choose(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, "R T"], *, temperature: float, top_p: float
) -> Int[Tensor, " R"]:
    """One token a row, by inverse transform of uniform numbers in [0, 1).

    ``top_p``: among the most likely tokens only, up to and with the one at which their probability reaches it. To
    sort the vocabulary costs more than a small model's whole step. So a token is drawn from all, and again where it
    is outside of the nucleus (which is the case for a share below 1 - top_p); only rows that spent all but their
    last random number are sorted.
    """
    probs = (logits / temperature).softmax(-1)
    if top_p >= 1:
        return _invert(probs, uniform[:, 0])
    tokens = torch.empty(len(probs), dtype=torch.long, device=probs.device)
    rows = torch.arange(len(probs), device=probs.device)
    for attempt in range(uniform.shape[1] - 1):
        drawn = _invert(probs, uniform[rows, attempt])
        tokens[rows] = drawn
        outside = ~_in_nucleus(probs, drawn, top_p)
        rows, probs = rows[outside], probs[outside]
        if len(rows) == 0:
            return tokens
    ordered = probs.sort(-1, descending=True).values
    inside = ordered.cumsum(-1) - ordered < top_p
    least = ordered.gather(-1, inside.sum(-1, keepdim=True) - 1)
    tokens[rows] = _invert(probs * (probs >= least), uniform[rows, -1])
    return tokens


def _in_nucleus(probs: Float[Tensor, "R V"], tokens: Int[Tensor, " R"], top_p: float) -> Bool[Tensor, " R"]:
    own = probs.gather(-1, tokens[:, None])
    return torch.where(probs > own, probs, 0).sum(-1) < top_p


def _invert(weights: Float[Tensor, "R V"], uniform: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    total = weights.cumsum(-1, dtype=torch.float64)
    target = uniform.double()[:, None] * total[:, -1:]
    return torch.searchsorted(total, target, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[Tensor, "P K N T"],
    *,
    temperature: float,
    top_p: float,
    stops: Collection[int],
    pad: int,
) -> Iterator[tuple[int, list[list[int]]]]:
    """K samples of at most N tokens for each prompt, from its own random numbers.

    Yields (index of the prompt, its K token lists, each up to and with its stop token) as prompts are completed.
    """
    count, k, limit, _ = uniforms.shape
    device = model.device
    random = uniforms.flatten(0, 1).to(device)
    written = torch.full((count * k, limit), -1, device=device)
    stop = torch.tensor(sorted(stops), device=device)
    batch = Batch(model, prompts, pad)
    rows = torch.arange(count * k, device=device)
    batch.select(rows // k)
    live = torch.ones_like(rows, dtype=torch.bool)
    left = [k] * count
    for step in range(limit):
        tokens = choose(batch.logits, random[rows, step], temperature=temperature, top_p=top_p)
        written[rows[live], step] = tokens[live]
        ended = live & (torch.isin(tokens, stop) if step < limit - 1 else True)
        live = live & ~ended
        for row in rows[ended].tolist():
            left[row // k] -= 1
            if left[row // k] == 0:
                first = row // k * k
                yield row // k, [[t for t in line if t >= 0] for line in written[first : first + k].tolist()]
        if not bool(live.any()):
            return
        rows, live, tokens = _thin(batch, rows, live, tokens)
        batch.advance(tokens)


def _thin(
    batch: Batch, rows: Int[Tensor, " R"], live: Bool[Tensor, " R"], tokens: Int[Tensor, " R"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Drop ended rows from the batch once they are many (dropping copies the cache)."""
    if int(live.sum()) > CROWDED * len(rows):
        return rows, live, tokens
    kept = live.nonzero()[:, 0]
    batch.select(kept)
    return rows[kept], live[kept], tokens[kept]


@torch.inference_mode()
def greedy(
    model: Any, prompt: Sequence[int], *, limit: int, stops: Collection[int], pad: int
) -> tuple[list[int], list[float]]:
    """The most likely continuation, at most ``limit`` tokens, with its log-probabilities in nats."""
    batch, ids, logprobs = Batch(model, [prompt], pad), [], []
    while True:
        best = batch.logits.log_softmax(-1).max(-1)
        ids.append(int(best.indices))
        logprobs.append(float(best.values))
        if ids[-1] in stops or len(ids) == limit:
            return ids, logprobs
        batch.advance(best.indices)
