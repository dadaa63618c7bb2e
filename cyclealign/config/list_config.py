"""The config of ``cyclealign train``: of a run's, what says how a policy learns, and which lists it reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from cyclealign.config.errors import Raw
from cyclealign.config.loading import raw_config, validated
from cyclealign.config.schema import Config, ListsConfig
from cyclealign.config.section import Section
from cyclealign.config.training_keys import check_training
from cyclealign.types import UserError

READ = (
    *("name", "seed", "output_dir", "policy", "loss", "anchor", "leaf", "training", "layout", "responses_per_pass"),
    "lists",
)


def _fields(kind: type[Section], names: Collection[str]) -> dict[str, Any]:
    """As ``create_model`` takes them, sentences included."""
    return {name: (field.annotation, field) for name, field in kind.model_fields.items() if name in names}


# The file's own keys, for editors and the reference; ``lists.source`` comes from the command line.
TrainLists = create_model(
    "TrainLists",
    __base__=Section,
    __doc__="How the ranked lists that the command names are read.",
    **_fields(ListsConfig, ListsConfig.model_fields.keys() - {"source"}),
)
TrainConfig = create_model(
    "TrainConfig",
    __base__=Section,
    __doc__="A training on ranked lists that exist, of ``cyclealign train``.",
    **_fields(Config, set(READ) - {"lists"}),
    lists=(TrainLists, Field(default=TrainLists(), description=TrainLists.__doc__)),
)


def load_list_config(path_or_name: str | Path, source: str, overrides: Sequence[str] = ()) -> Config:
    """A config as ``load_config`` reads it, of which only ``READ`` counts: a cycle's own file serves as well.

    The other sections say what such a run is: one interaction over recorded verdicts.

    Raises:
        UserError: as ``load_config``; or an override of what is not read, or a loss against the interaction before.
    """
    for override in overrides:
        section = override.partition("=")[0].strip().partition(".")[0]
        if section in Config.model_fields and section not in READ:
            raise UserError(
                f"override {override}: cyclealign train does not read {section}; it reads {', '.join(READ)}"
            )
    raw = raw_config(path_or_name, overrides)
    return _over_lists(raw, {**(raw.get("lists") or {}), "source": source})


def warm_start_config(config: Config, source: str) -> Config:
    """Of the run over lists that a cycle begins with, in a directory within the cycle's own. UserError as above."""
    raw = {**config.model_dump(mode="json"), "output_dir": str(config.run_dir), "name": "warm_start"}
    try:
        return _over_lists(raw, {"source": source})
    except UserError as error:
        raise UserError(f"cycle.warm_start.lists: {error}") from error


def _over_lists(raw: Raw, lists: Raw) -> Config:
    taken = {
        "lists": lists,
        "data": {"prompts": lists["source"]},
        "black_box": {"backend": "replay", "path": str(lists.get("verdicts") or lists["source"])},
        "cycle": {"max_interactions": 1},
        "drift": {"keep": "last"},
    }
    config = validated({**{key: value for key, value in raw.items() if key in READ}, **taken})
    check_training(config.training)
    if config.loss.student_score == "log_ratio" and config.loss.reference == "previous":
        raise UserError(
            f"loss.reference: {config.loss.name} is compared to the interaction before, and these lists are the first"
            " one; set loss.reference=start"
        )
    return config
