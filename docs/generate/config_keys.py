"""Every key that a config may have, read from its schema: type, default and the sentence below it."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cyclealign.config.json_schema import sentences_of
from cyclealign.losses import RankingLoss

WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", type(None): "null"}
BOUNDS = {annotated_types.Ge: ("ge", "≥"), annotated_types.Gt: ("gt", ">"), annotated_types.Le: ("le", "≤"),
          annotated_types.Lt: ("lt", "<")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Key:
    """``path``: as on the command line; ``[]`` behind a list. ``default``: as YAML, empty where the key is needed."""

    path: str
    type: str
    default: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """A section that is one of several by its ``name``: the losses."""

    title: str
    keys: tuple[Key, ...]


def keys_of(section: type[BaseModel], above: str = "") -> Iterator[Key]:
    """All keys of a section and of the sections in it, in the schema's order."""
    for name, field in section.model_fields.items():
        path = f"{above}{name}"
        yield Key(path, _type_of(field), _default_of(field), field.description or "")
        for inner, many in _sections(field.annotation):
            yield from _below(inner, f"{path}{'[]' if many else ''}.")


def losses_of(union: Any) -> tuple[Choice, ...]:
    """The keys of each loss of a union, in its order."""
    return tuple(Choice(cls.name, tuple(_fields(cls, "loss."))) for cls in get_args(union))


def _below(section: type, above: str) -> Iterator[Key]:
    yield from keys_of(section, above) if issubclass(section, BaseModel) else _fields(section, above)


def _fields(cls: type, above: str) -> Iterator[Key]:
    """Of a dataclass: its name first, then its own fields, then those of its bases."""
    sentences, hints = sentences_of(cls), typing.get_type_hints(cls)
    own = [f for f in dataclasses.fields(cls) if f.name in inspect.get_annotations(cls)]
    for field in (*own, *(f for f in dataclasses.fields(cls) if f not in own)):
        default = "" if field.default is dataclasses.MISSING else as_yaml(field.default)
        yield Key(f"{above}{field.name}", type_words(hints[field.name]), default, sentences.get(field.name, ""))


def _sections(annotation: Any) -> Iterator[tuple[type, bool]]:
    """Sections in an annotation, and whether a list of them; losses have tables of their own."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        is_section = issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
        if is_section and not issubclass(annotation, RankingLoss):
            yield annotation, False
        return
    for part in get_args(annotation):
        for section, many in _sections(part):
            yield section, many or get_origin(annotation) is tuple


def _type_of(field: FieldInfo) -> str:
    words = type_words(field.annotation)
    bounds = [f"{sign} {as_yaml(getattr(m, name))}" for m in field.metadata for kind, (name, sign) in BOUNDS.items()
              if isinstance(m, kind)]  # fmt: skip
    return words + (f", {', '.join(bounds)}" if bounds else "")


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    if field.default_factory is not None:
        return "{}" if field.default_factory is dict else "see there"
    if isinstance(field.default, RankingLoss):
        return f"{{name: {field.default.name}}}"
    return (
        "section"
        if isinstance(field.default, BaseModel) or dataclasses.is_dataclass(field.default)
        else as_yaml(field.default)
    )


def type_words(annotation: Any) -> str:
    """An annotation in words; the values of a Literal as code."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{as_yaml(value)}`" for value in parts)
    if origin is typing.Annotated:
        return type_words(parts[0])
    if origin in (typing.Union, types.UnionType):
        if all(isinstance(p, type) and issubclass(p, RankingLoss) for p in parts):
            return "section, by its name"
        return " or ".join(type_words(part) for part in parts)
    if origin is tuple:
        return f"list of {type_words(parts[0])}"
    if origin is dict:
        return "mapping"
    return WORDS.get(annotation, "section")


def as_yaml(value: object) -> str:
    """A default as one writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(as_yaml, value))}]"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def undocumented(keys: Sequence[Key]) -> list[str]:
    """Paths of the keys without a sentence."""
    return [key.path for key in keys if not key.sentence.strip()]
