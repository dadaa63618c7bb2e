"""A ledger that counts what a measurement needs, paid now or found, and that refuses more calls than were allowed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cyclealign.judge.call import Call, Recorded
from cyclealign.judge.costs import PROBES
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.ledger_batches import Batch
from cyclealign.judge.limits import BudgetSpent


class Lap(NamedTuple):
    """What the calls of one part of a measurement take, whether they were paid for now or before."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0


class MeteredLedger(Ledger):
    """Counts each distinct call once, at all of its attempts, also those of earlier starts.

    So a measurement that is started again counts as it did the first time, and stops where it would have stopped;
    what it finds on the ledger costs nothing. ``most_calls`` holds strictly: probes (at most PROBES), repairs and
    retries are within it; the call that would exceed it is refused with BudgetSpent before it is sent.
    """

    def __init__(self, path: Path, *, most_calls: int | None = None) -> None:
        super().__init__(path)
        self._most = None if most_calls is None else most_calls - PROBES
        self._count = threading.Lock()
        self._used = 0
        self._seen: set[str] = set()  # calls that ``used`` has
        self._new: set[str] = set()  # of those, counted at lookup for a first attempt that is still to start
        self._in_lap: set[str] = set()
        self._rows: set[int] = set()
        self._lap = Lap()
        self.reset()

    @property
    def left(self) -> int:
        """Calls that may still be needed. Raises TypeError without a limit."""
        if self._most is None:
            raise TypeError("this ledger has no limit")
        return max(self._most - self._used, 0)

    @property
    def used(self) -> int:
        """Calls needed so far, without probes."""
        return self._used

    def reset(self) -> Lap:
        """What was needed since the last ``reset``; counting begins anew."""
        with self._count:
            lap, self._lap = self._lap, Lap()
            self._in_lap.clear()
        return lap

    def lookup(self, call: Call) -> Recorded | None:
        """As ``Ledger.lookup``. Raises BudgetSpent where this call, new to the measurement, does not fit any more."""
        if call.purpose != "probe":
            with self._count:
                self._note(call)
        return super().lookup(call)

    def start(self, call: Call, *, reserved_usd: float, limit: float | None = None) -> int | None:
        """As ``Ledger.start``. Raises BudgetSpent where a further attempt does not fit any more."""
        if call.purpose == "probe":
            return super().start(call, reserved_usd=reserved_usd, limit=limit)
        self._check(0 if call.key in self._new else 1)
        row = super().start(call, reserved_usd=reserved_usd, limit=limit)
        if row is not None:
            self._started(call, row)
        return row

    def start_batch(
        self, calls: Sequence[Call], *, reserved_usd: Sequence[float], limit: float | None = None
    ) -> tuple[Batch, list[int]] | None:
        """As ``Ledger.start_batch``. Raises BudgetSpent where further attempts do not fit any more."""
        self._check(sum(call.key not in self._new for call in calls))
        made = super().start_batch(calls, reserved_usd=reserved_usd, limit=limit)
        for call, row in zip(calls, made[1] if made else (), strict=False):
            self._started(call, row)
        return made

    def _started(self, call: Call, row: int) -> None:
        with self._count:
            self._used += 0 if call.key in self._new else 1
            self._new.discard(call.key)
            self._lap = self._lap._replace(calls=self._lap.calls + 1)
        self._rows.add(row)

    def done(self, row: int, **columns: Any) -> None:
        super().done(row, **columns)
        if row in self._rows:
            with self._count:
                lap = self._lap
                self._lap = Lap(
                    lap.calls,
                    lap.input_tokens + columns["input_tokens"],
                    lap.output_tokens + columns["output_tokens"],
                    lap.usd + columns["usd"],
                )

    def _note(self, call: Call) -> None:
        past = None
        if call.key not in self._seen:
            past = self.history(call)
            self._take(max(past.calls, 1))
            self._seen.add(call.key)
            if past.calls == 0:
                self._new.add(call.key)
        if call.key not in self._in_lap:
            past = past or self.history(call)
            self._in_lap.add(call.key)
            lap = self._lap
            self._lap = Lap(
                lap.calls + past.calls,
                lap.input_tokens + past.input_tokens,
                lap.output_tokens + past.output_tokens,
                lap.usd + past.usd,
            )

    def _take(self, calls: int) -> None:
        self._check(calls)
        self._used += calls

    def _check(self, calls: int) -> None:
        if self._most is not None and self._used + calls > self._most:
            raise BudgetSpent
