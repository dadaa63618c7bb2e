"""What an endpoint can do, found out by one tiny call before anything else is paid for."""

from __future__ import annotations

import asyncio

from cyclealign.config.schema import BlackBoxConfig
from cyclealign.judge.chat import REQUEST_FAULTS, CallFailed, ChatReply
from cyclealign.judge.costs import request_options
from cyclealign.judge.ledger import Call, Ledger
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.prompting import ENUM_UP_TO, render, response_format
from cyclealign.judge.replies import ReplyUnusable, parse_reply
from cyclealign.judge.template import RankTemplate
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError

PROBE = CandidateSet(
    Prompt(({"role": "user", "content": "What is the capital of France?"},)),
    tuple(
        Candidate(str(n), text)
        for n, text in enumerate(
            ("I do not know.", "Paris.", "Rome.", "It is in Europe.", "The capital of France is Paris.")
        )
    ),
)


class Capability:
    """Belongs to one event loop. What is found is a fact on the ledger, so that it is asked once a run."""

    def __init__(self, config: BlackBoxConfig, template: RankTemplate, ledger: Ledger, calls: PaidCalls) -> None:
        self._config = config
        self._template = template
        self._ledger = ledger
        self._calls = calls
        self._asking = asyncio.Lock()

    async def structured(self, k: int) -> bool:
        """Whether answers over ``k`` candidates can be held to a JSON schema.

        Raises UserError where the endpoint serves no call at all, and BudgetSpent.
        """
        array = k > ENUM_UP_TO  # another form of schema, which a server may not know
        fact = f"structured {'array' if array else 'enum'}: {self._calls.endpoint} {self._calls.model}"
        async with self._asking:
            known = self._ledger.fact(fact)
            if known is None:
                known = "yes" if await self._probe(len(PROBE.candidates) if array else 2) else "no"
                self._ledger.set_fact(fact, known)
        return known == "yes"

    async def _probe(self, k: int) -> bool:
        """Ask for a line of text under a schema: only a server that enforces the schema answers in JSON."""
        try:
            reply = await self._calls.reply(self._call(k, structured=True))
        except CallFailed as error:
            if error.failure.status not in REQUEST_FAULTS:
                raise self._unusable(error) from error
        else:
            return self._is_structured(reply, k)
        try:
            self._check_room(await self._calls.reply(self._call(k, structured=False)))
        except CallFailed as error:
            raise self._unusable(error) from error
        return False

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

    def _is_structured(self, reply: ChatReply, k: int) -> bool:
        try:
            parse_reply(reply.text, k, structured=True)
        except ReplyUnusable:
            self._check_room(reply)
            return False
        return True

    def _check_room(self, reply: ChatReply) -> None:
        """UserError for a model that spends its whole answer on thinking: all items would be paid for in vain."""
        if reply.cut_off and not reply.text.strip():
            raise UserError(
                f"black_box: model {self._calls.model!r} used all of its output tokens before it answered;"
                " raise the limit, e.g. black_box.request={max_completion_tokens: 4096}"
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
