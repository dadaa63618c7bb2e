"""What a server counts of one reply: tokens by kind, wherever its provider puts them, and what it says it billed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from cyclealign.judge.call import Body
from cyclealign.judge.providers import PROFILES

# Whoever answers, whatever stands in front of it: all places where any provider counts.
THINKING_IN = {p.thinking_in for p in PROFILES.values() if p.thinking_in}
CACHED_IN = {p.cached_in for p in PROFILES.values() if p.cached_in}
WRITTEN_IN = {p.written_in for p in PROFILES.values() if p.written_in}
COST_IN = {p.cost_in for p in PROFILES.values() if p.cost_in}
MOST_COST = 1e6  # USD


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counts them; None: not said, or no number of tokens at all.

    cached, written: of the input, from a provider's cache and into it. thinking: of the output. cost: what the server
    says that it billed, in USD.
    """

    input_tokens: int | None
    output_tokens: int | None
    cached: int = 0
    written: int = 0
    thinking: int | None = None
    cost: float | None = None


def usage_of(usage: Any) -> Usage:
    """Counts of tokens. What was thought may be in the total alone: output is at least the total without the input.

    Some count what a cache served beside the input, not in it: where the sums say so, it is added.
    """
    found = usage if isinstance(usage, dict) else {}
    given, made, total = (_count(found.get(n)) for n in ("prompt_tokens", "completion_tokens", "total_tokens"))
    cached, written, thinking = (_most(found, paths) for paths in (CACHED_IN, WRITTEN_IN, THINKING_IN))
    beside = (cached or 0) + (written or 0)
    if given is not None and beside > 0 and (beside > given or total == given + beside + (made or 0)):
        given += beside
    if given is not None and made is not None and total is not None and total > given + made:
        thinking = total - given - made if thinking is None else thinking
        made = total - given
    cached = min(cached or 0, given or 0)
    return Usage(
        given,
        made,
        cached=cached,
        written=min(written or 0, (given or 0) - cached),
        thinking=None if thinking is None or made is None else min(thinking, made),
        cost=_cost(found),
    )


def _most(usage: Body, paths: Collection[str]) -> int | None:
    """The largest count at any of the paths: a server that has several says the same, or nothing, in the others."""
    counts = [count for path in paths if (count := _count(_at(usage, path))) is not None]
    return max(counts, default=None)


def _at(usage: Body, path: str) -> Any:
    value: Any = usage
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _cost(usage: Body) -> float | None:
    """USD, where a provider that says so does; not what no call costs."""
    costs = [_at(usage, path) for path in COST_IN]
    known = [float(c) for c in costs if isinstance(c, int | float) and not isinstance(c, bool)]
    return next((c for c in known if 0 <= c < MOST_COST), None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
