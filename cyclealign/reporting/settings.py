"""What a run's resolved configuration says to those who report on it.

Read without the schema, which loads torch: a status has to come at once. What is not there, or not what the schema
would have it be, is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from cyclealign.config.keeping import Keep
from cyclealign.files.foreign import read_text
from cyclealign.files.run_dir import RunDir
from cyclealign.files.strict_yaml import read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Keys of ``config.yaml`` by their last names; ``priced``: whether ``black_box.price`` is given. ``witness``: its
    name, in whichever form it is given.

    ``leaves``: every key with its value, both as text, in the order of the file.
    """

    name: str | None
    seed: int | None
    batch_size: int | None
    max_interactions: int | None
    backend: str | None
    priced: bool
    budget_usd: float | None
    keep: Keep | None
    witness: str | None
    witness_priced: bool
    witness_budget_usd: float | None
    gate: float | None
    max_nll_rise: float | None
    max_length_ratio: float | None
    min_distinct2: float | None
    leaves: tuple[tuple[str, str], ...]


def read_settings(run: RunDir) -> Settings:
    """Of a run directory; everything is None where it has no configuration. UserError where that is no YAML."""
    config = read_yaml(read_text(run.config), str(run.config)) if run.config.exists() else None
    return Settings(
        name=_text(_at(config, "name")),
        seed=_whole(_at(config, "seed")),
        batch_size=_whole(_at(config, "cycle", "batch_size")),
        max_interactions=_whole(_at(config, "cycle", "max_interactions")),
        backend=_text(_at(config, "black_box", "backend")),
        priced=_at(config, "black_box", "price") is not None,
        budget_usd=_number(_at(config, "black_box", "budget_usd")),
        keep=_keep(_at(config, "drift", "keep")),
        witness=_text(_at(config, "cycle", "scorer")) or _text(_at(config, "cycle", "witness", "scorer")),
        witness_priced=_at(config, "cycle", "witness", "price") is not None,
        witness_budget_usd=_number(_at(config, "cycle", "witness", "budget_usd")),
        gate=_number(_at(config, "demonstrations", "gate")),
        max_nll_rise=_number(_at(config, "drift", "max_nll_rise")),
        max_length_ratio=_number(_at(config, "drift", "max_length_ratio")),
        min_distinct2=_number(_at(config, "drift", "min_distinct2")),
        leaves=tuple(_leaves(config)),
    )


def _at(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _keep(value: object) -> Keep | None:
    return next((rule for rule in get_args(Keep) if rule == value), None)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value)
