"""One paid call: from the ledger if it was made before, else over the network, with our own retries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import OPENAI_URL
from cyclealign.files.printable import scrubbed
from cyclealign.judge.api_key import api_key
from cyclealign.judge.batch_client import BatchClient
from cyclealign.judge.batch_desk import Desk
from cyclealign.judge.batches import Batches, Rules
from cyclealign.judge.call import Call, Recorded
from cyclealign.judge.chat import ChatReply, NotACompletion, longest_body, read_reply
from cyclealign.judge.client import Answer, Client, connected
from cyclealign.judge.costs import check_bounded, estimated_tokens, output_bound
from cyclealign.judge.failures import REQUEST_FAULTS, CallFailed, Failure
from cyclealign.judge.ledger import Ledger, LedgerUnavailable
from cyclealign.judge.ledger_waits import patiently
from cyclealign.judge.limits import Adaptive, Gate, OverBudget, RetryPolicy, Silence, TokenBucket
from cyclealign.judge.money import NOTHING, Money
from cyclealign.judge.prices import tariff_of
from cyclealign.judge.providers import profile_of
from cyclealign.judge.usage import Usage
from cyclealign.types import RunStopped, UserError

log = logging.getLogger(__name__)
ONLINE = ("probe", "answer", "reflect")  # one by one, each waited for: none belongs to a batch
FILE_SECONDS = 600.0  # that one request about a batch may take, its files being large


class PaidCalls:
    """The calls of one ranker: its key, its ledger, and the limits that outlast one ``open``."""

    def __init__(self, config: BlackBoxConfig, ledger: Ledger, retry: RetryPolicy | None = None) -> None:
        self.endpoint = config.base_url or OPENAI_URL
        self.model = config.model or ""
        self.greeting: Call | None = None  # a tiny call that a judge which is there answers
        self._config = config
        self._ledger = ledger
        self._outage = 60 * config.outage_minutes
        self._retry = retry or RetryPolicy(attempts=config.attempts, deadline=config.timeout_s)
        self._key = self._checked(config)
        self._adaptive = Adaptive(config.max_concurrency)
        self._requests = TokenBucket(config.requests_per_minute) if config.requests_per_minute else None
        self._tokens = TokenBucket(config.tokens_per_minute) if config.tokens_per_minute else None
        self._money = Money(config, ledger, f"{self.endpoint} {self.model}")
        self._silence = Silence(self._outage)
        self._reached = False  # whether the endpoint has ever answered this process
        self._served = False  # whether it has ever served this key and model, as far as we know
        self._client: Client
        self._desk: Desk
        self._gate = Gate(self._adaptive, self._requests, self._tokens)

    def _checked(self, config: BlackBoxConfig) -> str:
        """The key. UserError with all that is wrong before anybody is asked."""
        key, faults = "", []
        for check in (check_bounded, tariff_of):
            try:
                check(config)
            except UserError as fault:
                faults.append(str(fault))
        try:
            key = api_key(config, self.endpoint)
        except UserError as fault:
            faults.append(str(fault))
        if faults:
            raise UserError("; ".join(faults))
        return key

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The connection pool and the waiting places, which belong to one event loop."""
        self._served = self._served or self._ledger.fact(self._serves) is not None
        self._gate = Gate(self._adaptive, self._requests, self._tokens, self._ledger.in_flight)
        self._silence.broken()
        most = longest_body(output_bound(self._config.request))
        header = profile_of(self._config).key_header
        async with connected(self.endpoint, self._key, most, header) as self._client:
            client = BatchClient(self._client, min(FILE_SECONDS, self._outage))
            rules = Rules(endpoint=self.endpoint, model=self.model, retry=self._retry, outage=self._outage)
            batches = Batches(self._ledger, client, rules)
            self._desk = Desk(self._ledger, batches, self._money.worst, self._config)
            try:
                yield
            finally:
                await self._desk.close()

    def expect(self, callers: int) -> None:
        """So many callers will ask, one call at a time each, until they ``leave``: a batch goes out when all of those
        who have not left wait for it."""
        self._desk.expect(callers)

    def leave(self, callers: int = 1) -> None:
        self._desk.leave(callers)

    @property
    def exhausted(self) -> bool:
        """Whether a call has been turned away by the budget since ``open``."""
        return self._gate.exhausted

    @property
    def _serves(self) -> str:
        return f"serves: {self.endpoint} {self.model}"

    async def reply(self, call: Call, *, attempts: int | None = None, again: bool = False) -> ChatReply:
        """The reply to a call, at no cost where the ledger has it.

        attempts: at most so many, however silent the judge is. again: although the ledger has one.

        Raises:
            CallFailed: no reply after all attempts, or the server refuses this request.
            BudgetSpent: it does not fit in the budget any more.
            UserError: the endpoint, the key or the model are wrong; no call can succeed.
            RunStopped: there has been no reply to any call for ``outage_minutes``.
        """
        if call.purpose != "probe":
            await self._desk.earlier()
        recorded = None if again else await patiently(lambda: self._ledger.lookup(call))
        known = None if recorded is None else self._read_again(call, recorded)
        if known is not None:
            return known
        most = min(attempts or self._retry.attempts, self._retry.attempts)
        failures = tried = 0
        while True:
            outcome = await self._attempt(call)
            if isinstance(outcome, ChatReply):
                return outcome
            self._end_what_cannot_succeed(outcome, call)
            tried += 1
            # Where nobody is there, no number of attempts is enough to give a request up; time is.
            waiting = outcome.absent and self._silence.attempts >= tried and attempts is None and self._reached
            failures += 0 if waiting else 1
            asked = outcome.wait or 0.0
            if not outcome.retryable or failures >= most or asked > self._retry.longest_pause:
                raise CallFailed(outcome)
            if self._silence.over:
                await self._end_unless_alive(outcome)
                failures = max(failures, tried - 1)  # what waits alone is not waiting for the judge
            self._gate.pause(asked)
            await asyncio.sleep(max(asked, self._retry.wait(tried, random.random())))  # noqa: S311  waits, no secrets

    async def _attempt(self, call: Call) -> ChatReply | Failure:
        if self._config.batch and call.purpose not in ONLINE:
            return await self._attempt_in_batch(replace(call, batched=True))
        worst = 0.0
        estimate = estimated_tokens(call) if self._tokens else 0
        limit = self._config.budget_usd

        def reserve() -> int | None:
            nonlocal worst
            worst = self._money.worst(call)
            return self._ledger.start(call, reserved_usd=worst, limit=limit)

        async def start() -> int | None:
            return await patiently(reserve)

        async with self._gate.slot(estimate, start) as row:
            sent_at = time.monotonic()
            try:
                sent = await self._client.send(call, self._seconds(call))
            except asyncio.CancelledError:
                self._record_failure(row, Failure(detail="cancelled"), self._worst(call, worst), sent_at)
                raise
            outcome = self._record(call, row, sent, worst, sent_at)
        if isinstance(outcome, ChatReply):
            self._adaptive.succeeded()
            used = (outcome.usage.input_tokens or 0) + (outcome.usage.output_tokens or 0)
            self._gate.used(estimate, used or estimate)
        elif outcome.overload:
            self._adaptive.overloaded(sent_at)
        self._listen(outcome, sent_at)
        return outcome

    async def _attempt_in_batch(self, call: Call) -> ChatReply | Failure:
        try:
            sent = await self._desk.send(call)
        except OverBudget:
            self._gate.exhausted = True
            raise
        self._reached = True
        if isinstance(sent.outcome, Failure):  # it is on the ledger with its batch
            return sent.outcome
        return self._record(call, sent.row, sent.outcome, sent.reserved, sent.at)

    def _seconds(self, call: Call) -> float:
        """Of one attempt: no longer than the silence that ends a run."""
        return min(self._retry.seconds(output_bound(call.options) or 0), self._outage)

    def _listen(self, outcome: ChatReply | Failure, sent_at: float) -> None:
        """Whether the judge is there, from one attempt."""
        self._reached = self._reached or isinstance(outcome, ChatReply) or outcome.status is not None
        if isinstance(outcome, ChatReply) or not outcome.retryable:
            self._silence.broken()
        elif self._silence.goes_on(sent_at):
            log.info(
                "waiting for the judge: no reply for %.0f s, %d attempts (%s)",
                self._silence.lasted,
                self._silence.attempts,
                outcome.detail,
            )

    def _record(
        self, call: Call, row: int, sent: Answer | Failure, worst: float, sent_at: float
    ) -> ChatReply | Failure:
        if isinstance(sent, Failure):
            return self._record_failure(row, sent, self._worst(call, worst), sent_at)
        # A reply is read as it came; what is written down has no key in it.
        written = scrubbed(sent.body)
        self._ledger.received(row, reply=written, http_status=sent.status)
        recorded = Recorded(row, written, call.schema is not None, False, call.batched)
        return self._settle(call, recorded, sent.body, worst, sent_at)

    def _read_again(self, call: Call, recorded: Recorded) -> ChatReply | None:
        """A reply on the ledger; None for one that was written down but is a failure, when it is read now."""
        if recorded.settled:
            with contextlib.suppress(NotACompletion):
                return replace(read_reply(recorded.reply, structured=recorded.structured), recorded=True)
            return None
        call = replace(call, batched=recorded.batched)
        outcome = self._settle(call, recorded, recorded.reply, self._money.worst(call), time.monotonic())
        return outcome if isinstance(outcome, ChatReply) else None

    def _settle(self, call: Call, recorded: Recorded, body: str, worst: float, sent_at: float) -> ChatReply | Failure:
        """Read a reply that is on record, and book it."""
        try:
            reply = read_reply(body, structured=recorded.structured)
        except NotACompletion as error:
            failure = Failure(
                detail=f"the reply is no chat completion: {scrubbed(error.detail)}",
                status=error.status or 200,
                code=error.code,
                reply=recorded.reply,
                declined=error.declined,
            )
            return self._record_failure(recorded.row, failure, self._worst(call, worst), sent_at)
        charge = self._money.charge(call, reply, worst)
        used = charge.usage
        cut = None if charge.odd else self._money.cut_prompt(call, reply)
        if cut is not None:
            failure = Failure(detail=cut, status=200, reply=recorded.reply, cut_prompt=cut)
            return self._record_failure(recorded.row, failure, charge.usd, sent_at, used)
        self._ledger.done(
            recorded.row,
            reply=recorded.reply,
            input_tokens=used.input_tokens or 0,
            cached_tokens=used.cached,
            written_tokens=used.written,
            output_tokens=used.output_tokens or 0,
            thinking_tokens=used.thinking,
            usd=charge.usd,
            http_status=200,
            latency_s=time.monotonic() - sent_at,
            odd=charge.odd,
        )
        if not self._served:
            self._served = True
            with contextlib.suppress(LedgerUnavailable):
                self._ledger.set_fact(self._serves, "yes")
        return reply if charge.odd is None else replace(reply, usage=Usage(None, None))

    def _worst(self, call: Call, reserved: float) -> float:
        """What a call without an account of it is booked at: what was reserved, or more where that is known now."""
        return max(reserved, self._money.worst(call))

    def _record_failure(
        self, row: int, failure: Failure, worst: float, sent_at: float, used: Usage = NOTHING
    ) -> Failure:
        self._ledger.failed(
            row,
            error=failure.detail,
            usd=worst if failure.perhaps_billed else 0.0,
            http_status=failure.status,
            latency_s=time.monotonic() - sent_at,
            reply=failure.reply,
            input_tokens=used.input_tokens or 0,
            output_tokens=used.output_tokens or 0,
        )
        return failure

    async def _end_unless_alive(self, failure: Failure) -> None:
        """After a long silence: is nobody there, or does one request get no answer? A tiny one tells.

        Raises RunStopped, where it gets none either.
        """
        lasted, attempts = self._silence.lasted, self._silence.attempts
        if self.greeting is not None and isinstance(await self._attempt(self.greeting), ChatReply):
            return
        slow = " and black_box.timeout_s where it is only slow" if failure.timed_out else ""
        raise RunStopped(
            f"black_box: no reply from {self.endpoint} for {lasted / 60:.3g} min, {attempts} attempts"
            f" (last: {failure.detail}); what was ranked is kept; start again when it answers, or raise"
            f" black_box.outage_minutes={self._config.outage_minutes:g}{slow}"
        )

    def _end_what_cannot_succeed(self, failure: Failure, call: Call) -> None:
        """UserError for what no other request could survive either."""
        where = f"black_box: {self.endpoint}"
        if not failure.sent and not self._reached:
            raise UserError(
                f"{where} cannot be reached ({failure.detail}); check black_box.base_url, and that the server runs"
            )
        env = self._config.api_key_env
        if failure.empty_account:
            raise UserError(
                f"{where} refuses calls of model {self.model!r}: the account of the key in ${env} is empty"
                f" ({failure.detail}); nothing more is asked, a second start goes on with what is left"
            )
        if failure.cut_prompt:
            raise UserError(f"{where}: model {self.model!r}: {failure.cut_prompt}")
        if failure.retryable or failure.status is None or failure.moderation or failure.status in REQUEST_FAULTS:
            return
        if failure.status == 403 and self._served:  # this key may use this model: it is about this prompt
            return
        if call.purpose == "probe" and call.schema is not None and failure.status >= 404:
            return  # some servers know no such route or feature; the call without a schema decides
        hint = {
            401: f"check the key in ${env}",
            403: f"check what the key in ${env} may use",
            404: "check black_box.base_url (it mostly ends in /v1) and black_box.model",
            429: f"check the account of the key in ${env}; resume goes on with what is left",
        }.get(failure.status, "check black_box.base_url")
        raise UserError(f"{where} refuses calls of model {self.model!r} ({failure.detail}); {hint}")
