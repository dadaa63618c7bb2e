"""The one place where the columns of a row become a prompt, for all commands that read prompts.

The prompt is the first of these columns that is there (not null):

| column | form |
|---|---|
| `prompt` | text, HH-RLHF's dialogue text, or messages |
| `messages`, `conversations`, `conversation` | messages, `{role, content}` or ShareGPT's `{from, value}` |
| `instruction`, `question`, `input` | text |

Beside a text, `input` or `context` is put below it, unless it stands in it already, on lines of its own; `system` (or
`system_prompt`) becomes the system message, `history` (pairs of texts) the turns before. What the assistant says last
in `messages` or conversations is the reply of that row, and no part of its prompt. A column that a judge of texts would
not see (`tools`, `images`) makes a row odd. `rubric` and `reference` are texts for a judge alone: what to go by, and a
reply that is known to be good. An id, a source or a score is no part of a prompt and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cyclealign.files.messages import checked, dialogue_text, is_dialogue_text, joined, messages, parted
from cyclealign.files.odd_rows import OddRow
from cyclealign.types import Message, Prompt

Columns = Mapping[str, Any]
DIALOGUES = ("messages", "conversations", "conversation")
TEXTS = ("instruction", "question", "input")
PROMPTS = ("prompt", *DIALOGUES, *TEXTS)
BELOW = ("input", "context")
SYSTEM = ("system", "system_prompt")
FOR_JUDGES = ("rubric", "reference")
UNSEEN = ("tools", "images", "image", "videos", "audios")


def first_there(row: Columns, names: Sequence[str]) -> str | None:
    """The first of these columns that is there: zero, false and the empty text are values, null is none."""
    return next((name for name in names if row.get(name) is not None), None)


def turns_of(row: Columns, place: str) -> list[Message]:
    """All turns that the prompt's column holds, with a reply at the end where it has one.

    Raises:
        OddRow: no such column, or one that is no text or dialogue.
    """
    unseen = next((name for name in UNSEEN if row.get(name)), None)
    if unseen is not None:
        raise OddRow(f"{place}: {unseen}: only texts are read, and a prompt without its {unseen} would be another one")
    name = first_there(row, PROMPTS)
    if name is None:
        raise OddRow(
            f"{place}: expected columns prompt, messages, or chosen and rejected; got {', '.join(row) or 'none'}"
            f" (also read: {', '.join(PROMPTS[2:])})"
        )
    value = row[name]
    if is_dialogue_text(value):
        turns = joined(dialogue_text(value))
    elif isinstance(value, str):
        turns = [*_history(row, place), Message(role="user", content=_with_below(row, name, value, place))]
    elif name in TEXTS:
        raise OddRow(f"{place}: {name}: expected text, got {type(value).__name__}")
    else:
        turns = messages(value, place)
    return with_system(row, turns, place)


def asked(row: Columns, place: str) -> tuple[Message, ...]:
    """The prompt of a row whose replies stand in other columns. OddRow as ``turns_of``, and where the user does not
    speak last."""
    return checked(turns_of(row, place), place)


def exchange(row: Columns, place: str) -> tuple[tuple[Message, ...], str | None]:
    """The prompt of a row, and the reply at the end of its ``messages`` or conversation, where it has one there."""
    turns = turns_of(row, place)
    reply = None
    if first_there(row, PROMPTS) in DIALOGUES:
        turns, reply = parted(turns)
    return checked(turns, place), reply


def prompt_of(row: Columns, messages: Sequence[Message], place: str, labels: tuple[str, str] | None = None) -> Prompt:
    """The prompt of a row with these messages, its best and worst reply where it has labels, and what its judge is
    given besides. OddRow where that is no text."""
    given: list[str | None] = []
    for name in FOR_JUDGES:
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise OddRow(f"{place}: {name}: expected text for the judge, got {type(value).__name__}")
        given.append(value if value and value.strip() else None)
    return Prompt(tuple(messages), *(labels or (None, None)), *given)


def with_system(row: Columns, turns: Sequence[Message], place: str) -> list[Message]:
    """The turns after the row's system message."""
    name = first_there(row, SYSTEM)
    said = row[name] if name is not None else ""
    if not isinstance(said, str):
        raise OddRow(f"{place}: {name}: expected text, got {type(said).__name__}")
    if not said.strip():
        return list(turns)
    first = [turn for turn in turns[:1] if turn["role"] == "system"]
    if first and first[0]["content"].strip() != said.strip():
        raise OddRow(f"{place}: {name} and the system message of the dialogue differ")
    return [*([] if first else [Message(role="system", content=said)]), *turns]


def _with_below(row: Columns, name: str, value: str, place: str) -> str:
    """The text with what stands below it in columns of its own."""
    parts = [value]
    for below in BELOW:
        more = row.get(below) if below != name else None
        if more is None or more == [] or more == "":
            continue
        if not isinstance(more, str):
            raise OddRow(f"{place}: {below}: expected text beside {name}, got {type(more).__name__}")
        if more.strip() and not re.search(rf"(?:^|\n){re.escape(more.strip())}(?:\n|$)", value):
            parts.append(more)
    return "\n\n".join(part for part in parts if part.strip())


def _history(row: Columns, place: str) -> list[Message]:
    turns = []
    pairs = row.get("history") or []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise OddRow(f"{place}: history: expected pairs of texts, what was asked and what was answered")
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    return turns
