"""A tiny policy whose chat template thinks, in the shape of Qwen3's: on, off, or begun by the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_policy import SPECIAL, WORDS, tiny_config, tiny_llama, tiny_tokenizer

from cyclealign.config.schema import Config

# The last assistant turn stands with its thinking (with nothing in it, where it has none), turns before a user's
# without; told not to think, the prompt holds thinking with nothing in it.
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|> "
    "{% if m['role'] == 'assistant' %}"
    "{% set parts = m['content'].split('</think>') %}"
    "{% if loop.last %}<think>\n{{ parts[0].split('<think>')[-1].strip() if parts | length > 1 else '' }}\n</think>\n\n"
    "{% endif %}{{ parts[-1].strip() }}"
    "{% else %}{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> "
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% elif begun is defined and begun %}<think>\n{% endif %}{% endif %}"
)
OFF, ON, BEGUN = {"enable_thinking": False}, {}, {"begun": True}
MODES: dict[str, dict[str, Any]] = {"on": ON, "off": OFF, "begun": BEGUN}


def save_thinker(directory: Path, seed: int = 0, template: str = THINKING, **settings: Any) -> Path:
    """A random model on disk whose vocabulary has the two tags, as tokens that are not special; ``settings`` of its
    config."""
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens(["<think>", "</think>"])
    tiny_llama(seed, vocab_size=len(SPECIAL) + len(WORDS) + 2, **settings).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def thinker(model: Path, mode: str, **sections: Any) -> Config:
    """A config around it; ``generator`` is merged over small replies by transformers."""
    small = {"backend": "transformers", "candidates": 3, "max_new_tokens": 6}
    sections["generator"] = small | sections.get("generator", {})
    sections["policy"] = {"chat_template_kwargs": MODES[mode]} | sections.get("policy", {})
    return tiny_config(model, **sections)
