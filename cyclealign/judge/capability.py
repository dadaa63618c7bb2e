"""What an endpoint can do: found out by tiny calls before anything else is paid for, revised by what comes later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Literal

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.judge.answers import answer_format
from cyclealign.judge.asked import ENUM_UP_TO, Asked, asked_of
from cyclealign.judge.call import AnswerForm, Call
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.costs import request_options
from cyclealign.judge.failures import REQUEST_FAULTS, CallFailed, Failure
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.prompting import render
from cyclealign.judge.providers import profile_of, reasoning_fields
from cyclealign.judge.replies import ReplyUnusable
from cyclealign.judge.template import RankTemplate
from cyclealign.judge.thinking import set_aside
from cyclealign.judge.verdicts import read_verdict
from cyclealign.judge.wire import LENGTH_OPTIONS, Wire, refused_field
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
# Forms that one request is put in, one after the other, before it is given up: two names of the limit, no temperature,
# no seed, three limits, three forms of answer.
MOST_FORMS = 12
# unsure: nothing said that a schema is what fails; the next start asks again. Text is the answer until then.
Found = Literal[AnswerForm, "unsure"]
SAID: Mapping[Found, str] = {
    "schema": "as JSON held to a schema",
    "object": "as JSON of no schema",
    "text": "as lines of text",
    "unsure": "as lines of text",
}
LOGPROB_FIELDS = ("logprobs", "top_logprobs")


class Capability:
    """Belongs to one event loop. What is found is a fact on the ledger, so that it is asked once a run."""

    def __init__(self, config: BlackBoxConfig, template: RankTemplate, ledger: Ledger, calls: PaidCalls) -> None:
        """UserError where the provider has no such level of reasoning."""
        self._config = config
        self._asked = asked_of(config)
        self._template = template
        self._ledger = ledger
        self._calls = calls
        self._wire = Wire(config, ledger, calls.endpoint, calls.model)
        self._asking = asyncio.Lock()
        self._found: dict[str, Found] = {}
        self._ignored = 0
        self._faults: dict[str, str] = {}  # by field of the user's own that the server refuses
        calls.greeting = self._call(2, "text")

    def options(self, k: int) -> dict[str, Any]:
        """The request's fields besides model, messages and schema, as the endpoint takes them."""
        return request_options(self._config, k, self._wire.form)

    async def form(self, k: int) -> AnswerForm:
        """To what answers over ``k`` candidates can be held.

        Raises UserError with all that is wrong where the endpoint serves no such call, and BudgetSpent.
        """
        shape = self._shape(k)
        async with self._asking:
            if shape not in self._found:
                known = self._ledger.fact(self._fact(shape))
                if known in ("schema", "object", "text"):
                    self._found[shape] = known  # type: ignore[assignment]
                else:
                    self._set(shape, *await self._probed(len(PROBE.candidates) if k > ENUM_UP_TO else 2))
        if self._config.form == "schema" and self._found[shape] != "schema":
            raise UserError(
                f"black_box.form=schema: {self._calls.endpoint} does not hold {self._calls.model!r} to a JSON schema,"
                f" it answers {SAID[self._found[shape]]}; set black_box.form=auto"
            )
        return self._form(shape)

    def _form(self, shape: str) -> AnswerForm:
        found = self._found.get(shape, "unsure")
        return "text" if found == "unsure" else found

    def _shape(self, k: int) -> str:
        """Of answers that are found out together."""
        if self._asked.answer == "first_token":
            return "letter"
        return "line" if self._config.form == "text" else self._asked.shape(k)

    def _cut_short(self, reply: ChatReply) -> bool:
        """Whether an answer did not fit into its limit."""
        return reply.cut_off and self._asked.answer != "first_token"

    # What later calls teach ------------------------------------------------------------------------------------

    def learn(self, failure: Failure, call: Call, k: int) -> bool:
        """From a refusal; whether the same can be asked again in another form."""
        if self.options(k) != call.options or self._form(self._shape(k)) != call.form:
            return True  # another call has learnt it meanwhile
        if self._wire.adapt(failure, call.options):
            return True
        revisable = call.form != "text" and self._config.form != "schema"
        if revisable and failure.status in (400, 404, 422) and failure.about_schema:
            self._given_up(k, str(failure.detail))
            return True
        return False

    def heard(self, reply: ChatReply, call: Call, k: int) -> None:
        """From a reply: whether thinking had room, and whether it is JSON at all where that was asked for."""
        if reply.recorded:  # in another form, perhaps, than this call would have been
            return
        if self._cut_short(reply) and _thinking(reply):
            self._wire.widen(call.options)
        if self._config.form == "schema" or not reply.structured:
            return
        if reply.end != "natural" or reply.refused or not reply.answer.strip():
            return
        if _is_verdict(reply, k, self._asked, structured=False):  # a schema that is held to lets nobody write this
            self._ignored = IGNORED
        else:
            self._ignored = 0 if reply.answer.rstrip().endswith(("}", "```")) else self._ignored + 1
        if self._ignored >= IGNORED:
            self._given_up(k, "the server does not hold its answers to JSON any more")

    def _given_up(self, k: int, why: str) -> None:
        """The form has failed although the probe had it: from now on answers are asked for as text."""
        if self._found.get(self._shape(k)) in ("schema", "object"):
            self._set(self._shape(k), "unsure", why)

    def _set(self, shape: str, found: Found, why: str) -> None:
        self._found[shape] = found
        self._ledger.set_fact(self._fact(shape), found)
        because = f" ({why})" if why else ""
        log.info("black_box: %s answers %s%s", self._calls.model, SAID[found], because)

    def _fact(self, shape: str) -> str:
        return f"answers {shape}: {self._calls.endpoint} {self._calls.model}"

    # The probe --------------------------------------------------------------------------------------------------

    async def _probed(self, k: int) -> tuple[Found, str]:
        """The form of answer, once the endpoint takes all of the request. UserError with all that it does not take."""
        self._faults.clear()
        try:
            found = await self._probe(k)
        except UserError as error:
            raise UserError("; ".join([*self._faults.values(), str(error)])) from error
        except CallFailed as error:
            raise UserError("; ".join(self._faults.values() or [self._not_served(error)])) from error
        if self._faults:
            raise UserError("; ".join(self._faults.values()))
        return found

    async def _probe(self, k: int) -> tuple[Found, str]:
        """Ask for a line of text under a schema: only a server that enforces the schema answers in JSON."""
        if self._asked.answer == "first_token":
            self._check_first(await self._ask(k, "text"))
            return "text", ""
        if self._config.form == "text":
            self._check_room(await self._ask(k, "text"))
            return "text", "black_box.form=text"
        profile = profile_of(self._config)
        if not profile.json_schema:
            return await self._probe_below(k, "its provider takes no schema")
        asked = 1
        try:
            reply = await self._ask(k, "schema")
            found = self._held(reply, k)
            if found == "unsure":  # cut, empty, broken off: once is no answer
                asked = 2
                reply = await self._ask(k, "schema", again=True)
                found = self._held(reply, k)
                self._check_room(reply)
        except CallFailed as refused:
            if refused.failure.status is None or self._faults:
                raise
            if refused.failure.about_schema:
                return await self._probe_below(k, str(refused))
            return await self._probe_without(k, refused, last=asked == 2)
        return found, "" if found == "schema" else "the server ignores a schema"

    async def _probe_below(self, k: int, why: str) -> tuple[Found, str]:
        """Where there is no schema: JSON of any shape, asked for in words too; else a line of text."""
        if profile_of(self._config).json_object:
            try:
                reply = await self._ask(k, "object")
                if reply.end == "natural" and not reply.text.strip():
                    reply = await self._ask(k, "object", again=True)  # blanks are known to come instead, at times
                if _is_verdict(reply, k, self._asked, structured=True):
                    return "object", why
            except CallFailed as refused:
                if refused.failure.status is None:
                    raise
        self._check_room(await self._ask(k, "text"))
        return "text", why

    async def _probe_without(self, k: int, refused: CallFailed, *, last: bool) -> tuple[Found, str]:
        """A call with a schema failed without saying why; one without tells whether it is the schema, and one more, if
        it is not the ``last`` one, whether it still is."""
        self._check_room(await self._ask(k, "text"))
        if refused.failure.retryable or last:
            return "unsure", str(refused)
        try:
            found = self._held(await self._ask(k, "schema", again=True), k)
        except CallFailed as error:
            return "text", str(error)
        return found, "" if found == "schema" else "the server ignores a schema"

    async def _ask(self, k: int, form: AnswerForm, *, again: bool = False) -> ChatReply:
        """The reply to a probe, after all that the wire form had to follow. What the user's own fields meet is noted
        and left out, so that one start finds all of it."""
        refused: set[str] = set()
        while True:
            call = self._call(k, form)
            try:
                reply = await self._calls.reply(call, attempts=ATTEMPTS, again=again)
            except CallFailed as error:
                round_again = call.key in refused or not self._wire.adapt(error.failure, call.options)
                if round_again and not self._at_fault(error.failure, call):
                    raise
                refused.add(call.key)
                continue
            if not (self._cut_short(reply) and self._wire.widen(call.options)):
                break
        if self._cut_short(reply):
            self._check_room(reply)
        return reply

    def _at_fault(self, failure: Failure, call: Call) -> bool:
        """Note that a field which the user has set is refused."""
        name = refused_field(failure, call.options)
        if name is None or failure.status not in REQUEST_FAULTS:
            return False
        where, change = f"black_box.request.{name}", "remove it, or give it what the server takes"
        if name in reasoning_fields(self._config):
            where, change = f"black_box.reasoning={self._config.reasoning}", "take another level, or null"
        elif name in LOGPROB_FIELDS and name not in self._config.request:
            where, change = "black_box.answer=first_token", "take scores or ranking"
        elif name == "temperature":
            change = "set black_box.request={temperature: null} to send none"
        elif name in LENGTH_OPTIONS and name not in self._config.request:
            where, change = "the limit of an answer", "set black_box.request={max_tokens: null} to send none"
        elif name in LENGTH_OPTIONS:
            change = "give a limit that the server takes"
        elif name not in self._config.request:
            return False
        self._faults[name] = f"{where}: {self._calls.endpoint} refuses it ({failure.detail}); {change}"
        return name not in LENGTH_OPTIONS  # nothing is asked without a limit

    def _call(self, k: int, form: AnswerForm) -> Call:
        item = CandidateSet(PROBE.prompt, PROBE.candidates[:k])
        return Call(
            endpoint=self._calls.endpoint,
            model=self._calls.model,
            messages=render(self._template, (), item, range(k), structured=form == "object", asked=self._asked),
            schema=answer_format(k, form, self._asked),
            options={name: value for name, value in self.options(k).items() if name not in self._faults},
            purpose="probe",
        )

    def _held(self, reply: ChatReply, k: int) -> Found:
        if reply.end != "natural":
            return "unsure"
        if _is_verdict(reply, k, self._asked, structured=True):
            return "schema"
        return "text" if reply.text.strip() else "unsure"

    def _check_room(self, reply: ChatReply) -> None:
        """UserError where no answer can be read of this model: all items would be paid for in vain."""
        if reply.text.strip() and not (reply.cut_off and _thinking(reply)):
            return
        model = f"black_box: model {self._calls.model!r}"
        if reply.cut_off:
            raise UserError(
                f"{model} used all of its output tokens before it answered; let it think less, e.g."
                " black_box.reasoning=low, or raise the limit, e.g. black_box.request={max_completion_tokens: 65536}"
            )
        if reply.thoughts.strip() and not reply.structured:
            raise UserError(
                f"{model} leaves its content empty: its answer stands in the field {reply.thoughts_in}, among what it"
                " thinks; turn thinking off for this model (black_box.reasoning=off), or give the server the right"
                " parser for it"
            )

    def _check_first(self, reply: ChatReply) -> None:
        """UserError where no first token of this model can be read."""
        model = f"black_box.answer=first_token: model {self._calls.model!r} at {self._calls.endpoint}"
        if reply.thoughts.strip() or set_aside(reply.text).unfinished:
            raise UserError(f"{model} thinks before it answers; set black_box.reasoning=off, or take another answer")
        if not reply.first:
            raise UserError(f"{model} is given no top_logprobs by its server; take scores or ranking")

    def _not_served(self, error: CallFailed) -> str:
        where = f"black_box: {self._calls.endpoint} does not serve model {self._calls.model!r}"
        return f"{where} ({error}); check black_box.model and black_box.request"


def _thinking(reply: ChatReply) -> bool:
    """Whether what came is thoughts alone, or nothing."""
    return set_aside(reply.text).unfinished or not reply.text.strip()


def _is_verdict(reply: ChatReply, k: int, asked: Asked, *, structured: bool) -> bool:
    try:
        read_verdict(reply.answer, k, asked, structured=structured)
    except ReplyUnusable:
        return False
    return True
