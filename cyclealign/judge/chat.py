"""What comes back from a chat endpoint, from the bytes of a response to a typed reply. No network here.

One reader for all providers: content as text or as parts, refusals, errors inside a successful response, every
provider's reasons to end, and token counts that may be anything.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cyclealign.files.printable import one_line, well_formed
from cyclealign.judge.call import Body
from cyclealign.judge.usage import Usage, usage_of

End = Literal["natural", "cut", "filtered", "failed", "unknown"]
# By what they say in lower case; whatever is not here is no reason to believe that a reply is whole.
ENDS: Mapping[str, End] = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "end", "complete", "completed"),
        "natural",
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "max_length", "model_length", "model_context_window_exceeded"),
        "cut",
    ),
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "refusal", "sensitive",
         "guardrail_intervened", "content_filtered", "image_safety", "language"),
        "filtered",
    ),
    **dict.fromkeys(
        ("error", "failed", "network_error", "insufficient_system_resource", "abort", "aborted", "cancelled",
         "canceled", "overloaded", "malformed_function_call", "timeout"),
        "failed",
    ),
}  # fmt: skip
THOUGHTS = ("reasoning_content", "reasoning")  # fields beside ``content`` in which servers put what a model thought


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What a chat completion says.

    text: its content, thinking parts left out. refused: by the refusal field, a part or a content filter. end, finish:
    how it ended, and the server's word for it. thoughts, thoughts_in: what stands in a field for reasoning, and its
    name. first: what could have been its first token, with log-probabilities, where they were asked for and given.
    structured: whether it answers a request that held it to JSON. recorded: whether it was on the ledger.
    """

    text: str
    end: End
    finish: str
    refused: bool
    usage: Usage
    thoughts: str = ""
    thoughts_in: str = ""
    first: tuple[tuple[str, float], ...] = ()
    structured: bool = False
    recorded: bool = False

    @property
    def cut_off(self) -> bool:
        return self.end == "cut"

    @property
    def answer(self) -> str:
        """The content; where a schema was asked for and content is empty, what stands in the field for reasoning."""
        if self.structured and not self.text.strip():
            return self.thoughts
        return self.text


class NotACompletion(Exception):
    """A body that answers nothing: an error inside a successful response, or no chat completion at all.

    ``status``: the HTTP status that the error speaks of, where it does. ``code``: its code and type. ``declined``: an
    error alone, in place of a reply: nothing was made, and nothing is billed, as of one with a status.
    """

    def __init__(self, detail: str, *, status: int | None = None, code: str = "", declined: bool = False) -> None:
        super().__init__(detail)
        self.declined = declined
        self.detail = detail
        self.status = status
        self.code = code


class BadBody(Exception):
    """A successful response whose body was given up: longer than any reply, or packed as was not asked for."""


def longest_body(tokens: int | None) -> int:
    """Bytes that no reply of so many ``tokens`` needs, each with twenty log probabilities; between 8 and 64 MiB.
    None: no limit was asked for."""
    return min(64 << 20, max(8 << 20, (4 << 10) * (tokens or 0)))


def decoded(body: bytes, charset: str | None = None) -> str:
    """The text of a response: UTF-8, -16 or -32 as JSON may be, else as it declares itself, else with replacements."""
    for name in (json.detect_encoding(body), charset or "utf-8"):
        try:
            # A server may name any codec of Python's, also those that make bytes of bytes.
            return str(body, codecs.lookup(name).name).removeprefix("\ufeff")
        except (UnicodeError, LookupError, ValueError):
            continue
    return body.decode("utf-8", errors="replace")


