"""Demonstrations as JSONL: one record a line, checked when read, the same when written again."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cyclealign.files.atomic import write_atomic
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.packaged import resource
from cyclealign.types import Demonstration, Message, Prompt, UserError, sha256_hex

BUILTIN = {"builtin:rank": "demonstrations.jsonl"}

_REQUIRED = ("messages", "responses", "order")
_OPTIONAL = ("note", "tags", "source", "agreement")
_ROLES = ("system", "user", "assistant")


def load_static(name_or_path: str) -> tuple[Demonstration, ...]:
    """The static demonstrations, in file order: ``builtin:rank``, or a JSONL file by path.

    A record: ``messages`` (a chat that ends with the user), ``responses``, ``order`` (indices from 0, best
    first), and where wanted ``note``, ``tags``, ``source``, ``agreement``. A saved pool is such a file too;
    whatever it says of its source, its records become static here.

    Raises UserError naming file and line.
    """
    if name_or_path.startswith("builtin:"):
        if name_or_path not in BUILTIN:
            raise UserError(
                f"demonstrations.static: expected a path or one of {', '.join(BUILTIN)}, got {name_or_path}"
            )
        path = resource("prompts", BUILTIN[name_or_path])
    else:
        path = Path(name_or_path).expanduser()
    found = load_demonstrations(path)
    return tuple(Demonstration(d.prompt, d.responses, d.order, note=d.note, tags=d.tags) for d in found)


def load_demonstrations(path: Path) -> tuple[Demonstration, ...]:
    """All records of a file. Raises UserError naming file and line."""
    found = []
    try:
        for place, record in json_rows(path):
            found.append(_placed(record, place))
    except UserError as error:
        raise UserError(f"demonstrations {error}") from error
    return tuple(found)


def save_demonstrations(path: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write one record a demonstration, whole or not at all; ``load_demonstrations`` gives them back exactly.

    Labels of a prompt (``chosen``, ``rejected``) are not written: a demonstration has no use for them.
    """
    lines = (json.dumps(to_record(d), ensure_ascii=False) + "\n" for d in demonstrations)
    # Not flushed: a pool can be computed again from the records before it.
    write_atomic(path, "".join(lines), durable=False)


def content_version(demonstrations: Iterable[Demonstration]) -> str:
    """16 hex digits of the hash of a set's content, in its order; file name, tags and white space do not count."""
    return sha256_hex([to_record(replace(d, tags=())) for d in demonstrations])[:16]


def to_record(demo: Demonstration) -> dict[str, object]:
    record = {
        "messages": [{"role": m["role"], "content": m["content"]} for m in demo.prompt.messages],
        "responses": list(demo.responses),
        "order": list(demo.order),
        "source": demo.source,
        "agreement": demo.agreement,
        "note": demo.note,
    }
    return record | ({"tags": list(demo.tags)} if demo.tags else {})


def _placed(record: dict[str, Any], place: str) -> Demonstration:
    try:
        return from_record(record)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def from_record(record: Any) -> Demonstration:
    """The inverse of ``to_record``. Raises ValueError saying what is wrong with the record."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object with the keys {', '.join(_REQUIRED)}")
    known = (*_REQUIRED, *_OPTIONAL)
    for key in record:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"{key}: unknown key{hint}; known: {', '.join(known)}")
    for key in _REQUIRED:
        if key not in record:
            raise ValueError(f"{key}: missing; needed: {', '.join(_REQUIRED)}")
    responses, order = record["responses"], record["order"]
    if not (_is_text_list(responses) and len(set(responses)) == len(responses) >= 2):
        raise ValueError("responses: expected a list of at least two different, non-empty texts")
    if not isinstance(order, list) or any(type(i) is not int for i in order):
        raise ValueError("order: expected a list of whole numbers")
    if sorted(order) != list(range(len(responses))):
        raise ValueError(f"order: expected each of 0 to {len(responses) - 1} once, best first, got {order}")
    note, tags = record.get("note", ""), record.get("tags", [])
    source, agreement = record.get("source", "static"), record.get("agreement", 1.0)
    if not (isinstance(note, str) and isinstance(source, str) and (tags == [] or _is_text_list(tags))):
        raise ValueError("note and source: expected text; tags: expected a list of texts")
    if type(agreement) not in (int, float) or not math.isfinite(agreement):
        raise ValueError(f"agreement: expected a finite number, got {agreement!r}")
    prompt = Prompt(_messages(record["messages"]))
    return Demonstration(prompt, tuple(responses), tuple(order), source, float(agreement), note, tuple(tags))


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages: expected a list of at least one turn")
    turns: list[Message] = []
    for turn in value:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise ValueError("messages: expected turns with the keys role and content, and no others")
        if turn["role"] not in _ROLES or not isinstance(turn["content"], str):
            raise ValueError(f"messages: expected role to be one of {', '.join(_ROLES)} and content to be text")
        turns.append({"role": turn["role"], "content": turn["content"]})
    if turns[-1]["role"] == "assistant":
        raise ValueError("messages: expected to end where the assistant is to speak, not with the assistant")
    return tuple(turns)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
