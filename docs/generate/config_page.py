"""The reference of all config keys, as Markdown from the schemas."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from config_keys import Choice, Key, keys_of, losses_of

from cyclealign.cli.schema import schemas
from cyclealign.config.list_config import TrainConfig
from cyclealign.config.schema import Config
from cyclealign.losses import AnyPolicyLoss

TITLES = {"pld": "pld, on images", "pld_lists": "pld, with data.scores"}
DISTILLERS = {TITLES.get(name, name): kind for name, kind in schemas().items() if name not in ("run", "train")}
INTRODUCTION = """# Every key of a config

A config is one YAML file. `key.below=value` on the command line stands over the file; an unknown key is refused, and
the nearest known one is named. A key without a default has to be given. This page is made from the schema itself.

"""


def all_keys() -> Iterator[Key]:
    """Every key of a run, of a training on lists, of each loss and of each distiller."""
    yield from keys_of(Config)
    yield from keys_of(TrainConfig)
    for loss in losses_of(AnyPolicyLoss):
        yield from loss.keys
    for schema in DISTILLERS.values():
        yield from keys_of(schema)


def config_page() -> str:
    """Markdown: the run's sections, those of a training on lists, the losses, the distillers."""
    parts = (_run(), _training_on_lists(), _losses(losses_of(AnyPolicyLoss)), _distillers())
    return INTRODUCTION + "\n".join(line for part in parts for line in part) + "\n"


def _run() -> Iterator[str]:
    top = list(Config.model_fields)
    keys = list(keys_of(Config))
    plain = [key for key in keys if key.path in top and not any(k.path.startswith(f"{key.path}.") for k in keys)]
    yield "## The run\n"
    yield from _table(plain)
    for name in (n for n in top if n not in {key.path for key in plain}):
        [head] = [key for key in keys if key.path == name]
        optional = " Left out by default." if head.default == "null" else ""
        yield f"## {name}\n\n{head.sentence}{optional}\n"
        yield from _table([key for key in keys if key.path.startswith(f"{name}.")])


def _training_on_lists() -> Iterator[str]:
    """What differs from a run: all else it has of one."""
    keys = list(keys_of(TrainConfig))
    same = ", ".join(f"`{name}`" for name in TrainConfig.model_fields if name != "lists")
    yield "## Training on lists\n\nThe config of `cyclealign train CONFIG LISTS` ([how](train.md)). Of a run it has"
    yield f"{same} with the keys that they have there; `lists` has no `source`, which is `LISTS`.\n"
    yield from _table(key for key in keys if key.path.startswith("lists."))


def _losses(losses: Iterable[Choice]) -> Iterator[str]:
    yield "## loss\n\n`loss.name` says which; the other keys are that loss's own."
    yield "Which to take: [Choose a loss](choose_loss.md). Their equations: [the method](method.md#losses).\n"
    for loss in losses:
        [name] = [key for key in loss.keys if key.path == "loss.name"]
        yield f"### {loss.title}\n\n{name.sentence}\n"
        yield from _table([key for key in loss.keys if key is not name])


def _distillers() -> Iterator[str]:
    yield "## Distillers\n\nThe configs of `cyclealign distill NAME CONFIG` ([what they share](distill.md)).\n"
    for title, schema in DISTILLERS.items():
        yield f"### {title}\n\n{inspect.getdoc(schema)}\n"
        yield from _table(keys_of(schema))


def _table(keys: Iterable[Key]) -> Iterator[str]:
    rows = [row for key in keys for row in _row(key)]
    if rows:
        yield '<dl class="keys" markdown>\n' + "\n".join(rows) + "\n</dl>\n"


def _row(key: Key) -> Iterator[str]:
    """A key, what it may be and is by default, and its sentence: narrow enough for a phone."""
    default = " · needed" if not key.default else f" · default {_code(key.default)}"
    yield f'<dt markdown="span">`{key.path}` {key.type}{default}</dt>'
    yield f'<dd markdown="span">{cell(key.sentence)}</dd>'


def _code(default: str) -> str:
    return "as below" if default == "section" else default if default == "see there" else f"`{default}`"


def cell(text: str) -> str:
    """A docstring in a table's cell: one line, its code marked as Markdown's."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")
