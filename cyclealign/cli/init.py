"""``cyclealign init``: a config to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cyclealign.files.printable import say
from cyclealign.types import UserError

Judge = Literal["openai", "local", "python"]
SCHEMA = "cyclealign.schema.json"
OF_AN_API = ("model", "base_url", "api_key_env", "passes", "price", "budget_usd")
UNUSED: dict[Judge, tuple[str, ...]] = {"openai": ("path",), "local": (*OF_AN_API, "path"), "python": OF_AN_API}
# What the user has to put in place of these is said when the file is written.
PROMPTS, MODEL, FUNCTION = "prompts.jsonl", "the-judge-s-model", "ranker.py:rank"


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Config to write")] = Path("run.yaml"),
    judge: Annotated[
        Judge,
        typer.Option(help="Who ranks: an API, the embedded ranker, or a function of your own"),
    ] = "openai",
    prompts: Annotated[
        str | None, typer.Option(help="Prompts to train on: file, glob or hub id", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to align: directory or hub id", show_default=False)] = None,
) -> None:
    """Write a config to edit, every key with its default and a sentence, and its JSON Schema for editors beside it."""
    from cyclealign.config.json_schema import json_schema
    from cyclealign.config.schema import Config
    from cyclealign.config.starter import starter_yaml
    from cyclealign.files.atomic import write_atomic

    if file.exists():
        raise UserError(f"{file}: is there already; remove it, or give another name: cyclealign init FILE")
    if not file.parent.is_dir():
        raise UserError(f"{file}: there is no directory {file.parent}; make it first")
    values = _values(judge, prompts, model)
    hidden = tuple(f"black_box.{key}" for key in UNUSED[judge])
    write_atomic(file, starter_yaml(values, SCHEMA, hidden))
    write_atomic(file.with_name(SCHEMA), json_schema(Config))
    say(str(file))
    edits = {"data.prompts": PROMPTS, "black_box.model": MODEL, "black_box.path": FUNCTION}
    for key, placeholder in edits.items():
        if values.get(key) == placeholder:
            say(f"edit {key}: {placeholder}")
    say(f"then: cyclealign run {file} --dry-run")


def _values(judge: Judge, prompts: str | None, model: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {"name": "my-run", "data.prompts": prompts or PROMPTS, "black_box.backend": judge}
    if model is not None:
        values["policy.model"] = model
    if judge == "openai":
        values["black_box.model"] = MODEL
    elif judge == "python":
        values["black_box.path"] = FUNCTION
    return values | {"training": {"learning_rate": 1e-5, "num_train_epochs": 1, "per_device_train_batch_size": 4}}
