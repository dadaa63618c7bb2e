"""Result files: one JSON object an eval, with figures, warnings, hardware, commit, seed and a record for each item."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclealign.files.atomic import write_atomic
from cyclealign.files.environment import environment
from cyclealign.types import CandidateSet, UserError, sha256_hex

FORMAT = 1
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
Result = dict[str, Any]


def make_result(
    name: str,
    *,
    about: Mapping[str, Any],
    seed: int,
    metrics: Mapping[str, Any],
    items: Sequence[Mapping[str, Any]],
    primary: str,
    warnings: Iterable[str] = (),
) -> Result:
    """A result with what it ran on.

    ``about``: what was evaluated, as the command line said it. ``primary``: the key of ``metrics`` whose per-item
    value is ``value`` in ``items``; with the items' ``key`` it is what ``compare`` pairs results by.
    """
    return {
        "format": FORMAT,
        "eval": name,
        "about": dict(about),
        "seed": seed,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "primary": primary,
        "warnings": list(warnings),
        "metrics": dict(metrics),
        **environment(),
        "items": [dict(item) for item in items],
    }


def write_result(path: Path, result: Result) -> None:
    """Write the JSON, one item a line: whole or not at all."""
    head = json.dumps({k: v for k, v in result.items() if k != "items"}, indent=2, ensure_ascii=False)
    lines = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in result["items"])
    body = f'{head[:-2]},\n  "items": [\n{lines}\n  ]\n}}\n'
    # A lone surrogate, which models do write, is no UTF-8: it is kept as the escape that JSON has for it.
    write_atomic(path, LONE_SURROGATE.sub(lambda c: f"\\u{ord(c[0]):04x}", body))


def read_result(path: Path) -> Result:
    """A result file. UserError where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a result: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not {"eval", "metrics", "items"} <= found.keys():
        raise UserError(f"{path}: expected a result of cyclealign eval (format {FORMAT})")
    return found


def item_key(item: CandidateSet) -> str:
    """Names a set by its content, so that results of different rankers on the same data pair up."""
    return sha256_hex([item.prompt.id, sorted(c.text for c in item.candidates)])[:16]


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written before anything is judged. UserError."""
    if path.suffix != ".json":
        raise UserError(f"--out {path}: expected a name that ends in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror}") from error
