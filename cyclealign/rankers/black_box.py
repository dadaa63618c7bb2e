"""The black box: a model behind an OpenAI-compatible API ranks candidates in context of demonstrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

from cyclealign.config.schema import BlackBoxConfig
from cyclealign.judge.call import AnswerForm, Call, Purpose
from cyclealign.judge.capability import MOST_FORMS, Capability
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.costs import asked_options
from cyclealign.judge.failures import CallFailed
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import BudgetSpent, RetryPolicy
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.prompting import answer_format, presentations, render, repair_messages, unshuffle
from cyclealign.judge.replies import ReplyUnusable, is_refusal, parse_reply
from cyclealign.judge.streaming import Work, stream
from cyclealign.judge.template import RankTemplate
from cyclealign.judge.thinking import set_aside
from cyclealign.rankers.consensus import aggregate
from cyclealign.rankers.presenting import Seeds
from cyclealign.rankers.scored import too_few
from cyclealign.types import (
    BudgetExhausted,
    CandidateSet,
    Demonstration,
    Message,
    RankContext,
    Ranking,
    Unranked,
    UnrankedReason,
)

# Which of an item's failed passes is reported: what a larger budget or a working server would mend comes first.
PRECEDENCE: tuple[UnrankedReason, ...] = ("budget", "error", "refusal", "unusable")


@dataclass(frozen=True, slots=True)
class _Item:
    """A set, with what was chosen for it in the thread of the source."""

    set: CandidateSet
    demonstrations: tuple[Demonstration, ...]
    context: RankContext
    orders: tuple[tuple[int, ...], ...]  # its presentations, a pass each


class _NoVerdict(Exception):
    def __init__(self, reason: UnrankedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: UnrankedReason = reason
        self.detail = detail


class BlackBoxRanker:
    """Ranks by paid calls, ``passes`` presentation orders an item, each its own call; implements ``types.Ranker``.

    An item is ranked when all of its passes are (a consensus of fewer would weigh its presentation orders unevenly),
    else it is Unranked: ``unusable`` or ``refusal`` after one repair call, ``error`` after all attempts or where
    the server refuses this one request, ``budget``, ``too_few`` without a call. A list that the context wants
    ``shown_again`` is asked about once more, from the end of its first order. Presentation orders are a function of
    the context and the prompt alone where it stands once in a call (``presenting.Seeds`` says what else), so that a
    resumed run finds its calls on the ledger.
    """

    def __init__(
        self,
        config: BlackBoxConfig,
        template: RankTemplate,
        ledger: Ledger,
        *,
        retry: RetryPolicy | None = None,
    ) -> None:
        """UserError where the key is missing, or the request cannot be held to a budget."""
        self.gives: Literal["order", "votes"] = "votes" if config.passes >= 2 else "order"
        self._config = config
        self._template = template
        self._ledger = ledger
        self._calls = PaidCalls(
            config, ledger, retry or RetryPolicy(attempts=config.attempts, deadline=config.timeout_s)
        )

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings in order of completion, while ``sets`` is still being produced in a thread of its own.

        Raises:
            UserError: no call can succeed (host, key, model, a request field); nothing after it is paid.
            RunStopped: the judge has given no reply at all for ``outage_minutes``.
            BudgetExhausted: at the end, after all that was ranked; sets that were not taken yet have no record.
        """
        # Twice the calls in flight: enough that a call that ends finds the next item waiting.
        yield from stream(self._items(sets, context), self._open, window=2 * self._config.max_concurrency)
        if self._calls.exhausted:
            raise BudgetExhausted(f"black_box.budget_usd={self._config.budget_usd} does not cover the next call")

    def preflight(self, k: int) -> None:
        """Find out whether the endpoint answers at all, and in which form: one tiny call, none if it is on the ledger.

        Raises UserError as ``rank`` would, and BudgetExhausted where not even this call fits.
        """

        async def probe() -> None:
            async with self._calls.open():
                await Capability(self._config, self._template, self._ledger, self._calls).form(k)

        try:
            asyncio.run(probe())
        except BudgetSpent as error:
            raise BudgetExhausted(f"black_box.budget_usd={self._config.budget_usd} does not cover one call") from error

    def _items(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[_Item]:
        seeds = Seeds(context.seed, context.run, context.interaction)
        for item in sets:
            shown = item.demonstrations
            if shown is None:
                shown = () if len(item.candidates) < 2 else tuple(context.demonstrations.select(item.prompt))
            k, seed = len(item.candidates), seeds.of(item)
            orders = () if k < 2 else presentations(k, self._config.passes, seed=seed)
            yield _Item(item, shown, context, orders)
            if self._calls.exhausted:  # making more candidates would be in vain
                return

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Work[_Item, Ranking | Unranked]]:
        async with self._calls.open():
            self._capability = Capability(self._config, self._template, self._ledger, self._calls)
            yield self._rank_item

    async def _rank_item(self, item: _Item) -> Ranking | Unranked:
        if len(item.set.candidates) < 2:
            return too_few(item.set)
        return replace(await self._verdict(item), set_id=item.set.id)

    async def _verdict(self, item: _Item) -> Ranking | Unranked:
        prompt_id, ids = item.set.prompt.id, item.set.ids
        try:
            await self._capability.form(len(ids))
        except BudgetSpent:
            return Unranked(prompt_id, "budget")
        orders = item.orders
        reverse = orders[0][::-1]
        again = prompt_id in item.context.shown_again and reverse not in orders
        asked = (*orders, reverse) if again else orders
        # All passes are finished even if one fails early: which calls are on the ledger must not depend on timing.
        found = await asyncio.gather(*(self._pass(item, n, order) for n, order in enumerate(asked)))
        passes = found[: len(orders)]
        failed = [p for p in passes if isinstance(p, Unranked)]
        if failed:
            return min(failed, key=lambda unranked: PRECEDENCE.index(unranked.reason))
        ranking = aggregate(prompt_id, [[ids[index] for index in p] for p in passes if not isinstance(p, Unranked)])
        answer = found[asked.index(reverse)] if reverse in asked else ()
        # That it could not be measured is no fault of the verdict.
        return ranking if isinstance(answer, Unranked) else replace(ranking, reverse=tuple(ids[i] for i in answer))

    async def _pass(self, item: _Item, number: int, order: Sequence[int]) -> tuple[int, ...] | Unranked:
        """Candidate indices best first, as one presentation order gave them."""
        try:
            slots = await self._slots(item, number, order)
        except _NoVerdict as none:
            return Unranked(item.set.prompt.id, none.reason, none.detail)
        except CallFailed as error:
            # Of a key and a model that were served before, 403 is about this prompt.
            refusal = error.failure.moderation or error.failure.status == 403
            return Unranked(item.set.prompt.id, "refusal" if refusal else "error", str(error))
        except BudgetSpent:
            return Unranked(item.set.prompt.id, "budget")
        return unshuffle(slots, order)

    async def _slots(self, item: _Item, number: int, order: Sequence[int]) -> tuple[int, ...]:
        """Slots best first; with one repair call when the reply cannot be used."""
        k = len(order)
        content = render(self._template, item.demonstrations, item.set, order, structured=True)
        reply = await self._asked(item, number, order, content)
        try:
            return _read(reply, k)
        except ReplyUnusable as problem:
            reason = problem.reason
        reply = await self._asked(item, number, order, content, (reply.answer, reason))
        try:
            return _read(reply, k)
        except ReplyUnusable as problem:
            refusal = is_refusal(reply.text)
            raise _NoVerdict("refusal" if refusal else "unusable", problem.reason) from problem

    async def _asked(
        self,
        item: _Item,
        number: int,
        order: Sequence[int],
        content: list[Message],
        repair: tuple[str, str] | None = None,
    ) -> ChatReply:
        """The reply to one call, in the form of answer that the endpoint can be held to; ``repair``: an unusable reply
        and what is wrong with it."""
        k = len(order)
        for left in reversed(range(MOST_FORMS)):
            form = await self._capability.form(k)
            messages = content
            if form == "text":
                messages = render(self._template, item.demonstrations, item.set, order, structured=False)
            if repair is not None:
                messages = repair_messages(messages, *repair)
            call = self._call(item, number, messages, content, form, repair)
            try:
                reply = await self._calls.reply(call)
            except CallFailed as error:
                if left == 0 or not self._capability.learn(error.failure, call, k):
                    raise
                continue
            self._capability.heard(reply, call, k)
            return reply
        raise AssertionError("the last form is answered or raises")

    def _call(
        self,
        item: _Item,
        number: int,
        messages: Sequence[Message],
        content: Sequence[Message],
        form: AnswerForm,
        repair: object,
    ) -> Call:
        k = len(item.set.candidates)
        purpose: Purpose = item.context.purpose
        if purpose == "rank" and number >= len(item.orders):
            purpose = "again"
        return Call(
            endpoint=self._calls.endpoint,
            model=self._calls.model,
            messages=messages,
            schema=answer_format(k, form),
            options=self._capability.options(k),
            asked=asked_options(self._config),
            purpose="repair" if repair is not None and purpose == "rank" else purpose,
            content=content,
            repairs=repair is not None,
            prompt_id=item.set.prompt.id,
            interaction=item.context.interaction,
            pass_number=number,
        )


def _read(reply: ChatReply, k: int) -> tuple[int, ...]:
    """Slots best first. Raises ReplyUnusable, or _NoVerdict for a refusal by the API's own fields."""
    if reply.refused:
        raise _NoVerdict("refusal", "the model or a content filter refused")
    if reply.end != "natural":
        thinking = set_aside(reply.text).unfinished or (not reply.text.strip() and reply.thoughts)
        if reply.cut_off:
            raise ReplyUnusable("it was cut off while it was thinking" if thinking else "it was cut off")
        raise ReplyUnusable(f"it did not end by itself (finish_reason {reply.finish})")
    if not reply.answer.strip() and reply.thoughts:
        raise ReplyUnusable(f"its content is empty, what was written stands in the field {reply.thoughts_in}")
    return parse_reply(reply.answer, k, structured=reply.structured)
