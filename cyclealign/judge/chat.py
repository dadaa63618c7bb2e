"""What comes back from a chat endpoint: a reply, or why there is none. No network here."""

from __future__ import annotations

import json
from dataclasses import dataclass

# Refusals that concern one request (too long, filtered, a field that is not supported), not the endpoint.
REQUEST_FAULTS = (400, 413, 422)
RETRYABLE = (408, 409, 429)
# Whoever answers these may have been waiting for a model that went on, and is billed.
PERHAPS_BILLED = (408, 504)
SHOWN = 300  # characters of a server's message in ours


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a chat completion says. ``refused``: by the refusal field or a content filter."""

    text: str
    cut_off: bool
    refused: bool
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt without a reply.

    wait: seconds that the server asked for. sent: False when the request surely never left. reply: the body of a
    successful response that is no chat completion.
    """

    detail: str
    status: int | None = None
    code: str = ""
    wait: float | None = None
    timed_out: bool = False
    sent: bool = True
    reply: str | None = None

    @property
    def retryable(self) -> bool:
        if self.code == "insufficient_quota":  # OpenAI's 429 for an empty account
            return False
        return self.status is None or self.status in RETRYABLE or self.status >= 500 or self.reply is not None

    @property
    def perhaps_billed(self) -> bool:
        return self.sent if self.status is None else self.status in PERHAPS_BILLED or self.reply is not None

    @property
    def overload(self) -> bool:
        return self.timed_out or self.status in (408, 429, 503)


class CallFailed(Exception):
    """A request that got no reply: after all attempts, or because the server refuses this one."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def read_reply(raw: str) -> ChatReply:
    """The first choice of a chat completion's JSON. ValueError where it is not one."""
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        message = choice["message"]
        content = message.get("content")
        usage = body.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(one_line(raw) or "it is empty") from error
    finish = choice.get("finish_reason")
    return ChatReply(
        text=content if isinstance(content, str) else "",
        cut_off=finish == "length",
        refused=bool(message.get("refusal")) or finish == "content_filter",
        input_tokens=counts[0] if isinstance(counts[0], int) else None,
        output_tokens=counts[1] if isinstance(counts[1], int) else None,
    )


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
