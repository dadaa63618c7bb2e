"""The black box: a model behind an OpenAI-compatible API ranks candidates in context of demonstrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.judge.answers import answer_format
from cyclealign.judge.asked import LABELS, Asked, asked_of
from cyclealign.judge.call import AnswerForm, Call, Purpose
from cyclealign.judge.capability import MOST_FORMS, Capability
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.costs import asked_options
from cyclealign.judge.failures import CallFailed
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import BudgetSpent, RetryPolicy
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.prompting import presentations, render, repair_messages, unshuffle
from cyclealign.judge.replies import ReplyUnusable, is_refusal
from cyclealign.judge.streaming import Work, stream
from cyclealign.judge.template import RankTemplate, check_places
from cyclealign.judge.thinking import set_aside
from cyclealign.judge.verdicts import Said, read_first_token, read_verdict
from cyclealign.rankers.agreement import given_of
from cyclealign.rankers.consensus import aggregate, mean_scores
from cyclealign.rankers.presenting import Seeds
from cyclealign.rankers.scored import too_few
from cyclealign.types import (
    BudgetExhausted,
    CandidateSet,
    Demonstration,
    Given,
    Gives,
    Message,
    RankContext,
    Ranking,
    Reason,
    Unranked,
    UnrankedReason,
)

# Which of an item's failed passes is reported: what a larger budget or a working server would mend comes first.
PRECEDENCE: tuple[UnrankedReason, ...] = ("budget", "error", "refusal", "unusable")
LISTS_AT_ONCE = 20_000  # that are held in memory to go out in batches


@dataclass(frozen=True, slots=True)
class Item:
    """A set, with what was chosen for it in the thread of the source."""

    set: CandidateSet
    demonstrations: tuple[Demonstration, ...]
    context: RankContext
    orders: tuple[tuple[int, ...], ...]  # its presentations, a pass each

    @property
    def asked(self) -> tuple[tuple[int, ...], ...]:
        """All orders in which it is shown, the reverse last that is no pass but a measurement."""
        again = self.set.prompt.id in self.context.shown_again and bool(self.orders)
        reverse = self.orders[0][::-1] if again else ()
        return (*self.orders, reverse) if again and reverse not in self.orders else self.orders


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one presentation gave, the presentation undone."""

    given: Given
    scores: Mapping[str, float] | None
    reason: Reason | None


