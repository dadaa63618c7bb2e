"""A judge whose accuracy depends on which demonstrations it sees, for measurements whose right answer is known.

It answers a labelled pair as labelled where a number drawn from (pair, demonstrations shown) lies below its accuracy
with these demonstrations: the same question gets the same answer, and answers to different questions are independent.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from loopback import Body, answer, shown, text_hash

from cyclealign.types import Demonstration, Prompt

GOOD = "good"
PLANT = re.compile(r"plant (\d+)")
PAIR = re.compile(r"question (\d+)")


def planted_pool(n: int) -> tuple[Demonstration, ...]:
    return tuple(
        Demonstration(
            Prompt(({"role": "user", "content": f"plant {i}: what comes to mind?"},)),
            (f"the first thought on {i}", f"another thought on {i}"),
            ((i % 2), 1 - (i % 2)),
        )
        for i in range(n)
    )


def planted_pairs(n: int) -> list[Prompt]:
    return [
        Prompt(
            ({"role": "user", "content": f"question {i}: which one?"},),
            chosen=f"{GOOD} reply to {i}",
            rejected=f"poor reply to {i}",
        )
        for i in range(n)
    ]


@dataclass(frozen=True)
class PlantedJudge:
    """Accuracy = sigmoid(base + sum of the values shown); of each group of near-copies only the best one counts.

    values: in logits, by number of the demonstration. copies: groups of numbers that say the same.
    """

    values: Mapping[int, float]
    base: float = 0.2
    copies: Sequence[frozenset[int]] = ()

    def accuracy(self, subset: Sequence[int]) -> float:
        counted = set(subset)
        for group in self.copies:
            seen = sorted(group & counted, key=lambda i: self.values.get(i, 0.0))
            counted -= set(seen[:-1])
        return 1 / (1 + math.exp(-self.base - sum(self.values.get(i, 0.0) for i in counted)))

    def best(self, n: int, size: int) -> tuple[tuple[int, ...], float]:
        """The best set, and its accuracy."""
        found = max(itertools.combinations(range(n), size), key=self.accuracy)
        return found, self.accuracy(found)

    def mean(self, n: int, size: int) -> float:
        """Expected accuracy of a set drawn at random."""
        return fmean(map(self.accuracy, itertools.combinations(range(n), size)))

    def right(self, pair: int, subset: Sequence[int]) -> bool:
        """Whether it answers this pair as labelled when it sees this set."""
        return int(text_hash(f"{pair} {sorted(subset)}")[:12], 16) / 16**12 < self.accuracy(subset)

    def __call__(self, body: Body) -> str:
        seen = [int(n) for m in body["messages"] if m["role"] == "user" for n in PLANT.findall(m["content"])]
        pair = PAIR.findall(body["messages"][-1]["content"])
        texts = shown(body)
        if not pair:  # the probe
            return answer(body, range(len(texts)))
        right = self.right(int(pair[-1]), seen)
        good = next(slot for slot, text in enumerate(texts) if text.startswith(GOOD))
        return answer(body, (good, 1 - good) if right else (1 - good, good))
