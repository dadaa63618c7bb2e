"""Training lists with teacher, reference and vectors, and their collator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cyclealign.models.encoded_lists import EncodedList, collate
from cyclealign.models.logprobs import ListBatch


@dataclass(frozen=True, slots=True)
class TrainingList:
    """An encoded list with the teacher's utilities and, where the loss or the anchor asks for them, the start
    model's log-probs of each response's scored tokens; ``previous``: those of the weights before this interaction,
    where the loss asks for them; for ``leaf``, an embedding teacher's vectors of the responses."""

    encoded: EncodedList
    teacher: tuple[float, ...]
    reference: tuple[Tensor, ...] | None = None
    vectors: Float[Tensor, "K D"] | None = None
    previous: tuple[Tensor, ...] | None = None


class TrainingBatch(TypedDict):
    """``lists`` holds R rows; row r is entry [lists.owner[r], slot[r]] of the [B, K] tensors."""

    lists: ListBatch
    slot: Int[Tensor, " R"]
    teacher: Float[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]
    reference: Float[Tensor, "R T"]
    previous: Float[Tensor, "R T"]
    vectors: Float[Tensor, "R D"]


@dataclass(frozen=True, slots=True)
class RankingCollator:
    """Training lists (None is a filler that makes batches equal over processes) to one batch.

    ``width``: of the embedding teacher's vectors, 0 without one.
    """

    pad: int
    width: int = 0

    def __call__(self, items: Sequence[TrainingList | None]) -> TrainingBatch:
        # A filler runs one token through the model, so that every process has a backward pass, and counts
        # nowhere.
        filler = EncodedList([self.pad], ([self.pad],))
        encoded = [filler if item is None else item.encoded for item in items]
        lists = collate(encoded, self.pad)
        width = max(len(e.responses) for e in encoded)
        teacher = torch.zeros(len(items), width, dtype=torch.float64)
        valid = torch.zeros(len(items), width, dtype=torch.bool)
        reference, previous = torch.zeros(2, *lists["response_ids"].shape)
        vectors = torch.zeros(len(reference), self.width)
        read = [count for e in encoded for _, count in e.rows]
        row = 0
        for index, item in enumerate(items):
            if item is not None:
                valid[index, : len(item.teacher)] = True
                teacher[index, : len(item.teacher)] = torch.tensor(item.teacher, dtype=torch.float64)
                for found, to in ((item.reference, reference), (item.previous, previous)):
                    for offset, values in enumerate(found or ()):
                        place = read[row + offset]
                        to[row + offset, place : place + len(values)] = values
                if item.vectors is not None:
                    vectors[row : row + len(item.vectors)] = item.vectors
            row += len(encoded[index].responses)
        slot = torch.tensor([k for e in encoded for k in range(len(e.responses))])
        return TrainingBatch(
            lists=lists,
            slot=slot,
            teacher=teacher,
            valid=valid,
            reference=reference,
            previous=previous,
            vectors=vectors,
        )
