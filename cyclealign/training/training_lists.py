"""Training lists that are read, encoded and put together when they are due; what frozen models say of them is on disk.

So a pass holds no more than the lists of one step, however many there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cyclealign.files.lazy import Lazy
from cyclealign.losses import RankingLoss
from cyclealign.models.encoded_lists import EncodedList, Reading, encode
from cyclealign.training.batches import TrainingList
from cyclealign.types import RankingExample

CHUNK = 1024  # lists that a frozen model is shown at once


class SpilledRows(Lazy[tuple[Tensor, ...]]):
    """For each list its rows of numbers (log-probs of a response's tokens, a vector): float32, in a file.

    The file is opened anew for each list: a loader's worker processes share no place in it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self._path = path
        self._widths = array("q")  # of every row
        self._first = array("q", [0])  # row of each list, and of the one after the last
        self._starts = array("q", [0])  # numbers before each list

    def extend(self, lists: Iterable[Sequence[Float[Tensor, " T"]]]) -> None:
        """Add lists, each its rows."""
        with self._path.open("ab") as file:
            for rows in lists:
                widths = [len(row) for row in rows]
                self._widths.extend(widths)
                self._first.append(len(self._widths))
                self._starts.append(self._starts[-1] + sum(widths))
                for row in rows:
                    file.write(row.float().contiguous().numpy().tobytes())

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, index: int) -> tuple[Tensor, ...]:
        widths = self._widths[self._first[index] : self._first[index + 1]]
        with self._path.open("rb") as file:
            file.seek(self._starts[index] * 4)
            content = bytearray(file.read(sum(widths) * 4))
        flat = torch.frombuffer(content, dtype=torch.float32) if content else torch.zeros(0)
        found: tuple[Tensor, ...] = torch.split(flat, list(widths))
        return found


@dataclass(frozen=True)
class TrainingLists(Lazy[TrainingList]):
    """Examples as lists to train on, of each the candidates that the loss reads.

    ``reference``, ``previous``, ``vectors``: as in ``TrainingList``, where they are asked for.
    """

    examples: Sequence[RankingExample]
    loss: RankingLoss
    tokenizer: Any
    reading: Reading
    reference: SpilledRows | None = None
    previous: SpilledRows | None = None
    vectors: SpilledRows | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def at(self, index: int) -> TrainingList:
        example = self._example(index)
        return TrainingList(
            encoded=self._encoded(example),
            teacher=example.teacher,
            reference=None if self.reference is None else self.reference[index],
            previous=None if self.previous is None else self.previous[index],
            vectors=None if self.vectors is None else torch.stack(self.vectors[index]),
        )

    def encoded_chunks(self) -> Iterator[list[EncodedList]]:
        """All lists as token ids, at most ``CHUNK`` at once."""
        yield from ([self._encoded(self._example(i)) for i in places] for places in self._chunks())

    def text_chunks(self) -> Iterator[list[tuple[str, ...]]]:
        """All lists as their responses' texts, at most ``CHUNK`` at once."""
        yield from ([self._example(i).responses for i in places] for places in self._chunks())

    def _chunks(self) -> Iterator[range]:
        ends = [*range(0, len(self), CHUNK), len(self)]
        yield from (range(first, end) for first, end in pairwise(ends))

    def _example(self, index: int) -> RankingExample:
        example = self.examples[index]
        places = self.loss.read(example.teacher)
        return replace(
            example,
            responses=tuple(example.responses[i] for i in places),
            ended=tuple(example.ended[i] for i in places),
            teacher=tuple(example.teacher[i] for i in places),
            thinking=None if example.thinking is None else tuple(example.thinking[i] for i in places),
        )

    def _encoded(self, example: RankingExample) -> EncodedList:
        e = example
        return encode(self.tokenizer, e.messages, e.responses, e.ended, e.thinking, self.reading)