class _NoVerdict(Exception):
    def __init__(self, reason: UnrankedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: UnrankedReason = reason
        self.detail = detail


class BlackBoxRanker:
    """Ranks by paid calls, ``passes`` presentation orders an item, each its own call; implements ``types.Ranker``.

    An item is ranked when all of its passes are (a consensus of fewer would weigh its presentation orders unevenly),
    else it is Unranked: ``unusable`` or ``refusal`` after one repair call, ``error`` after all attempts or where
    the server refuses this one request, ``budget``, ``too_few`` without a call. Scores of several passes are averaged.
    A list that the context wants ``shown_again`` is asked about once more, from the end of its first order.
    Presentation orders are a function of the context and the prompt alone where it stands once in a call
    (``presenting.Seeds`` says what else), so that a resumed run finds its calls on the ledger.
    """

    def __init__(
        self,
        config: BlackBoxConfig,
        template: RankTemplate,
        ledger: Ledger,
        *,
        retry: RetryPolicy | None = None,
    ) -> None:
        """UserError where the key is missing, the request cannot be held to a budget, or the template has no place for
        the rubric."""
        self.gives: Gives = "magnitude" if config.answer != "ranking" else "votes" if config.passes >= 2 else "order"
        self._asked = asked_of(config)
        check_places(template, (), self._asked.rubric)
        self._config = config
        self._template = template
        self._ledger = ledger
        self._callers = 0  # of a batch: the presentations that are asked about
        self._calls = PaidCalls(config, ledger, retry)

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings in order of completion, while ``sets`` is still being produced in a thread of its own; in batches
        (``black_box.batch``) once it is produced.

        Raises:
            UserError: no call can succeed (host, key, model, a request field); nothing after it is paid.
            RunStopped: the judge has given no reply at all for ``outage_minutes``.
            BudgetExhausted: at the end, after all that was ranked; sets that were not taken yet have no record.
        """
        items = self.items(sets, context)
        if not self._config.batch:
            # Twice the calls in flight: enough that a call that ends finds the next item waiting.
            yield from stream(items, self.opened, window=2 * self._config.max_concurrency)
        while self._config.batch and (together := list(islice(items, LISTS_AT_ONCE))):
            self._callers = sum(len(item.asked) for item in together)
            yield from stream(together, self.opened, window=len(together))
        if self.exhausted:
            raise not_covered(self._config, "the next call")

    def preflight(self, k: int) -> None:
        """Find out whether the endpoint answers at all, and in which form: one tiny call, none if it is on the ledger.

        Raises UserError as ``rank`` would, and BudgetExhausted where not even this call fits.
        """
        run_probe(self.probed(k), self._config)

    async def probed(self, k: int) -> None:
        """``preflight`` in an event loop of the caller's. Raises UserError and BudgetSpent."""
        async with self._calls.open():
            await Capability(self._config, self._template, self._ledger, self._calls).form(k)

    @property
    def exhausted(self) -> bool:
        """Whether a call has been turned away by the budget since the judge was last opened."""
        return self._calls.exhausted

    def items(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Item]:
        """What is to be asked, until the budget turns a call away."""
        seeds = Seeds(context.seed, context.run, context.interaction)
        for item in sets:
            check_places(self._template, [item.prompt])
            shown = item.demonstrations
            if shown is None:
                shown = () if len(item.candidates) < 2 else tuple(context.demonstrations.select(item.prompt))
            k, seed = len(item.candidates), seeds.of(item)
            orders = () if k < 2 else presentations(k, self._config.passes, seed=seed)
            yield Item(item, shown, context, orders)
            if self.exhausted:  # making more candidates would be in vain
                return

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Work[Item, Ranking | Unranked]]:
        """What ranks one item, in the caller's event loop; its errors are those of ``rank``."""
        async with self._calls.open():
            self._calls.expect(self._callers)
            self._capability = Capability(self._config, self._template, self._ledger, self._calls)
            yield self._rank_item

    async def _rank_item(self, item: Item) -> Ranking | Unranked:
        if len(item.set.candidates) < 2:
            return too_few(item.set)
        if self._asked.answer == "first_token" and len(item.set.candidates) > len(LABELS):
            detail = f"answer: first_token has letters for {len(LABELS)} candidates, got {len(item.set.candidates)}"
            return Unranked(item.set.prompt.id, "unusable", detail, set_id=item.set.id)
        return replace(await self._verdict(item), set_id=item.set.id)

    async def _verdict(self, item: Item) -> Ranking | Unranked:
        prompt_id = item.set.prompt.id
        try:
            await self._capability.form(len(item.set.ids))
        except BudgetSpent:
            self._calls.leave(len(item.asked))
            return Unranked(prompt_id, "budget")
        orders, asked = item.orders, item.asked
        reverse = orders[0][::-1]
        # All passes are finished even if one fails early: which calls are on the ledger must not depend on timing.
        found = await asyncio.gather(*(self._pass(item, n, order) for n, order in enumerate(asked)))
        passes = found[: len(orders)]
        failed = [p for p in passes if isinstance(p, Unranked)]
        if failed:
            return min(failed, key=lambda unranked: PRECEDENCE.index(unranked.reason))
        ranking = _together(prompt_id, [p for p in passes if not isinstance(p, Unranked)])
        answer = found[asked.index(reverse)] if reverse in asked else None
        # That it could not be measured is no fault of the verdict.
        return replace(ranking, reverse=answer.given) if isinstance(answer, _Pass) else ranking

    async def _pass(self, item: Item, number: int, order: Sequence[int]) -> _Pass | Unranked:
        """What one presentation order gave."""
        found: _Pass | Unranked
        try:
            found = _undone(item, order, await self._said(item, number, order))
        except _NoVerdict as none:
            found = Unranked(item.set.prompt.id, none.reason, none.detail)
        except CallFailed as error:
            # Of a key and a model that were served before, 403 is about this prompt.
            refusal = error.failure.moderation or error.failure.status == 403
            found = Unranked(item.set.prompt.id, "refusal" if refusal else "error", str(error))
        except BudgetSpent:
            found = Unranked(item.set.prompt.id, "budget")
        self._calls.leave()  # not where it is cancelled: nothing more is to be sent then
        return found

    async def _said(self, item: Item, number: int, order: Sequence[int]) -> Said:
        """The verdict in terms of slots; with one repair call when the reply cannot be used."""
        k = len(order)
        content = render(self._template, item.demonstrations, item.set, order, structured=True, asked=self._asked)
        reply = await self._reply(item, number, order, content)
        try:
            return _read(reply, k, self._asked)
        except ReplyUnusable as problem:
            reason = problem.reason
        reply = await self._reply(item, number, order, content, (reply.answer, reason))
        try:
            return _read(reply, k, self._asked)
        except ReplyUnusable as problem:
            refusal = problem.refusal or is_refusal(reply.text)
            raise _NoVerdict("refusal" if refusal else "unusable", problem.reason) from problem

    async def _reply(
        self,
        item: Item,
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
                messages = render(
                    self._template, item.demonstrations, item.set, order, structured=False, asked=self._asked
                )
            if repair is not None:
                messages = repair_messages(messages, *repair, self._asked)
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
        item: Item,
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
            schema=answer_format(k, form, self._asked),
            options=self._capability.options(k),
            asked=asked_options(self._config),
            purpose="repair" if repair is not None and purpose == "rank" else purpose,
            content=content,
            repairs=repair is not None,
            prompt_id=item.set.prompt.id,
            interaction=item.context.interaction,
            pass_number=number,
        )


