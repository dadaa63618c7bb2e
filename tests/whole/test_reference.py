"""The reference that is made from code: no key without a sentence, and none missing."""

from __future__ import annotations

from typing import get_args

from config_keys import keys_of, losses_of, undocumented
from config_page import all_keys, config_page
from pydantic import BaseModel, ConfigDict

from cyclealign.config.list_config import READ, TrainConfig
from cyclealign.config.schema import Config
from cyclealign.losses import AnyPolicyLoss


def test_every_key_has_a_sentence() -> None:
    assert undocumented(list(all_keys())) == []


def test_a_training_on_lists_has_what_the_command_reads() -> None:
    keys = {key.path: key for key in keys_of(TrainConfig)}
    assert {path for path in keys if "." not in path} == set(READ)
    of_a_run = {key.path: key for key in keys_of(Config)}
    assert "lists.source" not in keys
    assert {path: key for path, key in of_a_run.items() if path in keys and path != "lists"} == {
        path: key for path, key in keys.items() if path != "lists"
    }
    assert set(keys) <= {key.path for key in all_keys()}
    section = config_page().partition("## Training on lists\n")[2].partition("\n## ")[0]
    own = [p for p in keys if "." not in p or p.startswith("lists.")]
    assert [p for p in own if f"`{p}`" not in section] == []


def test_a_key_without_a_sentence_is_found_wherever_it_stands() -> None:
    class Inner(BaseModel):
        model_config = ConfigDict(use_attribute_docstrings=True)
        told: int = 1
        """Told."""
        untold: int = 2

    class Outer(BaseModel):
        inner: Inner | None = None
        many: tuple[Inner, ...] = ()

    assert undocumented(list(keys_of(Outer))) == ["inner", "inner.untold", "many", "many[].untold"]


def test_the_page_has_every_key_of_a_dump_and_of_every_loss() -> None:
    dumped = Config.model_validate({"name": "x", "data": {"prompts": "p"}, "black_box": {"model": "m"}}).model_dump()

    def paths(part: dict[str, object], above: str = "") -> list[str]:
        inner = [p for k, v in part.items() if isinstance(v, dict) and v for p in paths(v, f"{above}{k}.")]
        return [*(f"{above}{k}" for k in part), *inner]

    page = config_page()
    missing = [p for p in paths(dumped) if f"`{p}`" not in page and f"## {p}\n" not in page]
    assert missing == []
    losses = losses_of(AnyPolicyLoss)
    assert [loss.title for loss in losses] == [cls.name for cls in get_args(AnyPolicyLoss)]
    assert losses[-1].title == "python"
    pairs = next(key for loss in losses if loss.title == "simpo" for key in loss.keys if key.path == "loss.pairs")
    assert (pairs.type, pairs.default) == ("`best_worst`, `adjacent`, `all`", "best_worst")
