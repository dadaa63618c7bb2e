"""Prompts, labelled pairs and candidate sets from the formats that people have.

HH-RLHF's own files, TRL prompt-only and preference rows (standard and conversational), and JSONL with ``prompt``
or ``messages``; the format of each row is seen from its columns, or demanded by ``data.format``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclealign.files.packaged import resource
from cyclealign.files.rows import jsonl_rows, rows
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, UserError

log = logging.getLogger(__name__)
OPENERS = ("builtin:openers-train", "builtin:openers-eval", "builtin:openers-report")
ROLES = ("system", "user", "assistant")
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_REPLY = "\n\nAssistant:"


class _SkippedRow(Exception):
    """A row that cannot be used through no fault of its format; the reason is counted and logged."""


def load_prompts(spec: str, *, format: str = "auto", split: str = "train", limit: int | None = None) -> list[Prompt]:
    """Distinct prompts in file order, at most ``limit``.

    Args:
        spec: path, directory, glob, hub id, or ``builtin:openers-train`` / ``-eval`` / ``-report``.
        format: ``auto``, ``hh_rlhf``, ``trl``, ``jsonl`` or ``parquet`` (files read as Parquet whatever their names).

    Raises:
        UserError: nothing there, or a row that is not a prompt; names file and line.
    """
    found: dict[str, Prompt] = {}
    skipped: Counter[str] = Counter()
    for place, row in rows(_builtin(spec), split=split, parquet=format == "parquet"):
        try:
            prompt = parse_row(row, place, format)
        except _SkippedRow as reason:
            skipped[str(reason)] += 1
            continue
        if prompt.id in found:
            skipped["repeat an earlier prompt"] += 1
            continue
        found[prompt.id] = prompt
        if len(found) == limit:
            break
    for what, count in skipped.items():
        log.warning("%s: skipped %d rows that %s", spec, count, what)
    if not found:
        raise UserError(f"data: {spec} holds no prompt")
    return list(found.values())


def load_candidate_sets(path: str | Path) -> list[CandidateSet]:
    """Candidate sets from JSONL: ``prompt`` or ``messages``, and ``candidates`` or ``responses``.

    Candidates are texts (their ids are then "0", "1", …) or ``{"id": …, "text": …}``.

    Raises:
        UserError: names file and line.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no file {path}; expected JSONL of candidate sets")
    places: dict[str, str] = {}
    sets = []
    for place, row in jsonl_rows(file):
        prompt = _prompt_row(row, place)
        if prompt.id in places:
            raise UserError(f"{place}: same prompt as {places[prompt.id]}; put its candidates into one line")
        places[prompt.id] = place
        sets.append(CandidateSet(prompt, _candidates(row, place)))
    if not sets:
        raise UserError(f"{path}: holds no candidate set")
    return sets


def parse_row(row: dict[str, Any], place: str, format: str = "auto") -> Prompt:
    """The prompt of one row; the pair's replies, where it has one, become ``chosen`` and ``rejected``."""
    return _parser(row, place, format)(row, place)


def _builtin(spec: str) -> str:
    if not spec.startswith("builtin:"):
        return spec
    if spec not in OPENERS:
        raise UserError(f"data: no {spec}; there are {', '.join(OPENERS)}")
    return str(resource("assets", f"openers/{spec.rpartition('-')[2]}.jsonl"))


def _parser(row: dict[str, Any], place: str, format: str) -> Callable[[dict[str, Any], str], Prompt]:
    """Which columns a row has decides; a demanded format only narrows what is accepted."""
    has = {k for k, v in row.items() if v is not None}
    if "chosen" in has and "rejected" in has and isinstance(row["chosen"], str) and "prompt" not in has:
        parser, formats = _hh_row, {"hh_rlhf"}
    elif "chosen" in has and "rejected" in has:
        parser, formats = _preference_row, {"trl"}
    elif "prompt" in has:
        parser, formats = _prompt_row, {"trl", "jsonl"}
    elif "messages" in has:
        parser, formats = _prompt_row, {"jsonl"}
    else:
        raise UserError(
            f"{place}: expected columns prompt, messages, or chosen and rejected; got {', '.join(row) or 'none'}"
        )
    if format not in formats | {"auto", "parquet"}:
        raise UserError(
            f"{place}: not a row of data.format {format}: its columns are those of {' or '.join(sorted(formats))}"
        )
    return parser


def _hh_row(row: dict[str, Any], place: str) -> Prompt:
    """Two whole dialogues; the prompt is all up to the last ``Assistant:``, which both must share."""
    chosen, rejected = (_text(row[side], f"{place}: {side}") for side in ("chosen", "rejected"))
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.startswith("\n\nHuman:"):
            raise UserError(f"{place}: {side}: expected an HH-RLHF dialogue that begins with '\\n\\nHuman:'")
        if _REPLY not in text:
            raise UserError(f"{place}: {side}: no '\\n\\nAssistant:' turn")
    (prompt, good), (other, bad) = (_split_reply(t) for t in (chosen, rejected))
    if prompt != other:
        raise _SkippedRow("have chosen and rejected dialogues that do not share the prompt")
    if "\n\nHuman:" in good + bad:
        raise _SkippedRow("end with a human turn")
    return Prompt(_hh_messages(prompt, place), *_labels(good.strip(), bad.strip()))