def not_covered(config: BlackBoxConfig, what: str) -> BudgetExhausted:
    """That the budget ends before ``what``."""
    return BudgetExhausted(f"black_box.budget_usd={config.budget_usd} does not cover {what}")


def run_probe(probe: Coroutine[Any, Any, None], config: BlackBoxConfig) -> None:
    """Probe in an event loop of its own. Raises what the probe does, and BudgetExhausted where no call fits."""
    try:
        asyncio.run(probe)
    except BudgetSpent as error:
        raise not_covered(config, "one call") from error


def _read(reply: ChatReply, k: int, asked: Asked) -> Said:
    """The verdict of a reply. Raises ReplyUnusable, or _NoVerdict for a refusal by the API's own fields."""
    if reply.refused:
        raise _NoVerdict("refusal", "the model or a content filter refused")
    if asked.answer == "first_token":
        return read_first_token(reply.first, k)
    _check_end(reply)
    return read_verdict(reply.answer, k, asked, structured=reply.structured)


def _together(prompt_id: str, passes: Sequence[_Pass]) -> Ranking:
    """The verdict of all passes."""
    scores = [p.scores for p in passes if p.scores is not None]
    ranking = mean_scores(prompt_id, scores) if scores else aggregate(prompt_id, [p.given for p in passes])
    return replace(ranking, reasons=tuple(p.reason for p in passes if p.reason is not None))


def _check_end(reply: ChatReply) -> None:
    """ReplyUnusable where it is not the whole of an answer."""
    if reply.end != "natural":
        thinking = set_aside(reply.text).unfinished or (not reply.text.strip() and reply.thoughts)
        if reply.cut_off:
            raise ReplyUnusable("it was cut off while it was thinking" if thinking else "it was cut off")
        raise ReplyUnusable(f"it did not end by itself (finish_reason {reply.finish})")
    if not reply.answer.strip() and reply.thoughts:
        raise ReplyUnusable(f"its content is empty, what was written stands in the field {reply.thoughts_in}")


def _undone(item: Item, order: Sequence[int], said: Said) -> _Pass:
    """A verdict on slots as one on candidates."""
    ids = item.set.ids
    shown = tuple(ids[i] for i in unshuffle(range(len(order)), order))
    # What is tied stands in the order of the set: that of the slots would say something.
    tiers = tuple(tuple(ids[i] for i in sorted(unshuffle(tier, order))) for tier in said.tiers)
    by_id = None if said.scores is None else dict(zip(shown, said.scores, strict=True))
    scores = None if by_id is None else {i: by_id[i] for i in ids}
    return _Pass(given_of(tiers), scores, Reason(shown=shown, text=said.reason) if said.reason else None)
