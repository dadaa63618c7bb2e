"""Config mistakes, one readable line each: unknown keys with the nearest known one, values with what was expected."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cyclealign.config.schema import Config
from cyclealign.config.training_types import KEYS as TRAINING_KEYS
from cyclealign.losses import AnyPolicyLoss
from cyclealign.types import UserError

Raw = Mapping[str, Any]
"""A config as its file has it, before the schema has seen it."""
LOSSES: dict[str, type] = {c.__dataclass_fields__["name"].default: c for c in get_args(AnyPolicyLoss)}
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a section (key: value)",
    "model_type": "a section (key: value)",
    "model_attributes_type": "a section (key: value)",
    "dataclass_type": "a section (key: value)",
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "letters, digits, '.', '_' or '-', beginning with a letter or digit",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section type of an annotation ``Section``, ``Section | None`` or a list of them; None for a plain value."""
    several = get_origin(annotation) in (Union, types.UnionType, tuple)
    options = get_args(annotation) if several else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def is_free(path: tuple[str, ...]) -> bool:
    """Whether keys below ``path`` are not the schema's own (``training``, also a stage's; ``black_box.request``;
    ``generator.engine``; ``policy.chat_template_kwargs``)."""
    free = (("black_box", "request"), ("generator", "engine"), ("policy", "chat_template_kwargs"))
    return "training" in path[:2] or path[:2] in free


def known_keys(model: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path of the schema, sections and dataclasses included; the fields of each loss below ``loss``."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        section = section_of(field.annotation)
        if section is not None:
            yield from known_keys(section, (*path, name))
        elif dataclasses.is_dataclass(field.annotation):
            yield from ((*path, name, f.name) for f in dataclasses.fields(field.annotation))
    if not path:
        for fields in map(dataclasses.fields, LOSSES.values()):
            yield from (("loss", f.name) for f in fields)


def check_keys(raw: Raw, *, where: str = "", model: type[BaseModel] = Config) -> None:
    """Refuse keys that the schema (of a run, or ``model``) does not know.

    Raises:
        UserError: ``unknown key loss.betaa; did you mean loss.beta?``, after ``where``.
    """
    known = set(known_keys(model))
    for path in _paths(raw):
        if path not in known or (path[0] == "loss" and len(path) > 1 and path[1] not in _loss_fields(raw)):
            raise UserError(f"{where}unknown key {'.'.join(path)}{_hint(path, raw, known)}")


def _paths(raw: Raw, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in raw.items():
        yield (*path, str(key))
        for below in value if isinstance(value, list) else [value]:
            if isinstance(below, Mapping) and not is_free((*path, str(key))):
                yield from _paths(below, (*path, str(key)))


def _loss_fields(raw: Raw) -> list[str]:
    """Fields of the loss that ``raw`` names; of all losses where the name is itself wrong (reported later)."""
    chosen = LOSSES.get(str(raw["loss"]["name"]))
    classes = [chosen] if chosen else list(LOSSES.values())
    return [f.name for c in classes for f in dataclasses.fields(c)]


def _hint(path: tuple[str, ...], raw: Raw, known: set[tuple[str, ...]]) -> str:
    *parent, key = path
    siblings = [p[-1] for p in known if p[:-1] == tuple(parent)]
    if parent == ["loss"]:
        siblings = _loss_fields(raw)
    close = difflib.get_close_matches(key, siblings, n=1)
    if close:
        return f"; did you mean {'.'.join([*parent, close[0]])}?"
    if parent == ["loss"]:
        return f"; loss {raw['loss']['name']} has {', '.join(sorted(siblings))}"
    leaves = {p[-1]: ".".join(p) for p in sorted(known, reverse=True)}
    leaves |= {name: f"training.{name}" for name in TRAINING_KEYS if name not in leaves}
    found = difflib.get_close_matches(key, leaves, n=1, cutoff=0.75)
    if found:
        return f"; did you mean {leaves[found[0]]}?"
    return f"; known here: {', '.join(sorted(siblings))}" if siblings else ""


def readable(error: ValidationError, raw: Any, section: str = "") -> str:
    """The first mistake of a pydantic error as ``key: expected …, got …``; ``section``: what ``raw`` is a part of."""
    errors = error.errors(include_url=False)
    keys = [".".join(filter(None, (section, _key(e, raw)))) for e in errors]
    key = keys[0]
    same = [e for e, k in zip(errors, keys, strict=True) if k == key]
    first = same[0]
    # Of a section or a word in its place, one mistake: what the section's own key says.
    rest = len({k for k in keys if not any(other.startswith(f"{k}.") for other in keys)} - {key})
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "value_error":
        return _own_message(key, str(first["ctx"]["error"])) + more
    if first["type"].startswith("missing"):
        return f"{key}: required, but not set{more}"
    if first["type"].startswith("union_tag") and raw["loss"].get("name") == "leaf":
        return "loss.name: leaf matches vectors, which orders nothing; name a ranking loss, and leaf.teacher beside it"
    if first["type"].startswith("union_tag"):
        return choice("loss.name", raw["loss"].get("name"), list(LOSSES)) + more
    if first["type"] == "literal_error":
        return choice(key, first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"])) + more
    return wrong_value(key, " or ".join(dict.fromkeys(map(_expected, same))), first["input"]) + more


def choice(key: str, got: Any, options: list[str]) -> str:
    """``key: expected one of a, b, c, got "d"``, with the nearest option."""
    close = difflib.get_close_matches(got, options, n=1) if isinstance(got, str) else []
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{key}: expected {'one of ' if len(options) > 1 else ''}{', '.join(options)}, got {show(got)}{hint}"


def wrong_value(key: str, expected: str, got: Any) -> str:
    """``key: expected …, got …``; a bare number where text is wanted gets the advice to quote it."""
    advice = "; write it in quotes" if expected == "text" and isinstance(got, int | float) else ""
    return f"{key}: expected {expected}, got {show(got)}{advice}"


def show(value: Any, limit: int = 60) -> str:
    """A value as it would be written, cut to ``limit`` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _expected(error: ErrorDetails) -> str:
    for bound, sign in _BOUNDS.items():
        if bound in error.get("ctx", {}):
            return f"a value {sign} {error['ctx'][bound]}"
    return _EXPECTED.get(error["type"], error["msg"].removeprefix("Input should be "))


def _key(error: ErrorDetails, raw: Any) -> str:
    """Dotted key of an error: pydantic's location without the names of union members."""
    path: list[str] = []
    here: Any = raw
    for n, part in enumerate(error["loc"]):
        last = n == len(error["loc"]) - 1
        if (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int)):
            here = here[part]  # type: ignore[index]
        elif not (last and error["type"].startswith("missing")):
            continue
        path.append(str(part))
    return ".".join(path)


def _own_message(key: str, message: str) -> str:
    """Our validators' messages begin with the key below their section (``model: needed …``), or have none."""
    if not key:
        return message
    return f"{key}{'.' if re.match(r'[a-z_0-9.]+: ', message) else ': '}{message}"
