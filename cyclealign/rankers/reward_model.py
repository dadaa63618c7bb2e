"""Ranks by the scores of a local sequence classifier: a reward model, or the packaged local ranker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from cyclealign.models.loading import loaded
from cyclealign.models.policy import context_length
from cyclealign.models.processes import default_device
from cyclealign.rankers.encoders import CrossEncoderScorer, made_of_modules
from cyclealign.rankers.scored import SETS_ON_GPU, Pair, ranked_pairs
from cyclealign.types import CandidateSet, Message, RankContext, Ranking, Unranked, UserError

ROWS = 32  # texts in one forward pass
LONGEST = 8192
SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}


class RewardModelRanker:
    """Any transformers sequence classifier with one output: higher is better. Or a directory that holds a
    sentence-transformers cross-encoder made of modules, such as ``cyclealign distill quantidce`` saves: its logit.

    A conversation is rendered by the tokenizer's chat template; without one, prompt and reply are given as a pair
    of texts. Too long texts lose their oldest part. On a GPU several prompts are scored at once. On a CPU, where
    a resumed run promises the same scores to the last bit, a prompt's candidates are a batch of their own:
    rounding depends on a batch's shape, and which prompts are left depends on when the run was killed.
    """

    gives: Literal["order", "magnitude"] = "magnitude"

    def __init__(self, path: str | Path, *, key: str = "black_box.path") -> None:
        """Load the classifier from a directory or hub id; UserError (naming ``key``) when it is none."""
        self._device = default_device()
        self._modules: CrossEncoderScorer | None = None
        if made_of_modules(path):
            self._modules = CrossEncoderScorer(str(path), key=key)
            return
        self._model, self._tokenizer = _load(str(path), self._device, key)
        longest = context_length(self._model) or LONGEST
        self._limit = min(self._tokenizer.model_max_length, longest, LONGEST)

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings with scores, in the order of the sets; those with fewer than two candidates are Unranked."""
        return ranked_pairs(self.score, sets, together=1 if self._device == "cpu" else SETS_ON_GPU)

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """The classifier's output for each (messages, reply), in their order; batches hold texts of like length."""
        if self._modules is not None:
            return self._modules.score(pairs)
        encoded = [self._encode(messages, reply) for messages, reply in pairs]
        order = sorted(range(len(pairs)), key=lambda i: (len(encoded[i]["input_ids"]), i))
        scores = [0.0] * len(pairs)
        for first in range(0, len(order), ROWS):
            rows = order[first : first + ROWS]
            batch = self._tokenizer.pad([encoded[i] for i in rows], return_tensors="pt").to(self._device)
            logits = self._model(**batch).logits[:, 0].float()
            for i, value in zip(rows, logits.tolist(), strict=True):
                scores[i] = value
        return scores

    def _encode(self, messages: Sequence[Message], reply: str) -> dict[str, list[int]]:
        cut = {"truncation": True, "max_length": self._limit}
        if self._tokenizer.chat_template:
            chat = [*messages, {"role": "assistant", "content": reply}]
            text = self._tokenizer.apply_chat_template(chat, tokenize=False)
            return dict(self._tokenizer(text, add_special_tokens=False, **cut))
        return dict(self._tokenizer(_plain(messages), reply, **cut))


def _plain(messages: Sequence[Message]) -> str:
    """A lone prompt as it is; a longer chat with its speakers named as in HH-RLHF."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{SPEAKERS.get(m['role'], m['role'])}: {m['content']}" for m in messages)


def _load(path: str, device: str, key: str) -> tuple[Any, Any]:
    problem = f"{key}: cannot load a reward model from {path!r}"
    config = loaded(lambda: AutoConfig.from_pretrained(path), problem)
    tokenizer = loaded(
        lambda: AutoTokenizer.from_pretrained(path, padding_side="right", truncation_side="left"), problem
    )
    found = (config.architectures or ["unknown"])[0]
    if "SequenceClassification" not in found and "RewardModel" not in found:
        raise UserError(f"{key}: expected a sequence classifier in {path!r}, got a {found}")
    if config.num_labels != 1:
        raise UserError(
            f"{key}: expected a classifier with one output (a reward) in {path!r}, got {config.num_labels} labels"
        )
    # Half precision is slower than float32 on most CPUs, and its ties are real.
    dtype = torch.float32 if device == "cpu" else "auto"
    load = AutoModelForSequenceClassification.from_pretrained
    model, report = loaded(lambda: load(path, dtype=dtype, output_loading_info=True), problem)
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{key}: the classifier in {path!r} lacks weights: {missing}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id  # it is how a decoder finds a row's last token
    return model.to(device).eval(), tokenizer
