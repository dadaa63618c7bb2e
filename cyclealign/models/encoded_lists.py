"""A prompt and its responses as token ids; batches of them as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cyclealign.models.chat_template import render_prompt, response_ids
from cyclealign.models.logprobs import ListBatch
from cyclealign.types import CandidateSet, Message


@dataclass(frozen=True, slots=True)
class EncodedList:
    """A prompt's token ids, and those of each of its responses."""

    prompt: list[int]
    responses: tuple[list[int], ...]

    @property
    def padded_tokens(self) -> int:
        """Tokens of the rows that this list becomes in the padded layout."""
        return len(self.responses) * (len(self.prompt) + max(map(len, self.responses)))


def encode(
    tokenizer: Any,
    messages: Sequence[Message],
    responses: Sequence[str],
    ended: Sequence[bool],
    max_prompt_tokens: int,
    max_response_tokens: int | None = None,
) -> EncodedList:
    """Token ids of a prompt and its responses, each tokenised by its owner, ``chat_template.py``.

    ``max_response_tokens``: of responses that nobody limited when they were written; what is longer is cut.
    """
    said = zip(responses, ended, strict=True)
    rows = tuple(response_ids(tokenizer, text, ended=end)[:max_response_tokens] for text, end in said)
    return EncodedList(render_prompt(tokenizer, messages, max_prompt_tokens), rows)


def encode_set(
    tokenizer: Any, item: CandidateSet, max_prompt_tokens: int, max_response_tokens: int | None = None
) -> EncodedList:
    """The same of a candidate set; a candidate that was cut off has no stop token."""
    texts = [c.text for c in item.candidates]
    ended = [c.finish == "stop" for c in item.candidates]
    return encode(tokenizer, item.prompt.messages, texts, ended, max_prompt_tokens, max_response_tokens)


def collate(lists: Sequence[EncodedList], pad: int) -> ListBatch:
    """One batch of lists; padding ids are never seen, only masked."""
    prompts = [item.prompt for item in lists]
    rows = [row for item in lists for row in item.responses]
    owner = [index for index, item in enumerate(lists) for _ in item.responses]
    prompt_ids, prompt_mask = _padded(prompts, pad, left=True)
    response_ids_, response_mask = _padded(rows, pad, left=False)
    return ListBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids_,
        response_mask=response_mask,
        owner=torch.tensor(owner),
    )


def on_device(batch: ListBatch, device: torch.device) -> ListBatch:
    """The batch with its tensors on a device."""
    return ListBatch(
        prompt_ids=batch["prompt_ids"].to(device),
        prompt_mask=batch["prompt_mask"].to(device),
        response_ids=batch["response_ids"].to(device),
        response_mask=batch["response_mask"].to(device),
        owner=batch["owner"].to(device),
    )


def token_batches(lists: Sequence[EncodedList], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most ``tokens`` padded tokens (or one list), similar lengths together."""
    batch: list[int] = []
    longest = rows = 0
    for index in sorted(range(len(lists)), key=lambda i: -lists[i].padded_tokens):
        item = lists[index]
        longest = max(longest, len(item.prompt) + max(map(len, item.responses)))
        rows += len(item.responses)
        if batch and rows * longest > tokens:
            yield batch
            batch, rows = [], len(item.responses)
            longest = len(item.prompt) + max(map(len, item.responses))
        batch.append(index)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return ids, mask
