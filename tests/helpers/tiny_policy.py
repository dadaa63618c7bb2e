"""Tiny random policies on disk, with a chat template, for tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cyclealign.config.schema import Config
from cyclealign.types import RankingExample

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "good", "bad", "yes", "no", "hello", "world"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
SPECIAL = ["<pad>", "<unk>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def tiny_tokenizer(template: str | None = TEMPLATE) -> Any:
    """One token a word; spaces vanish, so that text apart and together is tokenised alike."""
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[3:],
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_llama(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """2 layers, width 32, grouped-query attention, float32."""
    torch.manual_seed(seed)
    values = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,  # large enough that wrong positions or masks show
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**{**values, **settings}))


def save_tiny(directory: Path, seed: int = 0, **settings: Any) -> Path:
    tiny_llama(seed, **settings).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def tiny_config(model: Path, **sections: Any) -> Config:
    """A config around a tiny policy; ``policy`` is merged over the default, other sections replace it."""
    values: dict[str, Any] = {
        "name": "tiny",
        "data": {"prompts": "none"},
        "black_box": {"backend": "replay", "path": "none.jsonl"},
        "policy": {"model": str(model), "max_prompt_tokens": 64, "lora": {"r": 4, "alpha": 8}},
        "training": {"learning_rate": 1e-2, "per_device_train_batch_size": 2},
    }
    sections["policy"] = values["policy"] | sections.get("policy", {})
    return Config.model_validate(values | sections)


def examples(count: int = 6) -> list[RankingExample]:
    """Lists of 2 to 4 responses; prompts and responses of several lengths; the teacher likes ``good``."""
    found = []
    for i in range(count):
        k = 2 + i % 3
        words = [WORDS[(i + j) % 20] for j in range(2 + i % 4)]
        responses = tuple(" ".join([("good", "bad", "no", "yes")[j], *words[: 1 + j]]) for j in range(k))
        found.append(
            RankingExample(
                prompt_id=f"p{i}",
                messages=({"role": "user", "content": " ".join(words)},),
                responses=responses,
                ended=tuple(j != 1 for j in range(k)),
                teacher=tuple(float(k - j) for j in range(k)),
            )
        )
    return found
