"""What holds calls back: rates per minute, adaptive concurrency, a hard budget, waits between attempts, silence.

The arithmetic is in plain objects with the clock passed in; ``Gate`` makes coroutines wait for it.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC

Clock = Callable[[], float]
MINUTE = 60.0
LONGEST_READING, SLOWEST = 120.0, 5.0  # seconds until the first token of an answer, tokens a second from there
OTHERS = 0.05  # seconds between two looks at the calls of another judge that may give money back
FIRST_WORD, BETWEEN_WORDS = 10.0, 30.0  # seconds of silence before it is said, and between two such lines


class BudgetSpent(Exception):
    """The next call does not fit in the budget, and no call in flight can give anything back."""


class OverBudget(BudgetSpent):
    """It is the budget in USD that does not cover it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently one request is tried. Times in seconds.

    attempts: all of them, the first included. deadline: of one attempt; None: by the limit of its answer.
    longest_pause: a server that asks for more (a daily quota) is not waited for.
    """

    attempts: int = 8
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_pause: float = 600.0
    deadline: float | None = None

    def seconds(self, limit: int) -> float:
        """Of one attempt, whose answer is limited to ``limit`` tokens (0: by nothing): a slow judge of one's own, which
        reads for two minutes and writes five tokens a second, gets its time."""
        return LONGEST_READING + limit / SLOWEST if self.deadline is None else self.deadline

    def wait(self, failures: int, draw: float) -> float:
        """Seconds before the attempt after ``failures`` failures: full jitter, ``draw`` uniform in [0, 1)."""
        return float(min(self.longest_wait, self.first_wait * 2.0 ** min(failures - 1, 60)) * draw)


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds that a response asks to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as an HTTP date.

    None where it does not ask, or not in a form that can be read. ``now``: seconds since the epoch.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, OverflowError):  # a server may write a year of twenty digits
        return None
    # A date without a zone is in GMT (RFC 9110, 5.6.7).
    then = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return max(0.0, then - (time.time() if now is None else now))


class TokenBucket:
    """A rate per minute: in any 60 seconds at most ``per_minute`` units start.

    Holds one second's worth (at least one unit) and fills at 60/61 of the rate, so that a full bucket and a minute's
    filling together are the limit. A draw larger than the bucket starts when it is full and is paid off afterwards:
    it alone can exceed the limit, by what the bucket does not hold.
    """

    def __init__(self, per_minute: float, clock: Clock = time.monotonic) -> None:
        self._rate = per_minute / (MINUTE + 1)
        self._capacity = max(1.0, self._rate)
        self._level = self._capacity
        self._clock = clock
        self._at = clock()

    def take(self, units: float) -> float:
        """Take ``units``; returns the seconds to wait before using them. The level may go below zero: a queue."""
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        self._level -= units
        missing = min(units, self._capacity) - (self._level + units)
        return max(0.0, missing / self._rate)

    def give_back(self, units: float) -> None:
        """Correct an estimate by what was not used (negative: by what was used beyond it)."""
        self._level += units


class Adaptive:
    """How many calls may be in flight: halved by an overload, one more after as many successes as it allows.

    Calls that were sent before the last cut do not cut again: one burst of refusals is one overload.
    """

    def __init__(self, most: int, clock: Clock = time.monotonic) -> None:
        self.limit = most
        self._most = most
        self._clock = clock
        self._cut_at = -math.inf
        self._successes = 0

    def succeeded(self) -> None:
        self._successes += 1
        if self._successes >= self.limit:
            self.limit = min(self._most, self.limit + 1)
            self._successes = 0

    def overloaded(self, sent_at: float) -> None:
        """A call sent at ``sent_at`` was refused for its rate, or timed out."""
        if sent_at < self._cut_at:
            return
        self.limit = max(1, self.limit // 2)
        self._successes = 0
        self._cut_at = self._clock()


class InFlight:
    """Calls of this process that have, or are about to have, a reservation on one ledger; of whichever judge, in
    whichever thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, calls: int) -> None:
        with self._lock:
            self.count += calls


