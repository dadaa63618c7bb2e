"""The JSON Schema of a config, by which editors complete keys, show their sentences and mark mistakes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from cyclealign.config.schema import OWNED_TRAINING_KEYS
from cyclealign.config.training_keys import LEAST
from cyclealign.config.training_types import KEYS
from cyclealign.losses import AnyPolicyLoss

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: type[BaseModel]) -> str:
    """The schema of a config's class as JSON text: types, bounds, defaults, enums, and each key's sentence.

    It knows each key by itself. What holds between keys (a price beside a budget) is checked when a config is loaded.
    """
    schema = {"$schema": DIALECT, **kind.model_json_schema()}
    losses = {cls.__name__: cls for cls in get_args(AnyPolicyLoss)}
    for name, part in (("", schema), *schema.get("$defs", {}).items()):
        _tighten(part)
        if name in losses:
            part["required"] = sorted({*part.get("required", ()), "name"})  # a loss is told by it
            for key, sentence in sentences_of(losses[name]).items():
                part["properties"][key]["description"] = sentence
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _tighten(part: dict[str, Any]) -> None:
    """What pydantic leaves open: a dataclass takes no other keys, and a section ``training``
    takes what TrainingArguments do."""
    keys = part.get("properties")
    if keys is None:
        return
    part["additionalProperties"] = False
    if keys.get("training", {}).get("type") == "object":
        keys["training"] |= {"properties": _training(), "additionalProperties": False}
    for key in keys.values():
        key.pop("discriminator", None)  # of OpenAPI; editors that check a schema warn of it


def sentences_of(cls: type) -> dict[str, str]:
    """What stands below the fields of a dataclass (a loss, a price) and of its bases."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        [body] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        fields = body.body if isinstance(body, ast.ClassDef) else []
        for field, after in itertools.pairwise(fields):
            match field, after:
                case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                    found[name] = inspect.cleandoc(text)
    return found


def _training() -> dict[str, Any]:
    free = [key for key in KEYS if key not in (*OWNED_TRAINING_KEYS, "hub_token")]
    return {
        key: TypeAdapter(KEYS[key]).json_schema() | ({"minimum": LEAST[key]} if key in LEAST else {}) for key in free
    }
