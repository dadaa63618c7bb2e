"""Why an attempt gave no reply, and what follows from it: try again, leave this request, or end the run."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Refusals that concern one request (too long, filtered, a field that is not supported), not the endpoint.
REQUEST_FAULTS = (400, 413, 422)
RETRYABLE = (408, 409, 425, 429)
# Whoever answers these may have been waiting for a model that went on, and is billed.
PERHAPS_BILLED = (408, 504, 524, 598, 599)
# What a server that is there but cannot answer says, or what stands before it.
ABSENT = (408, 429, 502, 503, 504, 520, 521, 522, 523, 524, 529)

_EMPTY_ACCOUNT = re.compile(
    r"insufficient[ _-](?:quota|balance|credits?|funds)|billing[ _](?:hard[ _]limit[ _]reached|not[ _]active)"
    r"|credit balance is too low|account[ _](?:deactivated|suspended)|payment[ _]required|out of credits|arrearage",
    re.IGNORECASE,
)
_MODERATION = re.compile(
    r"moderat|content[ _-]?(?:filter|polic|safety|management)|flagged|safety|blocked by|inappropriate|harmful"
    r"|data_inspection_failed|sensitive|prohibited|guardrail|responsible ai|usage polic",
    re.IGNORECASE,
)
_SCHEMA = re.compile(r"response_format|json|schema|structured|grammar|guided", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt without a reply.

    code: the provider's error code and type, in one text. wait: seconds that the server asked for. sent: False when
    the request surely never left. unread: a successful response whose body was given up. reply: the body of a
    successful response that is no chat completion; ``status`` is then what the error in it speaks of, else 200.
    declined: that body is an error alone. lost: the batch that it was in ended without it, at no cost. cut_prompt: what
    to change where the server did not read the whole prompt that it answered.
    """

    detail: str
    status: int | None = None
    code: str = ""
    wait: float | None = None
    timed_out: bool = False
    sent: bool = True
    unread: bool = False
    reply: str | None = None
    declined: bool = False
    lost: bool = False
    cut_prompt: str = ""

    @property
    def empty_account(self) -> bool:
        """Nothing can succeed before somebody pays; by code or type, or in words where the status is a refusal."""
        if self.status == 402 or _EMPTY_ACCOUNT.search(self.code):
            return True
        return self.status in (400, 403, 429) and _EMPTY_ACCOUNT.search(self.detail) is not None

    @property
    def moderation(self) -> bool:
        """Whether it is the content of this one request that is refused."""
        if self.status == 200:  # an error inside a successful response: its code says what it is, its words may be ours
            return _MODERATION.search(self.code) is not None
        if self.status not in (400, 403, 422, 451):
            return False
        return self.status == 451 or _MODERATION.search(f"{self.code} {self.detail}") is not None

    @property
    def about_schema(self) -> bool:
        """Whether it says that the form of answer is what it does not take."""
        return self.status is not None and _SCHEMA.search(f"{self.code} {self.detail}") is not None

    @property
    def retryable(self) -> bool:
        if self.empty_account or self.moderation or self.cut_prompt or self.lost or self.status in REQUEST_FAULTS:
            return False
        if self.status is None or self.status in RETRYABLE or self.status >= 500:
            return True
        return self.status == 200

    @property
    def absent(self) -> bool:
        """Whether it says that no judge is there, rather than that this request cannot be answered."""
        return self.retryable and self.reply is None and (self.status is None or self.status in ABSENT)

    @property
    def perhaps_billed(self) -> bool:
        if self.status is None:
            return self.sent and not self.lost
        return self.unread or self.status in PERHAPS_BILLED or (self.reply is not None and not self.declined)

    @property
    def overload(self) -> bool:
        return self.timed_out or self.status in (408, 429, 503)


class CallFailed(Exception):
    """A request that got no reply: after all attempts, or because the server refuses this one."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure
