"""Calls that ask for text, not for a verdict: sent in whatever wire form the endpoint takes."""

from __future__ import annotations

from collections.abc import Callable

from cyclealign.judge.call import Call
from cyclealign.judge.capability import MOST_FORMS
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.failures import CallFailed
from cyclealign.judge.paid_calls import PaidCalls
from cyclealign.judge.wire import Wire


async def reply_in_form(calls: PaidCalls, wire: Wire, made: Callable[[], Call]) -> ChatReply:
    """The reply to a call; ``made`` makes it in the wire form as it is known then. Raises as ``PaidCalls.reply``."""
    for left in reversed(range(MOST_FORMS)):
        call = made()
        try:
            return await calls.reply(call)
        except CallFailed as error:
            learnt = made().options != call.options  # by another call, meanwhile
            if left == 0 or not (learnt or wire.adapt(error.failure, call.options)):
                raise
    raise AssertionError("the last form is answered or raises")
