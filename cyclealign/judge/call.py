"""One request to a judge, as it is identified and accounted for; and what requests have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from cyclealign.types import Message, sha256_hex

# eval: calls that only measure a ranker on labelled pairs, their repairs included. answer: for a reply of its own.
# reflect: of the model that proposes a better instruction. witness: of who only watches a run, its probes included.
Purpose = Literal["rank", "again", "repair", "probe", "eval", "answer", "reflect", "witness"]
# Whose money it is: a budget holds within one of them.
Account = Literal["judge", "witness"]

# Fields of a request's body beside model and messages, by the API's own names.
Options = Mapping[str, Any]
# JSON of a provider's, or for one.
Body = dict[str, Any]
# Options that say how an answer is to be sent, not what is asked for: adapted to what a server takes.
WIRE_OPTIONS = ("max_tokens", "max_completion_tokens", "temperature")
# A schema, JSON of any shape, or a line of text.
AnswerForm = Literal["schema", "object", "text"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """``messages``, ``schema`` and ``options`` (the body's other fields) are the wire form: what is sent.

    content: what is asked, whatever the form (the messages with the words of one fixed form of answer); by default
    ``messages``. asked: options that change what is asked for, as the user has them and not as a provider calls them;
    by default those of ``options`` that do. repairs: whether it asks again after an unusable reply to the same
    question. batched: whether it goes out in a batch, a part of the wire form too. ``interaction`` is None for probes;
    ``pass_number`` counts presentations of one item from 0.
    """

    endpoint: str
    model: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None
    options: Options
    purpose: Purpose
    content: Sequence[Message] | None = None
    asked: Options | None = None
    repairs: bool = False
    batched: bool = False
    prompt_id: str = ""
    interaction: int | None = None
    pass_number: int = 0

    @property
    def form(self) -> AnswerForm:
        """In which form it asks for its answer."""
        if self.schema is None:
            return "text"
        return "object" if self.schema.get("type") == "json_object" else "schema"

    @cached_property
    def key(self) -> str:
        """The identity of a call, besides its endpoint: sha256 of model, content, and what is asked for and how.

        The wire form (schema, limit, temperature, batch) is no part of it, so that an answer is found again under
        whatever form it was given; a probe is about the wire form, and has it in its key.
        """
        asked = "repair" if self.repairs else "probe" if self.purpose == "probe" else "ask"
        content = list(self.messages if self.content is None else self.content)
        if asked == "probe":
            return sha256_hex([self.model, content, asked, dict(self.options), self.schema])
        options = dict(self.asked) if self.asked is not None else content_options(self.options)
        return sha256_hex([self.model, content, asked, options])


def content_options(options: Options) -> dict[str, Any]:
    """Those options that change what is asked for; what is null is not sent."""
    return {name: value for name, value in options.items() if name not in WIRE_OPTIONS and value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Totals. ``calls`` = ``done`` + ``failed`` + ``unfinished``: every attempt that was about to be sent.

    cached_tokens, written_tokens: of the input, from the provider's cache and into it. thinking_tokens: of the output.
    unfinished: sent, without a reply on record: in flight now, or when a process was killed. repeated: calls sent
    again because of that. usd: cost of what was answered, and the worst case of failures that may have been
    billed. reserved_usd: worst case of the unfinished.
    """

    calls: int = 0
    done: int = 0
    failed: int = 0
    unfinished: int = 0
    repeated: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    usd: float = 0.0
    reserved_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A reply on the ledger. structured: whether JSON was asked for. settled: False where the process died between
    writing it down and reading it. batched: whether it came in a batch."""

    row: int
    reply: str
    structured: bool
    settled: bool
    batched: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A call with a reply, as the ledger has it. started_at, latency_s: seconds.
    thinking: tokens of the output that the server counts as thinking; None where it does not say."""

    prompt_id: str
    pass_number: int
    form: str
    started_at: float
    latency_s: float
    thinking: int | None
