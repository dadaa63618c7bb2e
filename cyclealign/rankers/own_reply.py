"""The black box's own reply to a prompt, paid for once: a candidate beside the policy's (as RRHF and PRO had it)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.files.run_records import AnswerRecord
from cyclealign.generation.sampling import Draw, trimmed
from cyclealign.judge.call import Call
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.costs import asked_options, request_options
from cyclealign.judge.failures import CallFailed
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import BudgetSpent
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.streaming import Work, stream
from cyclealign.judge.text_calls import reply_in_form
from cyclealign.judge.thinking import set_aside
from cyclealign.judge.wire import Wire
from cyclealign.types import Prompt, UnrankedReason

K = 2  # any: of what a request holds, only the limit depends on it, and that is ours


class OwnReplies:
    """Asks the black box what it would say itself; every call is on the ledger, under the purpose ``answer``.

    ``tokens``: most of a reply, as the policy's own have it; ``black_box.request`` has the last word. It is asked
    before anything is ranked, so that the two never share a rate.
    """

    def __init__(self, config: BlackBoxConfig, ledger: Ledger, *, tokens: int) -> None:
        """UserError where the key is missing, or the request cannot be held to a budget."""
        self._config, self._ledger, self._tokens = config, ledger, tokens
        self._calls = PaidCalls(config, ledger)

    def ask(self, prompts: Sequence[Prompt], *, interaction: int) -> Iterator[AnswerRecord]:
        """A record for each prompt, in order of completion; nothing is paid for that the ledger has.

        Raises:
            UserError, RunStopped: as ``BlackBoxRanker.rank``.
        """
        opened = partial(self._open, interaction)
        yield from stream(prompts, opened, window=2 * self._config.max_concurrency)

    @asynccontextmanager
    async def _open(self, interaction: int) -> AsyncIterator[Work[Prompt, AnswerRecord]]:
        async with self._calls.open():
            wire = Wire(self._config, self._ledger, self._calls.endpoint, self._calls.model)
            yield partial(self._answered, wire, interaction)

    async def _answered(self, wire: Wire, interaction: int, prompt: Prompt) -> AnswerRecord:
        try:
            reply = await reply_in_form(self._calls, wire, partial(self._call, wire, interaction, prompt))
            return read_answer(prompt.id, reply)
        except CallFailed as error:
            refusal = error.failure.moderation or error.failure.status == 403
            reason: UnrankedReason = "refusal" if refusal else "error"
            return AnswerRecord(prompt_id=prompt.id, unanswered=reason, detail=str(error))
        except BudgetSpent:
            return AnswerRecord(prompt_id=prompt.id, unanswered="budget")

    def _call(self, wire: Wire, interaction: int, prompt: Prompt) -> Call:
        return Call(
            endpoint=self._calls.endpoint,
            model=self._calls.model,
            messages=prompt.messages,
            schema=None,
            options=request_options(self._config, K, wire.form, tokens=self._tokens),
            asked=asked_options(self._config),
            purpose="answer",
            prompt_id=prompt.id,
            interaction=interaction,
        )


def read_answer(prompt_id: str, reply: ChatReply) -> AnswerRecord:
    """The reply without what was thought, cut and trimmed as the policy's own are; or why it is none."""
    if reply.refused or reply.end == "filtered":
        return AnswerRecord(prompt_id=prompt_id, unanswered="refusal", detail="the model or a content filter refused")
    said = trimmed(Draw(set_aside(reply.text).answer, "length" if reply.cut_off else "stop"))
    if reply.end not in ("natural", "cut") or not said.text:
        what = "it is empty" if not said.text else f"it did not end by itself (finish_reason {reply.finish})"
        return AnswerRecord(prompt_id=prompt_id, unanswered="unusable", detail=what)
    return AnswerRecord(prompt_id=prompt_id, text=said.text, finish=said.finish)
