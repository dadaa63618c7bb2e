"""Generation with plain transformers: always there, no extra to install."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.generation.budget import thinking_budget
from cyclealign.generation.decoding import ATTEMPTS, greedy, prefer_folded_attention, sample
from cyclealign.generation.sampling import CANARY_TOKENS, ROUNDS, collect, is_final, stop_token_ids, to_draw
from cyclealign.models.chat_template import begins_inside, render_prompt
from cyclealign.models.policy import load_model, load_tokenizer
from cyclealign.models.processes import default_device
from cyclealign.types import CanarySample, CandidateSet, PolicyVersion, Prompt, UserError, derive_seed

MOST_ROWS = 256
# Keys and values of one batch may take this much. A constant, not a share of what is free: the batch's shape is
# part of what a seed reproduces.
CACHE_BYTES = {"cpu": 1 << 30, "cuda": 16 << 30}


class TransformersGenerator:
    """Samples in padded batches on the first GPU, else on the CPU. Holds a model from first use to ``close``."""

    def __init__(self, generator: GeneratorConfig, policy: PolicyConfig) -> None:
        self._settings, self._policy = generator, policy
        self._device = default_device()
        self._tokenizer = load_tokenizer(policy, generator.thinking)
        self._budget = thinking_budget(self._tokenizer, generator)
        self._model: Any = None
        self._base = ""
        self._version = ""
        self._merged = False
        self._stops: tuple[int, ...] = ()

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        """See ``types.Generator``; batches hold prompts of like length, longest first."""
        self._load(version)
        k = self._settings.candidates
        ids = [self._ids(p) for p in prompts]
        drawn: list[list[Any]] = [[] for _ in prompts]
        open_ = sorted(range(len(prompts)), key=lambda i: (-len(ids[i]), i))
        for turn in range(ROUNDS):
            again = []
            for batch in self._batches(open_, ids):
                for index, samples in self._round(batch, prompts, ids, (seed, turn)):
                    inside = begins_inside(self._tokenizer, ids[index])
                    drawn[index] += [to_draw(self._tokenizer, s, self._stops, inside=inside) for s in samples]
                    item = collect(prompts[index], drawn[index], k)
                    if is_final(item, k):
                        yield item
                    else:
                        again.append(index)
            open_ = sorted(again, key=lambda i: (-len(ids[i]), i))

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        """A greedy continuation with this generator's own log-probabilities."""
        self._load(version)
        pad = self._tokenizer.pad_token_id
        tokens, logprobs = greedy(self._model, self._ids(prompt), limit=CANARY_TOKENS, stops=self._stops, pad=pad)
        return CanarySample(prompt, tuple(tokens), tuple(logprobs))

    def pause(self) -> None:
        """The same as ``close``: to load again takes less than what the memory may be needed for."""
        self.close()

    def close(self) -> None:
        """Give the memory back; the next call loads again."""
        self._model, self._base, self._version, self._merged = None, "", "", False
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _ids(self, prompt: Prompt) -> list[int]:
        return render_prompt(self._tokenizer, prompt.messages, self._policy.max_prompt_tokens)

    def _round(
        self, batch: Sequence[int], prompts: Sequence[Prompt], ids: Sequence[list[int]], drawn: tuple[int, int]
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """K samples of each prompt of a batch; ``drawn``: seed and round."""
        budget = self._budget
        limit = self._settings.max_new_tokens if budget is None else budget.first
        random = torch.stack([self._random(prompts[i], *drawn, limit=limit) for i in batch])
        found = ((batch[place], samples) for place, samples in self._sample([ids[i] for i in batch], random))
        if budget is None:
            yield from found
            return
        rows = {
            (index, k): budget.go_on(s, self._stops, inside=begins_inside(self._tokenizer, ids[index]))
            for index, samples in found
            for k, s in enumerate(samples)
        }
        open_ = sorted(place for place, (_, left) in rows.items() if left)
        if open_:
            random = torch.stack(
                [self._random(prompts[i], *drawn, "answer", limit=budget.answer)[k, None] for i, k in open_]
            )
            for n, (more,) in self._sample([ids[i] + rows[i, k][0] for i, k in open_], random):
                said, left = rows[open_[n]]
                rows[open_[n]] = (said + more[:left], 0)
        for index in batch:
            yield index, [rows[index, k][0] for k in range(self._settings.candidates)]

    def _random(self, prompt: Prompt, seed: int, turn: int, *part: str, limit: int) -> Tensor:
        """Random numbers [K, N, T] of one prompt, round and part of its replies, from its own seed."""
        source = torch.Generator().manual_seed(derive_seed(seed, prompt.id, turn, *part))
        return torch.rand(self._settings.candidates, limit, ATTEMPTS, generator=source)

    def _sample(self, ids: list[list[int]], random: Tensor) -> Iterator[tuple[int, list[list[int]]]]:
        return sample(
            self._model,
            ids,
            random,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            stops=self._stops,
            pad=self._tokenizer.pad_token_id,
        )

    def _batches(self, indices: Sequence[int], ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Consecutive prompts as many as the cache's bytes allow; the first is the longest."""
        done = 0
        while done < len(indices):
            length = len(ids[indices[done]]) + self._settings.reply_tokens
            rows = min(MOST_ROWS, CACHE_BYTES[self._device] // (cache_bytes_per_token(self._model) * length))
            size = max(1, rows // self._settings.candidates)
            yield list(indices[done : done + size])
            done += size

    def _load(self, version: PolicyVersion) -> None:
        if self._model is not None and self._version == version.name:
            return
        if self._model is None or self._base != version.base or self._merged:
            self.close()
            policy = self._policy.model_copy(update={"model": version.base})
            self._model = load_model(policy, trainable=False, device=self._device)
            prefer_folded_attention(self._model)
            self._stops = stop_token_ids(self._tokenizer, version.base)
            self._base = version.base
        self._model = with_adapter(self._model, version)
        if version.adapter is not None and self._device == "cpu":
            # An adapter's thin matrices cost a small model a fifth of its speed. These weights are in float32, were
            # read for this version alone and are never unmerged, so that nothing drifts.
            self._model, self._merged = self._model.merge_and_unload(), True
        self._version = version.name


def with_adapter(model: Any, version: PolicyVersion) -> Any:
    """The same base weights under another version's adapter, or none; the base itself stays as it is."""
    from peft import PeftModel

    base = model.unload() if isinstance(model, PeftModel) else model
    if version.adapter is None:
        return base
    if not (version.adapter / "adapter_config.json").is_file():
        raise UserError(f"adapter of {version.name}: no adapter_config.json in {version.adapter}")
    return PeftModel.from_pretrained(base, version.adapter).eval()


def cache_bytes_per_token(model: Any) -> int:
    """Bytes of keys and values that one token of one row takes in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)
