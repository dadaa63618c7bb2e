"""What the calls of one judge may cost and did cost, whatever a server says of the tokens that it took."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass, replace

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.judge.call import Call
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.costs import input_bound, output_bound, usage_usd, usd
from cyclealign.judge.ledger import Ledger, LedgerUnavailable
from cyclealign.judge.prices import dearest, in_batch, tariff_of
from cyclealign.judge.providers import profile_of
from cyclealign.judge.usage import Usage

# A provider may add words of its own to a request; more than this many times ours is no count of this request.
INPUT_SLACK = 2.0
# No model writes more in one reply, thinking included.
MOST_OUTPUT = 131_072
# After a reply beyond the request's limit, this many times its length is reserved for each: thinking varies.
OUTPUT_SLACK = 16
BYTES_PER_TOKEN = 128  # more than any tokenizer puts into a token, on average of a text
# A token does not span a space: fewer tokens than words are no count of the whole prompt. Where a server is known to
# cut, any fewer; elsewhere far fewer, since some count what a cache served apart.
CUT_IF_BELOW, FAR_BELOW = 1.0, 0.75  # of the words
LEAST_CONTEXT = 500  # tokens; no server cuts a prompt to less
NOTHING = Usage(0, 0)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a reply is booked at. usage: as the server counts, nothing where that cannot be. odd: what is wrong with the
    server's own account; None: nothing."""

    usd: float
    usage: Usage
    odd: str | None = None


class Money:
    """Price, worst case and charge of calls; what servers bill beyond their requests' limits is a fact on the ledger,
    so that reservations grow for all processes and starts."""

    def __init__(self, config: BlackBoxConfig, ledger: Ledger, model: str) -> None:
        """UserError where ``price: auto`` finds none."""
        self._tariff = tariff_of(config)
        self._profile = profile_of(config)
        self._ledger = ledger
        self._fact = f"billed beyond the request: {model}"
        self._input_scale, self._output = 1.0, 0
        if self._tariff is not None and self._tariff.listed:
            found = [[start, price.model_dump(exclude_none=True)] for start, price in self._tariff.steps]
            ledger.set_fact(f"price: {model}", json.dumps({"source": self._tariff.source, "from_input_tokens": found}))

    def worst(self, call: Call) -> float:
        """Most that a call may cost in USD: its input bound, and its limit or what was seen beyond one."""
        self._recall()
        given = math.ceil(self._input_scale * input_bound(call))
        return self._most(call, given, max(self._limit(call), self._output))

    def _most(self, call: Call, given: int, made: int) -> float:
        price = self._price(call, given)
        return 0.0 if price is None else usd(dearest(price), given, made)

    def _price(self, call: Call, given: int) -> Price | None:
        if self._tariff is None:
            return None
        return in_batch(self._tariff.of(given)) if call.batched else self._tariff.of(given)

    def charge(self, call: Call, reply: ChatReply, reserved: float) -> Charge:
        """What a reply is booked at: the server's count where the request can have held it, else the worst case.

        reserved: the worst case when it was sent; what is known since may be more.
        """
        usage = reply.usage
        given, made = usage.input_tokens, usage.output_tokens
        odd = self._odd(call, reply)
        if odd or given is None or made is None:
            return Charge(max(reserved, self.worst(call)), NOTHING, odd)
        self._grow(call, given, made)
        limit = self._limit(call)
        beyond = f"{made} output tokens at a limit of {limit}" if 0 < limit < made else None
        cost = self._cost(call, usage)
        if beyond is None and cost > max(reserved, self._most(call, given, made)):
            beyond = f"it bills {cost:.6f} USD for {given} tokens in and {made} out"
        return Charge(cost, usage, beyond)

    def _cost(self, call: Call, usage: Usage) -> float:
        """USD; where a provider of many prices says what it billed, that, unless the user knows a price."""
        if self._tariff is None:
            return 0.0
        if self._tariff.listed and self._profile.cost_in and usage.cost is not None:
            return usage.cost
        return usage_usd(self._price(call, usage.input_tokens or 0), usage)

    def cut_prompt(self, call: Call, reply: ChatReply) -> str | None:
        """What to change where the server has read less than it was sent, by its own count; None: it read all."""
        given = reply.usage.input_tokens
        if given is None or given < LEAST_CONTEXT:
            return None
        words = sum(len(m["content"].split()) for m in call.messages)
        if given >= words * (CUT_IF_BELOW if self._profile.context else FAR_BELOW):
            return None
        change = self._profile.context or "give the server a longer context"
        return f"it read {given:,} tokens of a prompt of {words:,} words, and cut the rest; {change}"

    def _odd(self, call: Call, reply: ChatReply) -> str | None:
        given, made = reply.usage.input_tokens, reply.usage.output_tokens
        if given is None or made is None:
            return "the server does not say how many tokens it took"
        sent = sum(len(m["content"].encode()) for m in call.messages)
        written = len(reply.text.encode()) + len(reply.thoughts.encode())
        if not sent / BYTES_PER_TOKEN <= given <= INPUT_SLACK * input_bound(call):
            return f"it counts {given} input tokens in {sent} bytes"
        if not written / BYTES_PER_TOKEN <= made <= max(MOST_OUTPUT, self._limit(call)):
            return f"it counts {made} output tokens in {written} bytes"
        return None

    def _limit(self, call: Call) -> int:
        return output_bound(call.options) or 0

    def _grow(self, call: Call, given: int, made: int) -> None:
        scale = INPUT_SLACK if given > input_bound(call) else 1.0
        output = min(MOST_OUTPUT, OUTPUT_SLACK * made) if 0 < self._limit(call) < made else 0
        if scale > self._input_scale or output > self._output:
            times = max(scale, self._input_scale) / self._input_scale
            more = self._most(replace(call, batched=False), 0, max(output - self._output, 0))
            self._input_scale, self._output = max(scale, self._input_scale), max(output, self._output)
            with contextlib.suppress(LedgerUnavailable):
                # What got no reply, or no account of it, may have cost as much.
                self._ledger.grow(call.endpoint, call.model, times=times, plus=more)
                self._ledger.set_fact(self._fact, json.dumps([self._input_scale, self._output]))

    def _recall(self) -> None:
        known = self._ledger.fact(self._fact)
        if known is not None:
            scale, output = json.loads(known)
            self._input_scale, self._output = max(scale, self._input_scale), max(output, self._output)
