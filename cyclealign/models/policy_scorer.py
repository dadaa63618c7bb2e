"""Any causal language model as a scorer of replies: log-probabilities of their tokens, outside a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cyclealign.config.schema import Config, PolicyConfig
from cyclealign.models.dtypes import compute_dtype
from cyclealign.models.encoded_lists import EncodedList, Reading, encode
from cyclealign.models.layouts import choose_plan
from cyclealign.models.logprobs import attach
from cyclealign.models.policy import context_length
from cyclealign.models.processes import default_device
from cyclealign.models.saved import load_for_use
from cyclealign.models.token_scorer import TokenScorer
from cyclealign.types import Exchange

CONTEXT = 4096  # tokens, of a model that does not say


@dataclass(frozen=True)
class PolicyScorer:
    """A loaded model, ready to score; prompts keep at most half of what the model can hold."""

    score: TokenScorer
    tokenizer: Any
    reading: Reading

    @property
    def on_gpu(self) -> bool:
        return self.score.device.type == "cuda"

    def __call__(self, exchanges: Sequence[Exchange]) -> list[tuple[Tensor, ...]]:
        """For each exchange and reply: log p of every token of the answer in nats, the one that ends it included."""
        return self.score([_encoded(self.tokenizer, e, self.reading) for e in exchanges])


def load_policy_scorer(
    path: str, exchanges: Sequence[Exchange], *, base: str | None = None, config: Config | None = None
) -> PolicyScorer:
    """The model of ``path`` (as in ``saved_models.load_for_use``) on the first GPU, else on the CPU.

    Args:
        exchanges: some of what will be scored; a few are used to check how the model's head computes.
        config: of the run that made the model: its chats are rendered and its thinking is told as there.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    device = torch.device(default_device())
    dtype = compute_dtype(PolicyConfig(), device)
    policy, thinking = (None, None) if config is None else (config.policy, config.generator.thinking)
    model, tokenizer = load_for_use(path, dtype=dtype, base=base, policy=policy, thinking=thinking)
    model.to(device)
    attach(model)
    whole = config is not None and config.generator.thinking.train == "all"
    reading = Reading((context_length(model) or CONTEXT) // 2, all=whole)
    sample = [_encoded(tokenizer, e, reading) for e in exchanges[:2]]
    plan = choose_plan(model, sample, "padded", pad=tokenizer.pad_token_id, dtype=dtype)
    scorer = TokenScorer(model, plan, tokenizer.pad_token_id, device, dtype, shared=False)
    return PolicyScorer(scorer, tokenizer, reading)


def _encoded(tokenizer: Any, exchange: Exchange, reading: Reading) -> EncodedList:
    messages, replies = exchange
    thinking = [r.thinking for r in replies]
    return encode(tokenizer, messages, [r.text for r in replies], [True] * len(replies), thinking, reading)
