"""``cyclealign schema``: the JSON Schema of a config, for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

Of = Literal["run", "train", "cprd", "idcm", "leaf", "margin_mse", "pld", "pld_lists", "quantidce"]


def schema(
    of: Annotated[Of, typer.Argument(metavar="[KIND]", help="run, train, or a distiller's")] = "run",
) -> None:
    """Print the JSON Schema of a config, for editors: keys, types, defaults, and a sentence on each."""
    from cyclealign.config.json_schema import json_schema

    print(json_schema(schemas()[of]), end="")


def schemas() -> dict[Of, type[BaseModel]]:
    """The class of each kind of config."""
    from cyclealign.config.list_config import TrainConfig
    from cyclealign.config.schema import Config
    from cyclealign.distill.config import ListDistillConfig
    from cyclealign.distill.cprd_config import CPRDConfig
    from cyclealign.distill.idcm_config import IDCMConfig
    from cyclealign.distill.leaf_config import LeafConfig
    from cyclealign.distill.pld_config import PLDConfig, PLDListConfig
    from cyclealign.distill.quantidce_config import QuantiDCEConfig

    return {
        "run": Config,
        "train": TrainConfig,
        "cprd": CPRDConfig,
        "idcm": IDCMConfig,
        "leaf": LeafConfig,
        "margin_mse": ListDistillConfig,
        "pld": PLDConfig,
        "pld_lists": PLDListConfig,
        "quantidce": QuantiDCEConfig,
    }
