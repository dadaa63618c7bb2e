"""A prompt and its responses as token ids; batches of them as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cyclealign.models.chat_template import render_prompt, reply_ids
from cyclealign.models.logprobs import ListBatch
from cyclealign.types import CandidateSet, Message


@dataclass(frozen=True, slots=True)
class EncodedList:
    """A prompt's token ids, and those of each of its responses. ``read``: how many tokens at the beginning of each
    response are only read, as a prompt is, and not scored; empty: none of any."""

    prompt: list[int]
    responses: tuple[list[int], ...]
    read: tuple[int, ...] = ()

    @property
    def rows(self) -> Iterator[tuple[list[int], int]]:
        """Each response with how many of its tokens are only read."""
        return zip(self.responses, self.read or (0,) * len(self.responses), strict=True)

    @property
    def padded_tokens(self) -> int:
        """Tokens of the rows that this list becomes in the padded layout."""
        return len(self.responses) * (len(self.prompt) + max(map(len, self.responses)))


@dataclass(frozen=True, slots=True)
class Reading:
    """How chats become tokens. max_response_tokens: of responses that nobody limited when they were written; what is
    longer is cut. all: thinking is scored like the answer after it."""

    max_prompt_tokens: int
    max_response_tokens: int | None = None
    all: bool = False


def encode(
    tokenizer: Any,
    messages: Sequence[Message],
    responses: Sequence[str],
    ended: Sequence[bool],
    thinking: Sequence[str | None] | None,
    reading: Reading,
) -> EncodedList:
    """Token ids of a prompt and its responses, each tokenised by its owner, ``chat_template.py``.

    ``thinking``: of each response, as in ``types.Candidate``; None: of none.
    """
    prompt = render_prompt(tokenizer, messages, reading.max_prompt_tokens)
    said = zip(responses, ended, thinking or (None,) * len(responses), strict=True)
    rows = [reply_ids(tokenizer, prompt, text, ended=end, thinking=before) for text, end, before in said]
    cut = [_cut(ids, thought, reading.max_response_tokens) for ids, thought in rows]
    read = tuple(0 if reading.all else thought for _, thought in cut)
    return EncodedList(prompt, tuple(ids for ids, _ in cut), read if any(read) else ())


def _cut(ids: list[int], thought: int, limit: int | None) -> tuple[list[int], int]:
    """At most ``limit`` tokens of a reply: of its answer the first ones, of its thinking the last that leave room."""
    if limit is None or len(ids) <= limit:
        return ids, thought
    answer = ids[thought:][:limit]
    left = ids[:thought][thought - (limit - len(answer)) :] if len(answer) < limit else []
    return left + answer, len(left)


def encode_set(tokenizer: Any, item: CandidateSet, reading: Reading) -> EncodedList:
    """The same of a candidate set; a candidate that was cut off has no stop token."""
    found = item.candidates
    texts, ended = [c.text for c in found], [c.finish == "stop" for c in found]
    return encode(tokenizer, item.prompt.messages, texts, ended, [c.thinking for c in found], reading)


def collate(lists: Sequence[EncodedList], pad: int) -> ListBatch:
    """One batch of lists; padding ids are never seen, only masked.

    Responses are at least two places wide: processes that share weights then all run them after their prompts, or none.
    """
    prompts = [item.prompt for item in lists]
    rows = [row for item in lists for row in item.responses]
    read = torch.tensor([read for item in lists for _, read in item.rows])
    owner = [index for index, item in enumerate(lists) for _ in item.responses]
    prompt_ids, prompt_mask = _padded(prompts, pad, left=True)
    response_ids_, response_mask = _padded(rows, pad, left=False, least=2)
    return ListBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids_,
        response_mask=response_mask,
        scored_mask=response_mask & (torch.arange(response_mask.shape[1]) >= read[:, None]),
        owner=torch.tensor(owner),
    )


def on_device(batch: ListBatch, device: torch.device) -> ListBatch:
    """The batch with its tensors on a device."""
    return ListBatch(
        prompt_ids=batch["prompt_ids"].to(device),
        prompt_mask=batch["prompt_mask"].to(device),
        response_ids=batch["response_ids"].to(device),
        response_mask=batch["response_mask"].to(device),
        scored_mask=batch["scored_mask"].to(device),
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


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool, least: int = 0) -> tuple[Tensor, Tensor]:
    width = max(least, *map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return ids, mask
