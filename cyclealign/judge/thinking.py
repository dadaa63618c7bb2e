"""What a model wrote while it was thinking, told from its answer, however its family marks it.

A draft inside a thinking part is never a verdict: only what stands after the last thinking part is the answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_WORDS = (
    "think|thinks|thinking|thought|thoughts|reason|reasoning|reasons|reflect|reflection|analysis|analyze|analyse|"
    "scratch_?pad|inner_?monologue|monologue|cot|chain_?of_?thought|deliberation|deliberate|rationale|plan|planning|"
    "ant_?thinking|internal|internal_?thoughts?|begin_?of_?thought"
)
# Runs of white space are possessive: a model that has lost its thread writes thousands of blanks, and a pattern that
# divides them anew at each would take minutes.
_BAR = r"\s*+\|?+\s*+"
# <think>, <seed:think>, <|thinking|>, <|START_THINKING|>, <|begin_of_thought|>, [THINK], ◁think▷, with attributes.
_NAME = rf"(?:[a-z0-9_.-]+:)?(?:{_WORDS})"
_OPEN = re.compile(
    rf"<{_BAR}(?:start_|begin_)?{_NAME}(?:\s[^<>]*+|\|?\s*+)>|\[\s*(?:{_WORDS})\s*\]|◁\s*(?:{_WORDS})\s*▷"
    r"|<unused94>",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"<{_BAR}/\s*+{_NAME}{_BAR}>|<{_BAR}(?:end_|end_of_){_NAME}\|?\s*+>|\[\s*/\s*(?:{_WORDS})\s*\]"
    rf"|◁\s*/\s*(?:{_WORDS})\s*▷|<unused95>",
    re.IGNORECASE,
)
# A tag that the end of the text cut: nothing but an opening tag is worth so much caution.
_HALF = re.compile(rf"(?:<{_BAR}(?:start_|begin_)?{_NAME}[^<>]*|\[\s*(?:{_WORDS})\s*)\Z", re.IGNORECASE)
# Harmony: <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>
_CHANNEL = re.compile(r"<\|channel\|>\s*+([a-z]++)[^<]*+(?:<\|message\|>|\Z)", re.IGNORECASE)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>\s*+(?:<\|start\|>\s*+(?:assistant\s*+)?)?\Z")
# The same where a server dropped the control tokens.
_BARE_HARMONY = re.compile(r"\A\s*analysis(?=[^a-z]|[A-Z])(?:.*assistant\s*final|.*\Z)", re.DOTALL)
# Marks around the answer itself, which say nothing.
_ANSWER = re.compile(
    r"\A\s*<\|?(?:START_RESPONSE|begin_of_solution|answer|response|final|solution)\|?>(.*?)"
    r"(?:<\|?/?(?:END_RESPONSE|end_of_solution|answer|response|final|solution)\|?>\s*)?\Z",
    re.DOTALL | re.IGNORECASE,
)


class Thought(NamedTuple):
    """answer: what stands after all thinking, stripped. thinking: whether there was any. unfinished: and it is open."""

    answer: str
    thinking: bool
    unfinished: bool


def set_aside(text: str) -> Thought:
    """The answer of a reply without its thinking parts, closed or not, with or without their opening tag."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        final = last[1].lower() == "final" and "<|message|>" in last[0]
        answer = _CHANNEL_END.sub("", text[last.end() :]).strip() if final else ""
        return Thought(answer, len(channels) > 1 or not final, not final)
    bare = _BARE_HARMONY.match(text)
    if bare:
        done = bare[0].endswith("final")
        return Thought(text[bare.end() :].strip() if done else "", True, not done)
    closes = list(_CLOSE.finditer(text))
    rest = text[closes[-1].end() :] if closes else text
    opened = _OPEN.search(rest) or _HALF.search(rest)
    if opened:
        return Thought("", True, True)
    wrapped = _ANSWER.match(rest)
    return Thought((wrapped[1] if wrapped else rest).strip(), bool(closes), False)
