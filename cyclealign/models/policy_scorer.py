"""Any causal language model as a scorer of replies: log-probabilities of their tokens, outside a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cyclealign.config.schema import PolicyConfig
from cyclealign.models.encoded_lists import EncodedList, encode
from cyclealign.models.layouts import choose_plan
from cyclealign.models.logprobs import attach
from cyclealign.models.policy import compute_dtype, context_length
from cyclealign.models.processes import default_device
from cyclealign.models.saved import load_for_use
from cyclealign.models.token_scorer import TokenScorer
from cyclealign.types import Exchange

CONTEXT = 4096  # tokens, of a model that does not say


@dataclass(frozen=True)
class PolicyScorer:
    """A loaded model, ready to score; prompts keep at most ``prompt_tokens``, half of what the model can hold."""

    score: TokenScorer
    tokenizer: Any
    prompt_tokens: int

    @property
    def on_gpu(self) -> bool:
        return self.score.device.type == "cuda"

    def __call__(self, exchanges: Sequence[Exchange]) -> list[tuple[Tensor, ...]]:
        """For each exchange and reply: log p of every token in nats, the one that ends the reply included."""
        return self.score([_encoded(self.tokenizer, e, self.prompt_tokens) for e in exchanges])


def load_policy_scorer(path: str, exchanges: Sequence[Exchange], *, base: str | None = None) -> PolicyScorer:
    """The model of ``path`` (as in ``saved_models.load_for_use``) on the first GPU, else on the CPU.

    Args:
        exchanges: some of what will be scored; a few are used to check how the model's head computes.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    device = torch.device(default_device())
    dtype = compute_dtype(PolicyConfig(), device)
    model, tokenizer = load_for_use(path, dtype=dtype, base=base)
    model.to(device)
    attach(model)
    prompt_tokens = (context_length(model) or CONTEXT) // 2
    sample = [_encoded(tokenizer, e, prompt_tokens) for e in exchanges[:2]]
    plan = choose_plan(model, sample, "padded", pad=tokenizer.pad_token_id, dtype=dtype)
    scorer = TokenScorer(model, plan, tokenizer.pad_token_id, device, dtype, shared=False)
    return PolicyScorer(scorer, tokenizer, prompt_tokens)


def _encoded(tokenizer: Any, exchange: Exchange, prompt_tokens: int) -> EncodedList:
    messages, replies = exchange
    return encode(tokenizer, messages, replies, [True] * len(replies), prompt_tokens)
