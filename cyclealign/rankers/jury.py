"""A jury: several judges behind APIs rank every list, and what they say together is the verdict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import judge_names
from cyclealign.judge.ledger import Ledger, LedgerUnavailable
from cyclealign.judge.limits import RetryPolicy
from cyclealign.judge.streaming import Work, stream
from cyclealign.judge.template import RankTemplate
from cyclealign.rankers.black_box import PRECEDENCE, BlackBoxRanker, Item, not_covered, run_probe
from cyclealign.rankers.consensus import aggregate
from cyclealign.rankers.presenting import Seeds, orders_of_judge
from cyclealign.rankers.scored import too_few
from cyclealign.types import CandidateSet, RankContext, Ranking, RunStopped, Unranked, UserError, Vote

log = logging.getLogger(__name__)
# A judge that has no usable reply to its first so many lists is not asked about the others.
NEVER = 16
Asking = Work[Item, Ranking | Unranked]


@dataclass
class _Seat:
    """One judge. gone: why it is not asked any more. in_vain: lists that it was asked about before its first vote."""

    name: str
    judge: BlackBoxRanker
    passes: int
    gone: UserError | RunStopped | None = None
    useful: bool = False
    in_vain: int = 0

    def leave(self, why: UserError | RunStopped) -> None:
        if self.gone is None:
            self.gone = why
            log.warning("black_box: judge %s is not asked any more: %s", self.name, why)

    def heard(self, answer: Ranking | Unranked) -> None:
        """Whether it is of any use, from one answer."""
        self.useful = self.useful or isinstance(answer, Ranking)
        if self.useful or not isinstance(answer, Unranked) or answer.reason == "budget":
            return
        self.in_vain += 1
        if self.in_vain >= NEVER:
            why = answer.detail or answer.reason
            self.leave(UserError(f"it has given no usable reply to {NEVER} lists, the first that it saw (last: {why})"))


class JuryRanker:
    """Ranks by the consensus of several judges, pass i by judge i mod n; implements ``types.Ranker``.

    A judge has a vote on a list where all of its passes have one, and a list of ``quorum`` votes is ranked: what the
    others lack is on record beside it (``types.Vote``). A judge that cannot be asked (its key, its host, an outage), or
    that never gives a usable reply, is left out from there on, until a second start; the call ends where fewer than
    ``quorum`` are left. A list that the budget cuts short is not ranked, whoever has voted: who is asked last must not
    decide. Each judge has its own probe, profile, rates, prices and presentation orders; ledger and budget are one.
    """

    def __init__(
        self,
        config: BlackBoxConfig,
        template: RankTemplate,
        ledger: Ledger,
        *,
        retry: RetryPolicy | None = None,
    ) -> None:
        """UserError with all that is missing or wrong of any judge's key, price and request."""
        self.gives: Literal["order", "votes"] = "votes" if config.gives == "votes" else "order"
        self._config = config
        self._quorum = config.quorum or len(config.judges)
        self._seats: list[_Seat] = []
        faults = []
        for name, own in zip(judge_names([(j.base_url, j.model) for j in config.judges]), config.members, strict=True):
            try:
                judge = BlackBoxRanker(own, template, ledger, retry=retry)
                self._seats.append(_Seat(name, judge, own.passes))
            except UserError as fault:
                faults.append(str(fault))
        if faults:
            raise UserError("; ".join(dict.fromkeys(faults)))

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings in order of completion, while ``sets`` is still being produced in a thread of its own.

        Raises:
            UserError, RunStopped: fewer judges are left than the quorum; says what became of the others.
            BudgetExhausted: at the end, as ``BlackBoxRanker.rank``.
        """
        yield from stream(self._questions(sets, context), self._opened, window=2 * self._config.max_concurrency)
        if self._exhausted:
            raise not_covered(self._config, "the next call")

    def preflight(self, k: int) -> None:
        """Find out which judges answer, and in which form; as ``BlackBoxRanker.preflight``, and it goes on without
        those that do not, as far as the quorum allows. Raises as ``rank``."""

        async def probe() -> None:
            found = await asyncio.gather(*(seat.judge.probed(k) for seat in self._seats), return_exceptions=True)
            for seat, error in zip(self._seats, found, strict=True):
                self._without(seat, error)
            self._check_quorum()

        run_probe(probe(), self._config)

    @property
    def _exhausted(self) -> bool:
        return any(seat.judge.exhausted for seat in self._seats)

    def _questions(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[tuple[Item, ...]]:
        """Each list as each judge is shown it."""
        seeds = Seeds(context.seed, context.run, context.interaction)
        for item in self._seats[0].judge.items(sets, context):
            k, seed = len(item.set.candidates), seeds.of(item.set)
            drawn = [orders_of_judge(n, k, s.passes, seed=seed) if k > 1 else () for n, s in enumerate(self._seats)]
            yield tuple(replace(item, orders=orders) for orders in drawn)
            if self._exhausted:
                return

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Work[tuple[Item, ...], Ranking | Unranked]]:
        async with AsyncExitStack() as stack:
            asking = [await stack.enter_async_context(seat.judge.opened()) for seat in self._seats]

            async def verdict(items: tuple[Item, ...]) -> Ranking | Unranked:
                if len(items[0].set.candidates) < 2:
                    return too_few(items[0].set)
                each = zip(self._seats, asking, items, strict=True)
                answers = await asyncio.gather(*(self._answer(*one) for one in each))
                self._check_quorum()
                return self._together(items, answers)

            yield verdict

    async def _answer(self, seat: _Seat, ask: Asking, item: Item) -> Ranking | Unranked:
        """What one judge says of a list."""
        if seat.gone is None:
            try:
                answer = await ask(item)
            except (UserError, RunStopped) as error:
                self._without(seat, error)
            else:
                seat.heard(answer)
                return answer
        return Unranked(item.set.prompt.id, "error", str(seat.gone))

    def _without(self, seat: _Seat, error: BaseException | None) -> None:
        """Go on without a judge that cannot be asked; what is no fault of its own is raised."""
        if isinstance(error, UserError | RunStopped) and not isinstance(error, LedgerUnavailable):
            seat.leave(error)
        elif error is not None:
            raise error

    def _check_quorum(self) -> None:
        gone = [seat.gone for seat in self._seats if seat.gone is not None]
        left = len(self._seats) - len(gone)
        if left >= self._quorum:
            return
        why = "; ".join(f"{seat.name}: {seat.gone}" for seat in self._seats if seat.gone is not None)
        few = f"{left} of {len(self._seats)} can be asked, and black_box.quorum is {self._quorum}"
        raise type(gone[-1])(f"black_box.judges: {few}: {why}")

    def _together(self, items: Sequence[Item], answers: Sequence[Ranking | Unranked]) -> Ranking | Unranked:
        prompt_id, set_id = items[0].set.prompt.id, items[0].set.id
        failed = [a for a in answers if isinstance(a, Unranked)]
        given = [a for a in answers if isinstance(a, Ranking)]
        if any(a.reason == "budget" for a in failed):
            return Unranked(prompt_id, "budget", set_id=set_id)
        if len(given) < self._quorum:
            reason = min((a.reason for a in failed), key=PRECEDENCE.index)
            why = "; ".join(
                f"{seat.name}: {a.detail or a.reason}"
                for seat, a in zip(self._seats, answers, strict=True)
                if isinstance(a, Unranked)
            )
            detail = f"{len(given)} of {len(answers)} judges have a vote, and {self._quorum} are needed ({why})"
            return Unranked(prompt_id, reason, detail, set_id=set_id)
        ranking = aggregate(prompt_id, [order for a in given for order in a.passes])
        votes = tuple(_vote(s.name, i, a) for s, i, a in zip(self._seats, items, answers, strict=True))
        reasons = tuple(reason for a in given for reason in a.reasons)
        return replace(ranking, jury=votes, reasons=reasons, set_id=set_id)


def _vote(name: str, item: Item, answer: Ranking | Unranked) -> Vote:
    if isinstance(answer, Unranked):
        return Vote(judge=name, unranked=answer.reason, detail=answer.detail or None)
    shown = tuple(tuple(item.set.ids[i] for i in order) for order in item.orders)
    return Vote(judge=name, shown=shown, passes=answer.passes, reverse=answer.reverse or None)
