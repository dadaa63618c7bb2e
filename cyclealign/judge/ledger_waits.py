"""Work on a ledger that another program may hold for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from cyclealign.judge.ledger import LedgerUnavailable

T = TypeVar("T")
LEDGER_PATIENCE, BETWEEN_TRIES = 120.0, 0.3  # seconds


async def patiently(work: Callable[[], T]) -> T:
    """What ``work`` gives, once the ledger can be read and written. Raises LedgerUnavailable after two minutes."""
    until = time.monotonic() + LEDGER_PATIENCE
    while True:
        try:
            return work()
        except LedgerUnavailable:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(BETWEEN_TRIES)
