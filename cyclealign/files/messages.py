"""Turns of a dialogue from the forms in which data has them: lists of messages, ShareGPT's, HH-RLHF's texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cyclealign.files.odd_rows import OddRow
from cyclealign.types import Message

ROLES = ("system", "user", "assistant")
# Who speaks, in the words of OpenAI, ShareGPT, OpenAssistant and Gemma.
_SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard"), "assistant"),
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_messages(value: Any) -> bool:
    """Whether a value is meant as messages: one object, or a list of them."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def is_dialogue_text(value: Any) -> bool:
    """Whether a value is a whole dialogue as HH-RLHF writes it; its leading line ends may be lost."""
    if not isinstance(value, str):
        return False
    return value.startswith("\n\nHuman:") or (value.lstrip().startswith("Human:") and "\n\nAssistant:" in value)


def messages(value: Any, place: str) -> list[Message]:
    """``{role, content}`` or ShareGPT's ``{from, value}``; content is text, or parts of which all are text.

    Raises:
        OddRow: names the message.
    """
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list) or not value:
        raise OddRow(f"{place}: expected a list of messages {{role, content}}, got {type(value).__name__}")
    found = []
    for number, item in enumerate(value):
        turn = item if isinstance(item, dict) else {}
        keys = ("role", "content") if turn.get("role") is not None else ("from", "value")
        speaker, said = (turn.get(key) for key in keys)
        role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
        content = _content(said)
        if role is None or content is None:
            raise OddRow(
                f"{place}: message {number}: expected a role of {', '.join(ROLES)} (or human, gpt) and content as text"
            )
        found.append(Message(role=role, content=content))
    return found


def _content(value: Any) -> str | None:
    """Text, or the text of OpenAI's parts joined; None where a part is none."""
    if not isinstance(value, list) or not value:
        return value if isinstance(value, str) else None
    parts = [
        part.get("text") if isinstance(part, dict) and part.get("type", "text") in ("text", "input_text") else part
        for part in value
        if not (isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"))
    ]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(parts) else None


def dialogue_text(text: str) -> list[Message]:
    """Turns of HH-RLHF's text, also the empty ones."""
    first = text.lstrip()
    _, *parts = _HH_TURN.split(f"\n\n{first}")
    return [
        Message(role=_HH_ROLES[name], content=said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def joined(turns: Sequence[Message]) -> list[Message]:
    """Without empty turns, and neighbours of one role as one turn (HH-RLHF has a few of both): chat templates want the
    roles to alternate."""
    found: list[Message] = []
    for turn in turns:
        if found and turn["content"] and found[-1]["role"] == turn["role"]:
            found[-1] = Message(role=turn["role"], content=f"{found[-1]['content']}\n\n{turn['content']}")
        elif turn["content"]:
            found.append(turn)
    return found


def parted(turns: Sequence[Message]) -> tuple[list[Message], str | None]:
    """What comes before the assistant's last words, and these words; None where another speaks last.

    An assistant that speaks several times in a row says one reply.
    """
    cut = len(turns)
    while cut and turns[cut - 1]["role"] == "assistant":
        cut -= 1
    said = [turn["content"] for turn in turns[cut:]]
    reply = said[0] if len(said) == 1 else "\n\n".join(text for text in said if text)
    return list(turns[:cut]), reply if said else None


def checked(turns: Sequence[Message], place: str) -> tuple[Message, ...]:
    """A prompt's messages: not empty, a system message only first, the user speaks last. OddRow where not."""
    if not turns or turns[-1]["role"] != "user":
        raise OddRow(f"{place}: the dialogue must end with a user turn (the assistant's is what will be written)")
    if any(m["role"] == "system" for m in turns[1:]):
        raise OddRow(f"{place}: a system message may only stand first")
    if not all(m["content"].strip() for m in turns):
        raise OddRow(f"{place}: empty turn")
    return tuple(turns)
