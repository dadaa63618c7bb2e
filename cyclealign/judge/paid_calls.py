"""One paid call: from the ledger if it was made before, else through the openai SDK, with our own retries.

The SDK's retries are off, so that each attempt that may be billed has its row on the ledger.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cyclealign.config.endpoints import OPENAI_URL, host_of, is_loopback
from cyclealign.config.schema import BlackBoxConfig
from cyclealign.judge.chat import REQUEST_FAULTS, CallFailed, ChatReply, Failure, one_line, read_reply
from cyclealign.judge.costs import check_bounded, estimated_tokens, input_bound, output_bound, usd
from cyclealign.judge.ledger import Call, Ledger
from cyclealign.judge.limits import Adaptive, Budget, Gate, Held, RetryPolicy, TokenBucket, retry_after
from cyclealign.types import UserError

if TYPE_CHECKING:
    import openai

NO_KEY = "none"  # the SDK sends a bearer token in any case; servers on this machine ignore it


class PaidCalls:
    """The calls of one ranker: its key, its ledger, and the limits that outlast one ``open``."""

    def __init__(self, config: BlackBoxConfig, ledger: Ledger, retry: RetryPolicy) -> None:
        check_bounded(config)
        self.endpoint = config.base_url or OPENAI_URL
        self.model = config.model or ""
        self._config = config
        self._ledger = ledger
        self._retry = retry
        self._key = _api_key(config, self.endpoint)
        self._adaptive = Adaptive(config.max_concurrency)
        self._requests = TokenBucket(config.requests_per_minute) if config.requests_per_minute else None
        self._tokens = TokenBucket(config.tokens_per_minute) if config.tokens_per_minute else None
        self._reached = False  # whether the endpoint has ever answered this process
        self._scale = 1.0  # most input tokens that the server ever counted, over what we took for their bound
        self._client: openai.AsyncOpenAI
        self._gate: Gate

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The connection pool and the waiting places, which belong to one event loop."""
        import openai

        before = self._ledger.spend()
        # What a killed process had in flight may have been billed: it counts at its worst case.
        budget = Budget(self._config.budget_usd, before.usd + before.reserved_usd)
        self._gate = Gate(self._adaptive, budget, self._requests, self._tokens)
        async with openai.AsyncOpenAI(
            api_key=self._key or NO_KEY, base_url=self.endpoint, max_retries=0, timeout=self._retry.deadline
        ) as self._client:
            yield

    @property
    def exhausted(self) -> bool:
        """Whether a call has been turned away by the budget since ``open``."""
        return self._gate.exhausted

    async def reply(self, call: Call) -> ChatReply:
        """The reply to a call, at no cost where the ledger has it.

        Raises:
            CallFailed: no reply after all attempts, or the server refuses this request.
            BudgetSpent: it does not fit in the budget any more.
            UserError: the endpoint, the key or the model are wrong; no call can succeed.
        """
        recorded = self._ledger.lookup(call)
        if recorded is not None:
            return read_reply(recorded)
        failures = 0
        while True:
            outcome = await self._attempt(call)
            if isinstance(outcome, ChatReply):
                return outcome
            self._end_what_cannot_succeed(outcome)
            failures += 1
            asked = outcome.wait or 0.0
            if not outcome.retryable or failures >= self._retry.attempts or asked > self._retry.longest_pause:
                raise CallFailed(outcome)
            self._gate.pause(asked)
            await asyncio.sleep(max(asked, self._retry.wait(failures, random.random())))

    async def _attempt(self, call: Call) -> ChatReply | Failure:
        price = self._config.price
        output = output_bound(call.options) or 0
        worst = usd(price, self._scale * input_bound(call), output)
        estimate = estimated_tokens(call)
        async with self._gate.slot(worst) as held:
            await self._gate.pace(estimate)
            row = self._ledger.start(call, reserved_usd=worst)
            sent_at = time.monotonic()
            held.spent = worst  # until it is known better: a cancelled call may be billed
            try:
                sent = await self._send(call)
            except asyncio.CancelledError:
                self._record_failure(row, Failure(detail="cancelled"), held, sent_at)
                raise
            outcome = self._record(call, row, sent, held, sent_at)
        if isinstance(outcome, ChatReply):
            self._adaptive.succeeded()
            self._gate.used(estimate, (outcome.input_tokens or 0) + (outcome.output_tokens or 0) or estimate)
        elif outcome.overload:
            self._adaptive.overloaded(sent_at)
        return outcome

    def _record(
        self, call: Call, row: int, sent: tuple[int, str] | Failure, held: Held, sent_at: float
    ) -> ChatReply | Failure:
        if isinstance(sent, Failure):
            return self._record_failure(row, sent, held, sent_at)
        status, text = sent
        try:
            reply = read_reply(text)
        except ValueError as error:
            failure = Failure(detail=f"the reply is no chat completion: {error}", status=status, reply=text)
            return self._record_failure(row, failure, held, sent_at)
        if reply.input_tokens is not None and reply.output_tokens is not None:
            held.spent = usd(self._config.price, reply.input_tokens, reply.output_tokens)
            self._scale = max(self._scale, reply.input_tokens / input_bound(call))
        self._ledger.done(
            row,
            reply=text,
            input_tokens=reply.input_tokens or 0,
            output_tokens=reply.output_tokens or 0,
            usd=held.spent,
            http_status=status,
            latency_s=time.monotonic() - sent_at,
        )
        return reply

    def _record_failure(self, row: int, failure: Failure, held: Held, sent_at: float) -> Failure:
        if not failure.perhaps_billed:
            held.spent = 0.0
        self._ledger.failed(
            row,
            error=failure.detail,
            usd=held.spent,
            http_status=failure.status,
            latency_s=time.monotonic() - sent_at,
            reply=failure.reply,
        )
        return failure

    async def _send(self, call: Call) -> tuple[int, str] | Failure:
        """HTTP status and body of a successful response, or why there is none."""
        import openai

        body = dict(call.options) | ({"response_format": call.schema} if call.schema else {})
        messages: Any = call.messages
        try:
            async with asyncio.timeout(self._retry.deadline):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=call.model, messages=messages, extra_body=body
                )
            self._reached = True
            return raw.status_code, self._scrubbed(raw.text)
        except openai.APIStatusError as error:
            self._reached = True
            return self._refusal(error)
        except (TimeoutError, openai.APITimeoutError):
            return Failure(detail=f"no reply within {self._retry.deadline:g} s", timed_out=True)
        except openai.APIConnectionError as error:
            never_sent = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            detail = f"connection failed: {one_line(str(error.__cause__ or error))}"
            return Failure(detail=detail, sent=not never_sent)

    def _refusal(self, error: openai.APIStatusError) -> Failure:
        body = error.body if isinstance(error.body, dict) else {}
        said = body.get("message") or error.response.text or error.response.reason_phrase
        return Failure(
            detail=self._scrubbed(f"HTTP {error.status_code}: {one_line(str(said))}"),
            status=error.status_code,
            code=str(body.get("code") or ""),
            wait=retry_after(error.response.headers),
        )

    def _scrubbed(self, text: str) -> str:
        """A server may echo the key in what it says; no file and no message of ours does."""
        return text.replace(self._key, "[key]") if self._key else text

    def _end_what_cannot_succeed(self, failure: Failure) -> None:
        """UserError for what no other request could survive either."""
        where = f"black_box: {self.endpoint}"
        if not failure.sent and not self._reached:
            raise UserError(
                f"{where} cannot be reached ({failure.detail}); check black_box.base_url, and that the server runs"
            )
        if failure.retryable or failure.status is None or failure.status in REQUEST_FAULTS:
            return
        env = self._config.api_key_env
        hint = {
            401: f"check the key in ${env}",
            402: f"check the account of the key in ${env}",
            403: f"check what the key in ${env} may use",
            404: "check black_box.base_url (it mostly ends in /v1) and black_box.model",
            429: f"check the account of the key in ${env}; resume goes on with what is left",
        }.get(failure.status, "check black_box.base_url")
        raise UserError(f"{where} refuses calls of model {self.model!r} ({failure.detail}); {hint}")


def _api_key(config: BlackBoxConfig, endpoint: str) -> str:
    """The key from the environment; a server on this machine needs none. UserError where it is missing."""
    key = os.environ.get(config.api_key_env, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise UserError(f"${config.api_key_env}: holds characters that no key has; set it again")
    if key or is_loopback(host_of(endpoint)):
        return key
    raise UserError(
        f"${config.api_key_env}: not set; {endpoint} needs a key (black_box.api_key_env names its variable)"
    )
