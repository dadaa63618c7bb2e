"""The config that ``cyclealign init`` writes: what everybody sets, and every other key beside it, commented out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cyclealign.config.errors import Raw
from cyclealign.config.schema import Config
from cyclealign.files.strict_yaml import write_yaml

WIDTH = 110
HEAD = """\
# yaml-language-server: $schema={schema}
# A run of cyclealign. What stands here is what most people set; every other key follows with its default: remove the
# "#" right before a key, and before its section, to set it.
"""
# Everybody's keys, in the schema's order; values come from init's options, else from here, else from the schema.
SHOWN = (
    "name", "seed", "output_dir", "data", "data.prompts", "data.eval_prompts", "data.limit", "policy", "policy.model",
    "policy.dtype", "policy.lora", "generator", "generator.backend", "generator.candidates", "generator.temperature",
    "generator.max_new_tokens", "black_box", "black_box.backend", "black_box.model", "black_box.path",
    "black_box.base_url", "black_box.api_key_env", "black_box.passes", "black_box.price", "black_box.budget_usd",
    "loss", "training", "cycle", "cycle.batch_size", "cycle.max_interactions", "drift", "drift.keep",
)  # fmt: skip


def starter_yaml(values: Raw, schema: str, hidden: tuple[str, ...] = ()) -> str:
    """YAML of a run with the given values (dotted keys).

    ``schema``: where editors find the schema, relative to the file. ``hidden``: keys of ``SHOWN`` that this run has
    no use for; they stand commented out.
    """
    shown = tuple(key for key in SHOWN if key not in hidden)
    return HEAD.format(schema=schema) + "".join(f"{line}\n" for line in _lines(Config, values, shown))


def _lines(kind: type[BaseModel], values: Raw, shown: tuple[str, ...]) -> Iterator[str]:
    # Commented keys follow those in use, so that the top of each section is what one reads.
    for name in sorted(kind.model_fields, key=lambda name: name not in shown):
        field = kind.model_fields[name]
        section = field.annotation if name not in values else None
        yield ""
        yield from _sentence(field, "")
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield f"{'' if name in shown else '#'}{name}:"
            inner = sorted(section.model_fields, key=lambda key: f"{name}.{key}" not in shown)
            for key in inner:
                path = f"{name}.{key}"
                yield from _sentence(section.model_fields[key], "  ")
                yield from _key(key, _value(section.model_fields[key], path, values), "  ", path in shown)
        else:
            yield from _key(name, _value(field, name, values), "", name in shown)


def _sentence(field: FieldInfo, indent: str) -> Iterator[str]:
    text = (field.description or "").replace("``", "")
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _key(name: str, value: Any, indent: str, shown: bool) -> Iterator[str]:
    for line in write_yaml({name: value}).splitlines():
        own = line.lstrip()  # the sign stands right before the key, of a section's own too
        yield f"{indent}{line[: len(line) - len(own)]}{'' if shown else '#'}{own}"


def _value(field: FieldInfo, path: str, values: Raw) -> Any:
    if path in values:
        return values[path]
    default = field.get_default(call_default_factory=True, validated_data={})
    plain: Any = _Any(value=default).model_dump(mode="json")["value"]
    return plain


class _Any(BaseModel):
    value: Any