class Gate:
    """Lets calls through one by one, within concurrency, rates and budget. Belongs to one event loop."""

    def __init__(
        self,
        adaptive: Adaptive,
        requests: TokenBucket | None,
        tokens: TokenBucket | None,
        shared: InFlight | None = None,
    ) -> None:
        self.adaptive = adaptive
        self._shared = shared or InFlight()
        self.exhausted = False
        self._requests = requests
        self._tokens = tokens
        self._freed = asyncio.Condition()  # a place among the calls in flight
        self._given_back = asyncio.Condition()  # money that was reserved
        self._active = 0
        self._sent = 0  # of the active, those that have a reservation
        self._paused_until = -math.inf

    @asynccontextmanager
    async def slot(self, tokens: float, start: Callable[[], Awaitable[int | None]]) -> AsyncIterator[int]:
        """A place among the calls in flight, within the rates for a request of ``tokens``; gives what ``start`` gives.

        start: reserves the call's money; None where it does not fit in the budget. Such a call waits for those in
        flight, which may cost less than was reserved.

        Raises BudgetSpent when it does not fit with none in flight, and from then on.
        """
        async with self._freed:
            await self._freed.wait_for(lambda: self._active < self.adaptive.limit)
            self._active += 1
        try:
            await self._pace(tokens)
            row = await self._started(start)
            try:
                yield row
            finally:
                self._sent -= 1
                self._shared.add(-1)
                async with self._given_back:
                    self._given_back.notify_all()
        finally:
            self._active -= 1
            # As many as there is room for, and no more: each that wakes in vain costs every call in the queue.
            async with self._freed:
                self._freed.notify(max(0, self.adaptive.limit - self._active))

    async def _started(self, start: Callable[[], Awaitable[int | None]]) -> int:
        async with self._given_back:
            while not self.exhausted:
                row = await self._reserved(start)
                if row is not None:
                    self._sent += 1
                    return row
                if self._sent:
                    await self._given_back.wait()
                elif self._shared.count:  # another judge's calls, which nothing here hears of
                    await asyncio.sleep(OTHERS)
                else:
                    self.exhausted = True
            raise BudgetSpent

    async def _reserved(self, start: Callable[[], Awaitable[int | None]]) -> int | None:
        """Counted before it is tried: two judges must not each take the other's money for spent."""
        self._shared.add(1)
        row = None
        try:
            row = await start()
        finally:
            if row is None:
                self._shared.add(-1)
        return row

    async def _pace(self, tokens: float) -> None:
        """Wait until the rates allow a request of ``tokens``, and until no pause is in force."""
        waits = [
            self._requests.take(1) if self._requests else 0.0,
            self._tokens.take(tokens) if self._tokens else 0.0,
        ]
        await asyncio.sleep(max(waits))
        while (left := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def used(self, estimated: float, tokens: float) -> None:
        """Correct the token rate: a call estimated at ``estimated`` took ``tokens``."""
        if self._tokens:
            self._tokens.give_back(estimated - tokens)

    def pause(self, seconds: float) -> None:
        """A server asked for it: no call at all is sent for so long."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class Silence:
    """How long a judge has given no reply at all, and when that ends a run. Seconds."""

    def __init__(self, most: float, clock: Clock = time.monotonic) -> None:
        self.most = most
        self.attempts = 0  # that failed since the last reply
        self._clock = clock
        self._since = 0.0
        self._said_at = -math.inf

    @property
    def lasted(self) -> float:
        return self._clock() - self._since if self.attempts else 0.0

    @property
    def over(self) -> bool:
        """Whether it has lasted so long that waiting makes no sense any more."""
        return self.lasted >= self.most > 0

    def broken(self) -> None:
        """The judge has answered."""
        self.attempts = 0
        self._said_at = -math.inf

    def goes_on(self, sent_at: float) -> bool:
        """One more attempt without a reply; True where it is time to tell those who watch."""
        if self.attempts == 0:  # before it nothing was asked, or all was answered
            self._since = sent_at
        self.attempts += 1
        now = self._clock()
        if self.lasted < FIRST_WORD or now - self._said_at < BETWEEN_WORDS:
            return False
        self._said_at = now
        return True
