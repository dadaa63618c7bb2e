"""Batches of one judge: sent, waited for, found again by the next process, and written down call by call.

A batch and its calls are on the ledger before its file is sent, its file's id before the batch is made, and all of its
replies before anybody reads them. Killed anywhere in between, the next process goes on from there: without a file
nothing was sent, and with one the provider's list of batches says whether there is a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cyclealign.files.locks import Lock
from cyclealign.files.printable import scrubbed
from cyclealign.judge.batch_client import GONE, BatchClient, Remote, read_lines
from cyclealign.judge.client import Answer
from cyclealign.judge.failures import Failure
from cyclealign.judge.ledger import Ledger, LedgerUnavailable
from cyclealign.judge.ledger_batches import Batch
from cyclealign.judge.ledger_waits import patiently
from cyclealign.judge.limits import RetryPolicy, Silence
from cyclealign.types import RunStopped, UserError, sha256_hex

log = logging.getLogger(__name__)
T = TypeVar("T")
Outcome = Answer | Failure
SETTLING = 5.0  # seconds in which a request that was on its way when its process was killed may still arrive
UNKNOWN = (404, 405, 501)  # what a server says to a request that it does not know
TOO_MANY = "token_limit_exceeded"  # more tokens than the account may have waiting at one time


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long to wait between looks, and, in seconds, without any reply."""

    endpoint: str
    model: str
    retry: RetryPolicy
    outage: float


