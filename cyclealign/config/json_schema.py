"""The JSON Schema of a config, by which editors complete keys, show their sentences and mark mistakes."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, TypeAdapter

from cyclealign.config.schema import OWNED_TRAINING_KEYS
from cyclealign.config.training_keys import LEAST
from cyclealign.config.training_types import KEYS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: type[BaseModel]) -> str:
    """The schema of a config's class as JSON text: types, bounds, defaults, enums, and each key's sentence.

    It knows each key by itself. What holds between keys (a price beside a budget) is checked when a config is loaded.
    """
    schema = {"$schema": DIALECT, **kind.model_json_schema()}
    for part in (schema, *schema.get("$defs", {}).values()):
        _tighten(part)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _tighten(part: dict[str, Any]) -> None:
    """What pydantic leaves open: a dataclass takes no other keys, a loss is told by its name, and a section
    ``training`` takes what TrainingArguments do."""
    keys = part.get("properties")
    if keys is None:
        return
    part["additionalProperties"] = False
    if "const" in keys.get("name", {}):
        part["required"] = sorted({*part.get("required", ()), "name"})
    if keys.get("training", {}).get("type") == "object":
        keys["training"] |= {"properties": _training(), "additionalProperties": False}
    for key in keys.values():
        key.pop("discriminator", None)  # of OpenAPI; editors that check a schema warn of it


def _training() -> dict[str, Any]:
    free = [key for key in KEYS if key not in (*OWNED_TRAINING_KEYS, "hub_token")]
    return {
        key: TypeAdapter(KEYS[key]).json_schema() | ({"minimum": LEAST[key]} if key in LEAST else {}) for key in free
    }
