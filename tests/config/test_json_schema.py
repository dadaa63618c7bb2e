"""The JSON Schemas: every config of ours is valid by its own, and what the loader refuses of a key, they refuse."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cyclealign.cli.schema import schemas
from cyclealign.config.json_schema import json_schema
from cyclealign.files.strict_yaml import read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name != "accelerate")
Raw = dict[str, Any]


@cache
def checker(path: Path) -> jsonschema.Draft202012Validator:
    schema = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_every_config_names_its_schema_and_is_valid_by_it(file: Path) -> None:
    text = file.read_text("utf-8")
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.partition("\n")[0])
    assert named is not None
    checker((file.parent / named[1]).resolve()).validate(read_yaml(text, str(file)))


def test_the_schemas_in_configs_are_those_of_the_code() -> None:
    kinds = schemas()
    assert {p.stem for p in (CONFIGS / "schemas").glob("*.json")} == set(kinds)
    for name, kind in kinds.items():
        written = (CONFIGS / "schemas" / f"{name}.json").read_text("utf-8")
        assert written == json_schema(kind), f"cyclealign schema {name} > configs/schemas/{name}.json"


LEAST: Raw = {"name": "x", "data": {"prompts": "p"}, "black_box": {"model": "m"}}


@pytest.mark.parametrize(
    "planted",
    [
        {"polcy": {}},
        {"data": {}},
        {"seed": "42"},
        {"name": "../up"},
        {"policy": {"lora": {"rank": 8}}},
        {"policy": {"dtype": "bf16"}},
        {"generator": {"top_p": 1.5}},
        {"generator": {"candidates": 17}},
        {"black_box": {"price": {"input": 1.0}}},
        {"black_box": {"judges": [{"base_url": "http://a"}]}},
        {"loss": {"name": "rrf"}},
        {"loss": {"sft_weight": 1.0}},
        {"loss": {"name": "simpo", "margn": 1.0}},
        {"training": {"learning_rat": 1e-5}},
        {"training": {"learning_rate": "fast"}},
        {"training": {"num_train_epochs": -1}},
        {"training": {"output_dir": "here"}},
        {"training": {"lr_scheduler_type": "cosin"}},
    ],
    ids=json.dumps,
)
def test_planted_mistakes_are_found(planted: Raw) -> None:
    check = checker(CONFIGS / "schemas" / "run.json")
    check.validate(LEAST)
    assert not check.is_valid(LEAST | planted)


@pytest.mark.parametrize(
    "planted", [{"data": {"prompts": "p"}}, {"lists": {"heldout": 0.1}}, {"lists": {"source": "x"}}]
)
def test_a_training_on_lists_takes_what_it_reads(planted: Raw) -> None:
    check = checker(CONFIGS / "schemas" / "train.json")
    least = {"name": "x", "lists": {"held_out": 0.1}, "loss": {"name": "python", "function": "a.py:f"}}
    check.validate(least)
    assert not check.is_valid(least | planted)


def test_keys_keep_their_sentence_default_and_choices() -> None:
    schema = json.loads((CONFIGS / "schemas" / "run.json").read_text("utf-8"))
    evict = schema["$defs"]["DemonstrationsConfig"]["properties"]["evict"]
    assert (evict["default"], evict["enum"]) == ("oldest", ["oldest", "agreement"])
    assert evict["description"].startswith("Who leaves a full pool")
    undescribed = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, value in part["properties"].items()
        if not value.get("description")
    ]
    assert undescribed == []
