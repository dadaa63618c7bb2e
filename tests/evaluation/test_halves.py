"""Odd positions report, even ones choose; of one half alone, both are all."""

from __future__ import annotations

from cyclealign.evaluation.halves import Halves
from cyclealign.types import Prompt


def test_halves() -> None:
    prompts = [Prompt(({"role": "user", "content": str(n)},)) for n in range(5)]
    ids = [p.id for p in prompts]
    halves = Halves.of(prompts)
    assert halves.reporting(ids) == [ids[1], ids[3]]
    assert halves.choosing(ids) == [ids[0], ids[2], ids[4]]
    assert halves.reporting(reversed(ids)) == [ids[3], ids[1]]
    assert halves.reporting([ids[0], ids[2]]) == [ids[0], ids[2]] == halves.choosing([ids[0], ids[2]])
    assert halves.choosing([ids[1]]) == [ids[1]]
    assert halves.reporting(["unknown", ids[3]]) == [ids[3]]
    assert halves.reporting([]) == []
