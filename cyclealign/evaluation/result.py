"""Result files: one JSON object a measurement, with figures, hardware, commit, seed and a record for each item.

One format, for ``eval``, ``demos eval | search`` and ``prompts eval`` alike; read and written here alone.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cyclealign.evaluation.statistics import Estimate, Figure, Figures
from cyclealign.files.atomic import write_atomic
from cyclealign.files.environment import Hardware, environment
from cyclealign.files.records import decode, encode
from cyclealign.types import CandidateSet, UserError, sha256_hex

FORMAT = 1
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
ESTIMATE = frozenset(("value", "low", "high", "n"))
Tiers = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """What came of one item. ``key`` and ``value`` (of the primary figure) are what ``compare`` pairs results by.

    ``values``: its other figures, by name; where a result has arms, its value in each. ``grades``, ``scores`` and
    ``responses`` are by the response's id, ``passes`` and ``shown`` the judge's answers and what it saw, one a pass;
    ``reasons``: what it wrote before them, each with the ids in the order in which it saw them.
    ``unranked``: why there is no verdict, with ``detail``.
    """

    key: str
    value: float | None = None
    id: str | None = None
    subset: str | None = None
    prompt: str = ""
    responses: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[str, float] = field(default_factory=dict)
    unranked: str | None = None
    detail: str | None = None
    tiers: Tiers = ()
    scores: Mapping[str, float] | None = None
    passes: Sequence[Sequence[str | Sequence[str]]] = ()
    shown: Tiers = ()
    reasons: Sequence[tuple[Sequence[str], str]] = ()
    values: Mapping[str, float | None] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As it stands in the file: without what it does not have."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in own.items() if k in ("key", "value") or (v is not None and v not in ("", (), [], {}))}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference and, where it was tested, its p-value and that adjusted for all that were (Holm)."""

    difference: Estimate | None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result file.

    ``about``: what was measured, as the command line said it. ``primary``: the figure whose value by item is in
    ``items``. ``subsets``: figures of each subset, arm or compared result. ``arms``: those subsets that have a value of
    their own for every item (``Item.values``), each of which ``compare`` takes as a column.
    """

    eval: str
    about: Figures
    seed: int
    created: str
    primary: str
    warnings: tuple[str, ...]
    metrics: Figures
    subsets: Mapping[str, Figures]
    differences: Mapping[str, Difference]
    arms: tuple[str, ...]
    versions: Mapping[str, str | None]
    python: str
    hardware: Hardware
    commit: str | None
    items: tuple[Item, ...]


def make_result(
    name: str,
    *,
    about: Figures,
    seed: int,
    metrics: Figures,
    items: Iterable[Item],
    primary: str,
    subsets: Mapping[str, Figures] | None = None,
    differences: Mapping[str, Difference] | None = None,
    arms: Iterable[str] = (),
    warnings: Iterable[str] = (),
) -> Result:
    """A result with what it ran on."""
    ran_on = environment()
    return Result(
        eval=name,
        about=dict(about),
        seed=seed,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        primary=primary,
        warnings=tuple(warnings),
        metrics=dict(metrics),
        subsets=dict(subsets or {}),
        differences=dict(differences or {}),
        arms=tuple(arms),
        items=tuple(items),
        versions=ran_on.versions,
        python=ran_on.python,
        hardware=ran_on.hardware,
        commit=ran_on.commit,
    )


def write_result(path: Path, result: Result) -> None:
    """Write the JSON, one item a line: whole or not at all."""
    own = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "items"}
    own["hardware"] = encode(result.hardware)
    own["differences"] = {k: {f.name: getattr(d, f.name) for f in fields(d)} for k, d in result.differences.items()}
    head = json.dumps({"format": FORMAT} | _plain(own), indent=2, ensure_ascii=False)
    lines = ",\n".join(f"    {json.dumps(item.record(), ensure_ascii=False)}" for item in result.items)
    body = f'{head[:-2]},\n  "items": [\n{lines}\n  ]\n}}\n'
    # A lone surrogate, which models do write, is no UTF-8: it is kept as the escape that JSON has for it.
    write_atomic(path, LONE_SURROGATE.sub(lambda c: f"\\u{ord(c[0]):04x}", body))


def read_result(path: Path) -> Result:
    """A result file. UserError where it is none, or one of a newer format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a result: {error}") from error
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise UserError(f"{path}: format {number} is newer than this version of cyclealign, which reads {FORMAT}")
    if number != FORMAT:
        raise UserError(f"{path}: expected a result of cyclealign eval, demos eval or prompts eval (format {FORMAT})")
    try:
        return _result({k: v for k, v in found.items() if k != "format"})
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a result of format {FORMAT}: {error}") from error


def _result(found: dict[str, Any]) -> Result:
    made = {
        "metrics": _figures(found["metrics"]),
        "subsets": {k: _figures(v) for k, v in found["subsets"].items()},
        "differences": {k: Difference(**_figures(v)) for k, v in found["differences"].items()},
        "hardware": decode(Hardware, found["hardware"]),
        "items": tuple(map(_item, found["items"])),
        "warnings": tuple(found["warnings"]),
        "arms": tuple(found["arms"]),
    }
    return Result(**(found | made))


def _item(found: Mapping[str, Any]) -> Item:
    made = Item(**found)
    for value in (made.value, *made.values.values()):
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"item {made.key}: expected finite numbers")
    return made


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _figure(v) for k, v in found.items()}


def _figure(found: Any) -> Any:
    if isinstance(found, dict):
        return Estimate(**found) if found.keys() == ESTIMATE else _figures(found)
    return [_figure(v) for v in found] if isinstance(found, list) else found


def _plain(value: Figure) -> Any:
    """As JSON has it."""
    if isinstance(value, Estimate):
        return value.record()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value


def item_key(item: CandidateSet) -> str:
    """Names a set by its content, so that results of different rankers on the same data pair up."""
    return sha256_hex([item.prompt.id, sorted(c.text for c in item.candidates)])[:16]


def _is_result(path: Path) -> bool:
    """By its beginning: results are large."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return re.match(r'\{\s*"format": \d+,\s*"eval": ', file.read(100)) is not None


def check_output(path: Path, option: str = "--out") -> None:
    """Refuse an output that cannot be written, or is somebody else's, before anything is judged. UserError."""
    if path.suffix != ".json":
        raise UserError(f"{option} {path}: expected a name that ends in .json")
    if path.is_file() and path.stat().st_size and not _is_result(path):
        raise UserError(f"{option} {path}: is there and no result of cyclealign; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written: {error.strerror}") from error
