"""Where a run stands and what came of it, as records of its small files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from cyclealign.types import Gives

Stage = Literal[
    "building",
    "read_lists",
    "warm_start",
    "canary",
    "generate_and_rank",
    "white_box",
    "agree",
    "train",
    "evaluate",
    "drift",
    "keep_best",
    "finished",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the run a stage works: the interaction (or evaluation), its batch and round, its active prompts."""

    interaction: int
    batch: int | None = None
    round: int | None = None
    prompts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """``state.json``. Its format is the run's: it goes up when a JSONL file of the run changes, too. ``judge``: the
    back end that is asked (``BlackBoxConfig.judge``). ``values``: the latest results that the main process shared, by
    turn, as JSON has them. ``done``, ``of`` and ``unit``: how far the stage is, where it tells, and what it counts.
    ``ended``, ``why``: type and text of an exception that ended the main process. ``stopped``: the drift limit that
    ended the run.
    """

    FORMAT: ClassVar[int] = 1

    stage: Stage
    launch: str
    pid: int
    at: float
    judge: str
    interaction: int | None = None
    batch: int | None = None
    round: int | None = None
    prompts: int | None = None
    done: int | None = None
    of: int | None = None
    unit: str | None = None
    values: Mapping[str, object]
    ended: str | None = None
    why: str | None = None
    stopped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A line of ``timings.jsonl``: seconds of a finished stage; ``interaction`` is an evaluation's number there."""

    stage: Stage
    interaction: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """``canary.json``: mean gap of the generator's log-probabilities to the trainer's, nats a token, and its limit."""

    FORMAT: ClassVar[int] = 1

    gap: float
    limit: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """``best/kept.json``: after how many interactions, ``of`` how many; ``stopped``: the limit that ended it."""

    FORMAT: ClassVar[int] = 1

    trained: int
    of: int
    why: str
    stopped: str | None
    start_model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListsTaken:
    """``lists.json`` of a run over lists that exist: how many it trains on and how many only measure; ``gives``: the
    least that one of them says of its candidates."""

    FORMAT: ClassVar[int] = 1

    source: str
    gives: Gives
    trained: int
    held_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticUsed:
    """The static demonstrations of a run: where they came from, the hash of their content, how many they are."""

    source: str
    version: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateUsed:
    """The ranking prompt of a run: where it came from, and the hash of its content."""

    source: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeUsed:
    """The user's own Python of a run: ``FILE.py:FUNCTION`` as the config has it, the sha256 of the file."""

    source: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """``prompts/versions.json``. ``demonstrations``, ``template``: None in a run over lists that exist, which asks
    nobody. ``ranker``, ``scorer``, ``loss``: where they are functions of the user's own."""

    FORMAT: ClassVar[int] = 1

    demonstrations: StaticUsed | None = None
    template: TemplateUsed | None = None
    ranker: CodeUsed | None = None
    scorer: CodeUsed | None = None
    loss: CodeUsed | None = None
