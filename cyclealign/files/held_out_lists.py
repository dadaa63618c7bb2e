"""What a run found on ranked lists that it is not trained on: the records, and their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LIST_MEASURES = (
    ("first", "best reply is the likeliest, share of lists", 3),
    ("pairs", "pairs in order, share", 3),
    ("tau", "Kendall's tau to the lists' order", 3),
    ("nll", "NLL of the best reply, nats a token", 3),
    ("nll_others", "NLL of the others, nats a token", 3),
    ("kl", "KL to the start model, nats a token", 4),
)
"""Name, what it is, digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutList:
    """A line of ``lists.jsonl`` of an evaluation: a held-out list under the policy's likelihood.

    ``first``: 1 where the likeliest reply is the best. ``pairs``: share of the ordered pairs that are in order.
    ``tau``: Kendall's. ``nll``: of the best reply, ``nll_others``: mean over the others, nats a token. ``kl``: to the
    start model, nats a token, mean over the replies (k3 estimate).
    """

    prompt_id: str
    first: float
    pairs: float
    tau: float
    nll: float
    nll_others: float | None
    kl: float


def held_out_means(rows: Sequence[HeldOutList]) -> Mapping[str, float]:
    """Mean of each figure over the lists that have it."""
    values = {name: [v for row in rows if (v := getattr(row, name)) is not None] for name, _, _ in LIST_MEASURES}
    return {name: math.fsum(found) / len(found) for name, found in values.items() if found}