def read_reply(raw: str, *, structured: bool = False) -> ChatReply:
    """The first choice of a chat completion's JSON.

    Raises NotACompletion where it is not one, also where it is an error in place of a reply.
    """
    body = _parsed(raw)
    _raise_error(body.get("error"), declined=not body.get("choices") and not body.get("usage"))
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise NotACompletion(one_line(raw) or "it is empty")
    _raise_error(choice.get("error"))
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    _raise_error(message.get("error"))
    finish = choice.get("finish_reason")
    end = ENDS.get(str(finish).strip().lower(), "unknown")
    if end == "failed":
        raise NotACompletion(f"the provider broke off (finish_reason {one_line(str(finish), 40)})")
    if "message" not in choice:
        raise NotACompletion(one_line(raw))
    text, refused = _content(message.get("content"))
    thoughts = [(name, message[name]) for name in THOUGHTS if isinstance(message.get(name), str) and message[name]]
    name, said = thoughts[0] if thoughts else ("", "")
    return ChatReply(
        text=well_formed(text),
        end=end,
        finish=_word(finish),
        refused=refused or bool(message.get("refusal")) or end == "filtered",
        usage=usage_of(body.get("usage")),
        thoughts=well_formed(said),
        thoughts_in=name,
        first=_first_token(choice.get("logprobs")),
        structured=structured,
    )


def _word(finish: Any) -> str:
    """The server's word for how a reply ended, as it can be shown; those that we know can."""
    if finish is None:
        return "null"
    return finish if isinstance(finish, str) and finish in ENDS else one_line(str(finish), 40)


def _first_token(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens at the first place, each with the number that the server gives for it; none where it gives
    none. OpenAI's form (``content``), or that of its older completions, which some servers still have."""
    if not isinstance(logprobs, dict):
        return ()
    places = logprobs.get("content") or logprobs.get("top_logprobs")
    place = places[0] if isinstance(places, list) and places else None
    if not isinstance(place, dict):
        return ()
    top = place.get("top_logprobs") if isinstance(logprobs.get("content"), list) else None
    found: list[tuple[Any, Any]] = []
    if isinstance(top, list):
        found = [(t.get("token"), t.get("logprob")) for t in top if isinstance(t, dict)]
    if not isinstance(logprobs.get("content"), list):
        found = list(place.items())
    return tuple((well_formed(token), number) for token, number in found if isinstance(token, str))


def error_of(body: Any) -> tuple[str, str]:
    """Message and code (with type and field) of the error that a response's JSON describes, in any provider's form."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return (body if isinstance(body, str) else ""), ""
    inner = body.get("error", body)
    if not isinstance(inner, dict):
        return (inner if isinstance(inner, str) else ""), str(body.get("code") or "")
    said = inner.get("message") or inner.get("detail") or inner.get("msg") or ""
    codes = [inner.get("code"), inner.get("type"), inner.get("status"), inner.get("param")]
    inside = inner.get("innererror")
    codes.append(inside.get("code") if isinstance(inside, dict) else None)
    code = " ".join(str(c) for c in codes if isinstance(c, str | int) and c)
    return (said if isinstance(said, str) else json.dumps(said)), code


def _parsed(raw: str) -> Body:
    try:
        body = json.loads(raw, parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise NotACompletion(one_line(raw) or "it is empty") from error
    if isinstance(body, list) and len(body) == 1:  # Gemini's errors
        body = body[0]
    if not isinstance(body, dict):
        raise NotACompletion(one_line(raw))
    return body


def _number(digits: str) -> int | float:
    """A JSON number; one that no counter could hold becomes infinite rather than an error."""
    try:
        number = float(digits)
    except ValueError:
        return math.inf
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _raise_error(error: Any, *, declined: bool = False) -> None:
    if not error:
        return
    said, code = error_of({"error": error})
    given = error.get("code") if isinstance(error, dict) else None
    given = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) == 3 else given
    status = given if isinstance(given, int) and 400 <= given < 600 else None
    if status is None and ("invalid_request" in code or "context_length" in code):
        status = 400  # it concerns this request, and would come again
    shown = one_line(said) or one_line(json.dumps(error, ensure_ascii=True))
    raise NotACompletion(f"the provider's error: {shown}", status=status, code=one_line(code, 100), declined=declined)


def _content(content: Any) -> tuple[str, bool]:
    """Text of a message's content, and whether a part of it is a refusal. Parts that are not text are left out."""
    if isinstance(content, str):
        return content, False
    parts = content if isinstance(content, list) else [content]
    texts: list[Any] = []
    refused = False
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            kind = part.get("type", "text")
            refused = refused or kind == "refusal"
            text = part.get("text")
            if kind in ("text", "output_text") and not part.get("thought"):
                texts.append(text.get("value", "") if isinstance(text, dict) else text)
    return "".join(t for t in texts if isinstance(t, str)), refused
