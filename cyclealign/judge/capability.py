"""What an endpoint can do: found out by tiny calls before anything else is paid for, revised by what comes later."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from cyclealign.config.schema import BlackBoxConfig
from cyclealign.judge.call import Call
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.costs import request_options
from cyclealign.judge.failures import CallFailed
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.prompting import ENUM_UP_TO, render, response_format
from cyclealign.judge.replies import ReplyUnusable, parse_reply
from cyclealign.judge.template import RankTemplate
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError

log = logging.getLogger(__name__)
PROBE = CandidateSet(
    Prompt(({"role": "user", "content": "What is the capital of France?"},)),
    tuple(
        Candidate(str(n), text)
        for n, text in enumerate(
            ("I do not know.", "Paris.", "Rome.", "It is in Europe.", "The capital of France is Paris.")
        )
    ),
)
# A person waits for the answer: a server that is no API shows it in a few attempts.
ATTEMPTS = 3
# So many replies in a row that are no JSON at all, and a server does not hold them to a schema any more.
IGNORED = 2
# unsure: nothing said that a schema is what fails; the next start asks again.
Found = Literal["yes", "no", "unsure"]


class Capability:
    """Belongs to one event loop. What is found is a fact on the ledger, so that it is asked once a run."""

    def __init__(self, config: BlackBoxConfig, template: RankTemplate, ledger: Ledger, calls: PaidCalls) -> None:
        self._config = config
        self._template = template
        self._ledger = ledger
        self._calls = calls
        self._asking = asyncio.Lock()
        self._found: dict[bool, Found] = {}
        self._ignored = 0
        calls.greeting = self._call(2, structured=False)

    async def structured(self, k: int) -> bool:
        """Whether answers over ``k`` candidates can be held to a JSON schema.

        Raises UserError where the endpoint serves no call at all, and BudgetSpent.
        """
        array = k > ENUM_UP_TO  # another form of schema, which a server may not know
        async with self._asking:
            if array not in self._found:
                known = self._ledger.fact(self._fact(array))
                if known in ("yes", "no"):
                    self._found[array] = "yes" if known == "yes" else "no"
                else:
                    found, why = await self._probe(len(PROBE.candidates) if array else 2)
                    self._set(array, found, why)
        return self._found[array] == "yes"

    def held(self, k: int, reply: ChatReply) -> None:
        """Learn from a reply to a request with a schema: whether it is JSON at all."""
        if reply.end != "natural" or reply.refused or not reply.answer.strip():
            return
        if _is_verdict(reply, k, structured=False):  # a schema that is held to lets nobody write this
            self._ignored = IGNORED
        else:
            self._ignored = 0 if reply.answer.rstrip().endswith(("}", "```")) else self._ignored + 1
        if self._ignored >= IGNORED:
            self.refused(k, "the server does not hold its answers to a schema any more")

    def refused(self, k: int, why: str) -> None:
        """The schema has failed although the probe had it: from now on answers are asked for as text."""
        if self._found.get(k > ENUM_UP_TO) == "yes":
            self._set(k > ENUM_UP_TO, "unsure", why)

    def _set(self, array: bool, found: Found, why: str) -> None:
        self._found[array] = found
        self._ledger.set_fact(self._fact(array), found)
        form = "as JSON held to a schema" if found == "yes" else f"as lines of text ({why})"
        log.info("black_box: %s answers %s", self._calls.model, form)

    def _fact(self, array: bool) -> str:
        return f"structured {'array' if array else 'enum'}: {self._calls.endpoint} {self._calls.model}"

    async def _probe(self, k: int) -> tuple[Found, str]:
        """Ask for a line of text under a schema: only a server that enforces the schema answers in JSON."""
        asked = 1
        try:
            reply = await self._ask(k, structured=True)
            found = self._held(reply, k)
            if found == "unsure":  # cut, empty, broken off: once is no answer
                asked = 2
                reply = await self._ask(k, structured=True, again=True)
                found = self._held(reply, k)
                self._check_room(reply)
        except CallFailed as error:
            if error.failure.status is None:
                raise self._unusable(error) from error
            return await self._probe_without(k, error, last=asked == 2)
        return found, "the server ignores a schema"

    async def _probe_without(self, k: int, refused: CallFailed, *, last: bool) -> tuple[Found, str]:
        """A call with a schema failed; one without tells whether it is the schema, and one more, if it is not the
        ``last`` one, whether it still is."""
        try:
            self._check_room(await self._ask(k, structured=False))
        except CallFailed as error:
            raise self._unusable(error) from error
        if refused.failure.about_schema or refused.failure.retryable or last:
            return ("no" if refused.failure.about_schema else "unsure"), str(refused)
        try:
            found = self._held(await self._ask(k, structured=True, again=True), k)
        except CallFailed as error:
            return "no", str(error)
        return found, "the server ignores a schema"

    async def _ask(self, k: int, *, structured: bool, again: bool = False) -> ChatReply:
        return await self._calls.reply(self._call(k, structured=structured), attempts=ATTEMPTS, again=again)

    def _call(self, k: int, *, structured: bool) -> Call:
        item = CandidateSet(PROBE.prompt, PROBE.candidates[:k])
        return Call(
            endpoint=self._calls.endpoint,
            model=self._calls.model,
            messages=render(self._template, (), item, range(k), structured=False),
            schema=response_format(k) if structured else None,
            options=request_options(self._config, k),
            purpose="probe",
        )

    def _held(self, reply: ChatReply, k: int) -> Found:
        if reply.end != "natural":
            return "unsure"
        if _is_verdict(reply, k, structured=True):
            return "yes"
        return "no" if reply.text.strip() else "unsure"

    def _check_room(self, reply: ChatReply) -> None:
        """UserError where no answer can be read of this model: all items would be paid for in vain."""
        if reply.text.strip():
            return
        model = f"black_box: model {self._calls.model!r}"
        if reply.cut_off:
            raise UserError(
                f"{model} used all of its output tokens before it answered;"
                " raise the limit, e.g. black_box.request={max_completion_tokens: 4096}"
            )
        if reply.thoughts.strip() and not reply.structured:
            raise UserError(
                f"{model} leaves its content empty: its answer stands in the field {reply.thoughts_in}, among what it"
                " thinks; turn thinking off for this model, or give the server the right parser for it"
            )

    def _unusable(self, error: CallFailed) -> UserError:
        said = str(error)
        hint = "check black_box.model and black_box.request"
        if "temperature" in said:
            hint = "set black_box.request={temperature: null} to send none"
        elif "max_tokens" in said or "max_completion_tokens" in said:
            hint = "name the limit that it takes in black_box.request, e.g. {max_completion_tokens: 512}"
        return UserError(
            f"black_box: {self._calls.endpoint} does not serve model {self._calls.model!r} ({said}); {hint}"
        )


def _is_verdict(reply: ChatReply, k: int, *, structured: bool) -> bool:
    try:
        parse_reply(reply.answer, k, structured=structured)
    except ReplyUnusable:
        return False
    return True
