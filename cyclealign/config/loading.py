"""Configs from files and overrides, and back: every failure is one readable line that names the key or line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.errors import Raw, check_keys, is_free, readable, show
from cyclealign.config.schema import Config
from cyclealign.config.section import Section
from cyclealign.config.training_keys import check_training
from cyclealign.files.foreign import read_text
from cyclealign.files.packaged import resource_dir
from cyclealign.files.strict_yaml import read_yaml, write_yaml
from cyclealign.types import UserError

S = TypeVar("S", bound=Section)
# Deeper is a mistake: an alias that holds itself has no end at all.
MAX_DEPTH = 32
# What a resumed run may change: nothing that a candidate, a verdict or a weight depends on.
RESUMABLE = (
    "black_box.budget_usd",
    "black_box.price",
    "black_box.judges.price",
    "black_box.cascade.first.price",
    "black_box.requests_per_minute",
    "black_box.tokens_per_minute",
    "black_box.max_concurrency",
    "black_box.outage_minutes",
    "black_box.min_consistency",
    "black_box.timeout_s",
    "black_box.attempts",
    "black_box.batch",
    "cycle.witness.price",
    "cycle.witness.budget_usd",
    "generator.endpoints",
    "generator.adapter_root",
    "generator.warm",
    "responses_per_pass",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.report_to",
    "training.run_name",
    "training.project",
    "training.disable_tqdm",
    "training.log_level",
    "training.logging_strategy",
    "training.logging_steps",
    "training.logging_first_step",
)


def load_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A config from a YAML file, or a packaged one by name (``quickstart``, ``configs/quickstart.yaml``).

    Args:
        overrides: ``key.below=value`` with YAML values; a new ``loss.name`` replaces the whole section, a key
            below a null section makes the section.

    Raises:
        UserError: one line that names the file and line, or the key, what was expected and what was found.
    """
    config = validated(raw_config(path_or_name, overrides))
    check_training(config.training)
    return config


def raw_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping that ``load_config`` validates: known keys only, overrides applied. UserError as there."""
    path = find_config(path_or_name)
    raw = _read(path, Config)
    check_keys(raw, where=f"{path}: ")
    # The loss's name goes first: its fields may stand before it on the command line.
    for override in sorted(overrides, key=lambda o: not o.startswith("loss.name=")):
        raw = with_override(raw, override)
    check_keys(raw)
    return raw


def find_config(path_or_name: str | Path) -> Path:
    """The file itself where it exists, else the packaged config of that name."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    folder = resource_dir("configs")
    name = path.with_suffix(".yaml") if path.suffix in ("", ".yaml") else path
    packaged = folder / (name.relative_to("configs") if name.parts[:1] == ("configs",) else name)
    if not name.is_absolute() and ".." not in name.parts and packaged.is_file():
        return packaged
    if path.is_dir():
        raise UserError(f"config {path}: is a directory, expected a YAML file")
    names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise UserError(f"config {path}: no such file, and no packaged config of that name (there are {names})")


def validated(raw: Raw) -> Config:
    """The config of a raw mapping; strict: text is not taken for a number, nor a number for text."""
    try:
        return Config.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(readable(error, raw)) from error


def parsed_section(kind: type[S], name: str, values: Raw, options: Sequence[str]) -> S:
    """One section alone, from values and ``key=value`` options below it (for commands that need no whole run).

    Raises:
        UserError: naming the key, as ``load_config`` does.
    """
    raw: Raw = {name: dict(values)}
    for option in options:
        raw = with_override(raw, f"{name}.{option}")
    check_keys(raw)
    try:
        return kind.model_validate_json(json.dumps(raw[name]), strict=True)
    except ValidationError as error:
        raise UserError(readable(error, raw[name], name)) from error