class Batches:
    """Belongs to one event loop."""

    def __init__(self, ledger: Ledger, client: BatchClient, rules: Rules) -> None:
        self._ledger = ledger
        self._client = client
        self._rules = rules

    def under_way(self) -> list[Batch]:
        """Those of this judge whose outcomes are not on the ledger."""
        return self._ledger.batches.under_way(self._rules.endpoint, self._rules.model)

    def lock(self) -> Lock:
        """The right to send them and bring them in. UserError where another process has it."""
        of = f"{self._rules.endpoint} {self._rules.model}"
        file = self._ledger.path.with_name(f"{self._ledger.path.name}.{sha256_hex([of])[:8]}.lock")
        return Lock(file, f"ledger {self._ledger.path}: sending batches to model {self._rules.model!r}")

    async def carry(self, batch: Batch, requests: bytes) -> dict[int, Outcome]:
        """Send a new batch and wait for it: what became of each of its calls, by row; all of it is on the ledger.

        Raises:
            UserError: the provider takes no batches, or not from us; nothing was sent.
            RunStopped: there was no reply for ``outage_minutes``; a batch that was sent is found by the next start.
        """
        try:
            file = await self._asked(lambda: self._client.upload(batch.name, requests))
            await patiently(lambda: self._ledger.batches.filed(batch, file))
            remote = await self._created(batch, file)
        except _Refused as refused:
            end = self._end(refused.failure)
            await self._write_down(batch, Remote(id="", status="refused"), {}, Failure(detail=str(end), sent=False))
            raise end from refused
        log.info("black_box: batch %s of %d requests is sent (%s)", remote.id, batch.requests, batch.name)
        return await self._brought(batch, remote)

    async def collect(self, *, keep: bool) -> None:
        """Bring in what earlier processes have sent. keep: wait for it; else it is cancelled, and what was answered
        until then is brought in."""
        there: list[tuple[Batch, Remote]] = []
        for batch in self.under_way():
            remote = await self._found(batch)
            if remote is None:
                never = Failure(detail="its batch was never sent", sent=False, lost=True)
                await self._write_down(batch, Remote(id="", status="never sent"), {}, never)
                continue
            log.info("black_box: batch %s (%s) of an earlier start: %s", remote.id, batch.name, remote.status)
            there.append((batch, remote if keep or remote.over else await self._cancelled(remote)))
        for batch, remote in there:  # none goes on while another one ends
            await self._brought(batch, remote)

    # From a file to a batch ------------------------------------------------------------------------------------

    async def _created(self, batch: Batch, file: str) -> Remote:
        """The batch of a file. Where it is not known whether an attempt has made it, the provider's list says it."""
        tried = False

        async def once() -> Remote | Failure:
            nonlocal tried
            if tried:
                await asyncio.sleep(SETTLING)
                there = await self._client.find(batch.name, file, batch.made_at)
                if isinstance(there, Failure) and not there.retryable:
                    raise self._end(there)  # whether it is there the next start may learn
                if there is not None:
                    return there
            tried = True
            return await self._client.create(batch.name, file)

        remote = await self._asked(once)
        await patiently(lambda: self._ledger.batches.sent(batch, remote.id))
        return remote

    async def _found(self, batch: Batch) -> Remote | None:
        """A batch of an earlier process, as it is now; None: it was never sent."""
        if batch.remote is not None:
            return await self._looked_at(batch.remote)
        file = batch.file
        if file is None:  # no batch is made before the file's id is on record
            return None
        for wait in (0.0, SETTLING):
            await asyncio.sleep(wait)
            remote = await self._listed(batch, file)
            if remote is not None and remote.id:
                await patiently(lambda r=remote.id: self._ledger.batches.sent(batch, r))  # type: ignore[misc]
            if remote is not None:
                return remote
        return None

    async def _cancelled(self, remote: Remote) -> Remote:
        try:
            return await self._asked(lambda: self._client.cancel(remote.id))
        except _Refused:  # it has ended meanwhile
            return await self._looked_at(remote.id)

    async def _listed(self, batch: Batch, file: str) -> Remote | None:
        """A batch by its name; without an id where the provider lists none: it may be there, and is paid for then."""
        try:
            return await self._asked(lambda: self._client.find(batch.name, file, batch.made_at))
        except _Refused as refused:
            if refused.failure.status in UNKNOWN:
                return Remote(id="", status=GONE)
            raise self._end(refused.failure) from refused

    # From a batch to outcomes ----------------------------------------------------------------------------------

    async def _brought(self, batch: Batch, remote: Remote) -> dict[int, Outcome]:
        """What became of the calls of a batch that was sent, once it is over."""
        looks = 0
        while not remote.over:
            with contextlib.suppress(LedgerUnavailable):  # for those who watch
                self._ledger.batches.progress(batch, remote.status, min(remote.answered, batch.requests))
            looks += 1
            await asyncio.sleep(self._rules.retry.wait(looks, 1.0))
            remote = await self._looked_at(remote.id)
        found: dict[int, Outcome] = {}
        for file in (remote.output, remote.errors):
            text = "" if file is None else await self._lines(file)
            found = dict(read_lines(text)) | found
        log.info("black_box: batch %s is %s, %d of %d answered", remote.id, remote.status, len(found), batch.requests)
        return await self._write_down(batch, remote, found, _missing(remote))

    async def _looked_at(self, remote: str) -> Remote:
        try:
            return await self._asked(lambda: self._client.look(remote))
        except _Refused as refused:
            if refused.failure.status != 404:
                raise self._end(refused.failure) from refused
            return Remote(id=remote, status=GONE)

    async def _lines(self, file: str) -> str:
        """The text of a file of replies; nothing where the provider has deleted it."""
        try:
            return await self._asked(lambda: self._client.lines(file))
        except _Refused as refused:
            if refused.failure.status != 404:
                raise self._end(refused.failure) from refused
            return ""

    async def _write_down(
        self, batch: Batch, remote: Remote, found: Mapping[int, Outcome], missing: Failure
    ) -> dict[int, Outcome]:
        """Every outcome onto the ledger, then the batch's end. missing: what became of calls that have none."""
        outcomes: dict[int, Outcome] = {}
        for row, reserved in await patiently(lambda: self._ledger.batches.open_calls(batch)):
            outcome = outcomes[row] = found.get(row, missing)
            if isinstance(outcome, Answer):
                self._ledger.received(row, reply=scrubbed(outcome.body), http_status=outcome.status)
                continue
            self._ledger.failed(
                row,
                error=outcome.detail,
                usd=reserved if outcome.perhaps_billed else 0.0,
                http_status=outcome.status,
                latency_s=time.time() - batch.made_at,
            )
        answered = sum(isinstance(o, Answer) for o in outcomes.values())
        await patiently(lambda: self._ledger.batches.ended(batch, remote.status, answered))
        return outcomes

    # Patience --------------------------------------------------------------------------------------------------

    async def _asked(self, ask: Callable[[], Awaitable[T | Failure]]) -> T:
        """What a request gives, made again while nobody can answer. Raises _Refused, or RunStopped after an outage."""
        silence, tried = Silence(self._rules.outage), 0
        while True:
            began = time.monotonic()
            found = await ask()
            if not isinstance(found, Failure):
                return found
            if not found.retryable:
                raise _Refused(found)
            tried += 1
            if silence.goes_on(began):
                log.info("waiting for the batches of %s (%s)", self._rules.endpoint, found.detail)
            if silence.over:
                raise RunStopped(
                    f"black_box: {self._rules.endpoint} has not answered for {silence.lasted / 60:.3g} min when asked"
                    f" about batches (last: {found.detail}); what was sent goes on, and is found by the next start"
                )
            await asyncio.sleep(max(found.wait or 0.0, self._rules.retry.wait(tried, random.random())))  # noqa: S311  waits, no secrets

    def _end(self, failure: Failure) -> UserError:
        change = (
            "its provider may have no batch API in OpenAI's manner; set black_box.batch=false"
            if failure.status in UNKNOWN
            else f"check what the key may use, or set black_box.batch=false for model {self._rules.model!r}"
        )
        return UserError(f"black_box.batch: {self._rules.endpoint} takes no batch ({failure.detail}); {change}")


class _Refused(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def _missing(remote: Remote) -> Failure:
    """What became of a call of which the files of a batch say nothing."""
    said = f" ({remote.why})" if remote.why else ""
    if remote.status == "expired":
        return Failure(detail=f"its batch expired before it was answered{said}", code="batch_expired", lost=True)
    if remote.status == "cancelled":
        return Failure(
            detail=f"its batch was cancelled before it was answered{said}", code="batch_cancelled", lost=True
        )
    if remote.status == "failed":
        status = 429 if TOO_MANY in remote.code else 400
        return Failure(detail=f"its batch was refused: {remote.why or remote.code}", status=status, code=remote.code)
    if remote.status == GONE:
        return Failure(detail="the provider has lost its batch")
    return Failure(detail="its batch has no reply to it")
