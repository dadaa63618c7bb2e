"""Small models and lists whose log-probabilities are checked by brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_policy import tiny_llama
from torch import Tensor
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from cyclealign.models.encoded_lists import EncodedList, collate
from cyclealign.models.logprobs import Plan, token_logprobs

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


# Ragged prompts, ragged lists, a response of one token, lists of different sizes.
LISTS = [
    EncodedList([5, 6, 7, 8, 9], ([10, 11, 12], [13], [14, 15, 16, 17, 2])),
    EncodedList([20, 21, 22, 23, 24, 25, 26, 27, 28], ([30, 31, 2], [32, 33])),
    EncodedList([3], ([34, 2],)),
]


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at first: an adapter that does nothing would hide mistakes
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def brute_force(model: Any, lists: list[EncodedList]) -> list[Tensor]:
    """One sequence at a time, no padding, no cache: log softmax of the logits before each response token."""
    rows = []
    for item in lists:
        for response in item.responses:
            ids = torch.tensor([item.prompt + response])
            logits = model(input_ids=ids).logits[0]
            before = logits[len(item.prompt) - 1 : -1].log_softmax(-1)
            rows.append(torch.stack([before[t, token] for t, token in enumerate(response)]))
    return rows


def rows_of(model: Any, plan: Plan) -> list[Tensor]:
    values = token_logprobs(model, collate(LISTS, pad=0), plan)
    lengths = [len(response) for item in LISTS for response in item.responses]
    for row, length in zip(values, lengths, strict=True):
        assert (row[length:] == 0).all()
    return [row[:length] for row, length in zip(values, lengths, strict=True)]


def qwen2() -> Any:
    torch.manual_seed(1)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True))


def gpt_neox() -> Any:
    torch.manual_seed(2)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny_llama,
    "qwen2": qwen2,
    "gpt_neox": gpt_neox,
    "llama_lora": lambda: with_lora(tiny_llama()),
}