def black_box_of(path: Path, options: Sequence[str] = ()) -> BlackBoxConfig:
    """The ``black_box`` section of a YAML file, whatever stands beside it, with ``key=value`` options below it.

    Raises:
        UserError: names the file, and what is wrong with it or with the section.
    """
    raw = read_yaml(read_text(path), str(path))
    section = raw.get("black_box") if isinstance(raw, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"{path}: expected a section black_box (black_box: {{model: …}}), got {show(raw)}")
    try:
        _check_plain(section, ("black_box",))
        return parsed_section(BlackBoxConfig, "black_box", section, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def with_override(raw: Raw, override: str, kind: type[Section] = Config) -> dict[str, Any]:
    """A copy of ``raw``, a file of schema ``kind``, with one ``key.below=value`` applied."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UserError(f"override {override!r}: expected key=value, e.g. training.learning_rate=1e-5")
    value = read_yaml(text, f"override {key}")
    _check_plain(value, tuple(path))
    if path == ["loss", "name"] and _loss_name(raw, kind) != value:
        return {**raw, "loss": {"name": value}}
    changed = copy.deepcopy(dict(raw))
    section = changed
    for depth, part in enumerate(path[:-1], start=1):
        below = section.get(part)
        if below is None:
            below = section[part] = {}
        if not isinstance(below, dict):
            raise UserError(f"override {key}: {'.'.join(path[:depth])} is not a section, it is {show(below)}")
        section = below
    section[path[-1]] = value
    return _with_loss_name(changed, kind)


def load_sections(kind: type[S], path_or_name: str | Path, overrides: Sequence[str]) -> S:
    """Any other schema of whole files, read as ``load_config`` reads a run's.

    Raises:
        UserError: as ``load_config``.
    """
    path = find_config(path_or_name)
    raw = _read(path, kind)
    check_keys(raw, where=f"{path}: ", model=kind)
    for override in sorted(overrides, key=lambda o: not o.startswith("loss.name=")):
        raw = with_override(raw, override, kind)
    check_keys(raw, model=kind)
    try:
        return kind.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(readable(error, raw)) from error


def dump_config(config: Config) -> str:
    """YAML of the resolved config, every default written out; ``load_config`` reads it back to an equal one."""
    return write_yaml(config.model_dump(mode="json"))


def config_of(text: str, where: str) -> Config:
    """The config that ``dump_config`` wrote. UserError where it is none, naming ``where``."""
    raw = read_yaml(text, where)
    if not isinstance(raw, dict):
        raise UserError(f"{where}: holds no config; put it back from a copy")
    check_keys(raw, where=f"{where}: ")
    return validated(raw)


def check_resume_changes(old: Config, new: Config, *, by: str = "") -> None:
    """Refuse a change that is not one of budget, rates, concurrency, price, time limits, reporting or endpoints, or of
    how a step's lists are cut (whose number is held against the run's where it is resumed).

    Args:
        by: how the change came about, before the error.

    Raises:
        UserError: naming the refused key.
    """
    before, after = (dict(_leaves(c.model_dump(mode="json"))) for c in (old, new))
    for key in sorted(before.keys() | after.keys()):
        named = re.sub(r"\.\d+(?=\.|$)", "", key)  # of whichever judge
        allowed = any(named == r or named.startswith(f"{r}.") for r in RESUMABLE)
        if not allowed and before.get(key) != after.get(key):
            raise UserError(
                f"{by}resume cannot change {key} (from {show(before.get(key))} to {show(after.get(key))}): only budget,"
                " rates, concurrency, price, time limits, reporting and endpoints may change; start a new run for"
                " anything else"
            )


def _read(path: Path, kind: type[Section]) -> dict[str, Any]:
    raw = read_yaml(read_text(path), str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections (key: value) at the top level, got {show(raw)}")
    _check_plain(raw, ())
    return _with_loss_name(raw, kind)


def _loss_name(raw: Raw, kind: type[Section]) -> Any:
    loss = raw.get("loss")
    return loss.get("name") if isinstance(loss, dict) else _default_loss(kind).get("name") if loss is None else loss


def _with_loss_name(raw: dict[str, Any], kind: type[Section]) -> dict[str, Any]:
    """A loss section without a name changes the default loss."""
    if isinstance(raw.get("loss"), dict) and "name" not in raw["loss"]:
        raw["loss"] = {**_default_loss(kind), **raw["loss"]}
    return raw


def _default_loss(kind: type[Section]) -> dict[str, Any]:
    """The schema's own, field by field; empty where it has none."""
    field = kind.model_fields.get("loss")
    return {} if field is None else dataclasses.asdict(field.default)


def _check_plain(value: Any, path: tuple[str, ...]) -> None:
    """Only what JSON has, with text keys and finite numbers: the config is written and hashed as such."""
    key = ".".join(path) or "config"
    if len(path) > MAX_DEPTH:
        raise UserError(f"{'.'.join(path[:3])}: sections are nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, below in value.items():
            if not isinstance(name, str):
                raise UserError(f"{key}: expected text as a key, got {show(name)}")
            _check_plain(below, (*path, name))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            _check_plain(below, (*path, str(number)))
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}: expected a finite number, got {value}")
    elif not isinstance(value, str | int | float | bool | None):
        raise UserError(f"{key}: expected text, a number, true, false, null, a list or a section, got {value!r}")


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; the free sections below ``black_box.request`` count as one value each key. The sections
    of a list go by their numbers."""
    if isinstance(value, list) and value and all(isinstance(below, dict) for below in value) and not is_free(path):
        value = {str(number): below for number, below in enumerate(value)}
    if isinstance(value, dict) and value and not (is_free(path) and len(path) > 2):
        for key, below in value.items():
            yield from _leaves(below, (*path, key))
    elif not (isinstance(value, dict) and not value):
        yield ".".join(path), value
