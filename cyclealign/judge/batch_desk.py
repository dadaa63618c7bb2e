"""Calls that go out together: collected until everybody who may ask is waiting, then sent in as few batches as fit."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.files.locks import Lock
from cyclealign.judge.batch_client import request_lines
from cyclealign.judge.batches import TOO_MANY, Batches, Outcome
from cyclealign.judge.call import Call
from cyclealign.judge.client import request_body
from cyclealign.judge.costs import estimated_tokens
from cyclealign.judge.failures import Failure
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.ledger_batches import Batch
from cyclealign.judge.ledger_waits import patiently
from cyclealign.judge.limits import BudgetSpent, OverBudget

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one file, by OpenAI
AROUND = 100  # most bytes of a line around its body


class Sent(NamedTuple):
    """What became of a call: its row, what was reserved for it in USD, its outcome, and when its batch went out."""

    row: int
    reserved: float
    outcome: Outcome
    at: float


@dataclass(slots=True, eq=False)
class _Letter:
    call: Call
    body: str
    size: int  # bytes
    tokens: int
    answer: asyncio.Future[Sent]


class Desk:
    """Belongs to one event loop. worst: most that a call may cost, in USD.

    A batch goes out when as many calls wait as callers are ``expected``: whoever needs a repair, or another attempt,
    comes into the next one.
    """

    def __init__(
        self, ledger: Ledger, batches: Batches, worst: Callable[[Call], float], config: BlackBoxConfig
    ) -> None:
        self._ledger = ledger
        self._batches = batches
        self._worst = worst
        self._config = config
        self._first = asyncio.Lock()
        self._collected = False
        self._lock: Lock | None = None
        self._expected = 0
        self._waiting: list[_Letter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._most_tokens = math.inf  # that the provider lets wait at one time

    def expect(self, callers: int) -> None:
        """So many more callers will ask, each one call at a time, until they ``leave``."""
        self._expected += callers

    def leave(self, callers: int = 1) -> None:
        self._expected -= callers
        self._look()

    async def earlier(self) -> None:
        """Bring in the batches of earlier starts, once, so that their calls are found on the ledger; where calls now go
        out one by one, what is not answered of them is cancelled.

        Raises UserError and RunStopped as ``Batches.collect``.
        """
        async with self._first:
            if self._collected:
                return
            if self._config.batch or self._batches.under_way():
                self._lock = self._batches.lock()
                await self._batches.collect(keep=self._config.batch)
            self._collected = True

    async def send(self, call: Call) -> Sent:
        """What became of a call in its batch.

        Raises:
            BudgetSpent: it does not fit, and no batch is under way that could give anything back; OverBudget where it
                is the money that does not cover it.
            UserError, RunStopped: as ``Batches.carry``.
        """
        body = request_body(call)
        answer: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        size = len(body.encode()) + AROUND
        self._waiting.append(_Letter(call, body, size, estimated_tokens(call), answer))
        self._look()
        return await answer

    async def close(self) -> None:
        """Leave what is under way to the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lock is not None:
            self._lock.close(remove=True)

    def _look(self) -> None:
        if self._waiting and len(self._waiting) >= self._expected:
            letters, self._waiting = self._waiting, []
            self._begin(self._deliver(letters), letters)

    def _begin(self, work: Awaitable[None], letters: Sequence[_Letter]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # it is their callers' to handle
                for letter in letters:
                    _fail(letter, error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, letters: list[_Letter]) -> None:
        """Batches of as many of the letters as the provider and the budget let through; the others wait on."""
        room, sent, spent = self._most_tokens, 0, BudgetSpent()
        while letters and (room > 0 or sent == 0):
            parcel = _parcel(letters, room)
            calls = [letter.call for letter in parcel]
            reserved = [self._worst(call) for call in calls]
            limit = self._config.budget_usd
            try:
                made = await patiently(partial(self._ledger.start_batch, calls, reserved_usd=reserved, limit=limit))
            except BudgetSpent:  # a measurement's calls, not the money
                break
            if made is None:
                spent = OverBudget()
                break
            batch, rows = made
            taken, letters = letters[: len(rows)], letters[len(rows) :]
            sent, room = sent + len(rows), room - sum(letter.tokens for letter in taken)
            self._begin(self._carry(batch, taken, rows, reserved), taken)
            if len(rows) < len(parcel):
                break
        if not sent:
            raise spent
        self._waiting[:0] = letters

    async def _carry(
        self, batch: Batch, letters: Sequence[_Letter], rows: Sequence[int], reserved: Sequence[float]
    ) -> None:
        at = time.monotonic()
        outcomes = await self._batches.carry(batch, request_lines(rows, [letter.body for letter in letters]))
        if any(isinstance(o, Failure) and TOO_MANY in o.code for o in outcomes.values()):
            self._most_tokens = min(self._most_tokens, sum(letter.tokens for letter in letters) / 2)
        for letter, row, usd in zip(letters, rows, reserved, strict=False):
            if not letter.answer.done():
                letter.answer.set_result(Sent(row, usd, outcomes[row], at))


def _parcel(letters: Sequence[_Letter], room: float) -> list[_Letter]:
    """Those of the first that fit into one file, and of whose tokens there is room; at least one."""
    size = tokens = 0
    for n, letter in enumerate(letters):
        size, tokens = size + letter.size, tokens + letter.tokens
        if n and (n >= MOST_REQUESTS or size > MOST_BYTES or tokens > room):
            return list(letters[:n])
    return list(letters)


def _fail(letter: _Letter, error: Exception) -> None:
    if not letter.answer.done():
        letter.answer.set_exception(error)
        with contextlib.suppress(asyncio.CancelledError):
            letter.answer.exception()  # its caller may be gone
