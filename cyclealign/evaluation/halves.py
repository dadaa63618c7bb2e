"""Which held-out prompts choose the interaction that is kept, and which report: the rule of every figure of a reward.

The even positions of ``prompts/eval.jsonl`` (from 0) choose, the odd ones report: a prompt that took part in the choice
would flatter what was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cyclealign.types import Prompt


@dataclass(frozen=True)
class Halves:
    """``position``: place of each held-out prompt, by id.

    Of ids that all belong to one half, both halves are all: an evaluation of a single prompt has to report it. An id
    that is no held-out prompt reports nothing as long as another does.
    """

    position: Mapping[str, int]

    @staticmethod
    def of(prompts: Sequence[Prompt]) -> Halves:
        return Halves({p.id: n for n, p in enumerate(prompts)})

    def reporting(self, ids: Iterable[str]) -> list[str]:
        """Those of the odd positions, in the order given."""
        return self._half(ids, 1)

    def choosing(self, ids: Iterable[str]) -> list[str]:
        """Those of the even positions, in the order given."""
        return self._half(ids, 0)

    def _half(self, ids: Iterable[str], parity: int) -> list[str]:
        found = list(ids)
        return [i for i in found if self.position.get(i, 0) % 2 == parity] or found