def _split_reply(text: str) -> tuple[str, str]:
    prompt, _, reply = text.rpartition(_REPLY)
    return prompt, reply


def _hh_messages(prompt: str, place: str) -> tuple[Message, ...]:
    """Turns of a dialogue text. Empty turns go and neighbours of one role are joined (upstream has a few of both):
    chat templates want the roles to alternate."""
    _, *parts = _HH_TURN.split(prompt)
    turns: list[Message] = []
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        role, content = _HH_ROLES[name], text.strip()
        if turns and content and turns[-1]["role"] == role:
            turns[-1] = Message(role=role, content=f"{turns[-1]['content']}\n\n{content}")
        elif content:
            turns.append(Message(role=role, content=content))
    return _checked(turns, place)


def _preference_row(row: dict[str, Any], place: str) -> Prompt:
    """TRL preference: explicit prompt, or conversations whose last message is the reply."""
    chosen, rejected = row["chosen"], row["rejected"]
    if row.get("prompt") is not None:
        prompt = _prompt_row(row, place)
        return Prompt(
            prompt.messages, *_labels(_reply(chosen, f"{place}: chosen"), _reply(rejected, f"{place}: rejected"))
        )
    good, bad = _messages(chosen, f"{place}: chosen"), _messages(rejected, f"{place}: rejected")
    if good[:-1] != bad[:-1]:
        raise _SkippedRow("have chosen and rejected dialogues that do not share the prompt")
    labels = _labels(_reply(good[-1:], f"{place}: chosen"), _reply(bad[-1:], f"{place}: rejected"))
    return Prompt(_checked(good[:-1], place), *labels)


def _prompt_row(row: dict[str, Any], place: str) -> Prompt:
    """``prompt`` as text, as HH-RLHF text or as messages; or ``messages``."""
    value = row["prompt"] if row.get("prompt") is not None else row.get("messages")
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        return Prompt(_hh_messages(value.rstrip().removesuffix("Assistant:").rstrip(), place))
    if isinstance(value, str) and row.get("prompt") is not None:
        return Prompt(_checked([Message(role="user", content=value)], place))
    if value is None:
        raise UserError(
            f"{place}: expected prompt (text or messages) or messages; got {', '.join(row) or 'an empty row'}"
        )
    return Prompt(_checked(_messages(value, place), place))


def _messages(value: Any, place: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: expected a list of messages {{role, content}}, got {type(value).__name__}")
    found = []
    for number, item in enumerate(value):
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise UserError(f"{place}: message {number}: expected a role of {', '.join(ROLES)} and content as text")
        found.append(Message(role=role, content=content))
    return found


def _checked(messages: Sequence[Message], place: str) -> tuple[Message, ...]:
    """A prompt's messages: not empty, a system message only first, the user speaks last."""
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{place}: the dialogue must end with a user turn (the assistant's is what will be written)")
    if any(m["role"] == "system" for m in messages[1:]):
        raise UserError(f"{place}: a system message may only stand first")
    if not all(m["content"].strip() for m in messages):
        raise UserError(f"{place}: empty turn")
    return tuple(messages)


def _reply(value: Any, place: str) -> str:
    """A reply as text, or as a list of one assistant message."""
    if isinstance(value, list):
        messages = _messages(value, place)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise UserError(f"{place}: expected one assistant message")
        return messages[0]["content"]
    return _text(value, place)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: expected text, got {type(value).__name__}")
    return value


def _labels(chosen: str, rejected: str) -> tuple[str, str] | tuple[None, None]:
    """A labelled pair, where both replies say something."""
    return (chosen, rejected) if chosen.strip() and rejected.strip() else (None, None)


def _candidates(row: dict[str, Any], place: str) -> tuple[Candidate, ...]:
    values = row.get("candidates", row.get("responses"))
    if not isinstance(values, list) or not values:
        raise UserError(f"{place}: expected candidates (or responses): a list of texts or of {{id, text}}")
    found = []
    for number, value in enumerate(values):
        record = value if isinstance(value, dict) else {"text": value}
        identity, text = record.get("id", str(number)), record.get("text")
        if not isinstance(text, str) or not isinstance(identity, str | int):
            raise UserError(f"{place}: candidate {number}: expected text or {{id, text}}")
        found.append(Candidate(str(identity), text))
    if len({c.id for c in found}) < len(found):
        raise UserError(f"{place}: candidate ids are not distinct")
    return tuple(found)
