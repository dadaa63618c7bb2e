"""Whoever can score candidates, by the name that the command line gives: encoders, language and reward models, rankers.

A teacher knows what it gives: magnitudes, levels, or an order alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclealign.config.extras import require_extra
from cyclealign.config.loading import parsed_section
from cyclealign.config.schema import BlackBoxConfig
from cyclealign.losses import losses_fed_by
from cyclealign.rankers.encoders import (
    CausalScorer,
    CoherenceScorer,
    CrossEncoderScorer,
    Pair,
    PairScorer,
    VectorScorer,
    made_of_modules,
)
from cyclealign.scores.sidecar import Gives
from cyclealign.types import Ranker, UserError

ENCODERS = ("cross_encoder", "coherence", "bi_encoder", "multi_vector")
POINTWISE = (*ENCODERS, "causal_lm", "reward_model", "local")
LISTWISE = ("openai", "replay")
KINDS = (
    "cross_encoder:PATH, coherence:PATH, bi_encoder:PATH, multi_vector:PATH, causal_lm:PATH, reward_model:PATH,"
    " local, openai:MODEL, replay:PATH, file"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """``--teacher KIND:MODEL``, checked but not loaded. ``box``: settings of a ranker."""

    kind: str
    model: str
    gives: Gives
    box: BlackBoxConfig | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.model}" if self.model else self.kind


def parse_teacher(spec: str, options: Sequence[str], *, file_gives: Gives) -> TeacherSpec:
    """What a name on the command line asks for.

    Args:
        options: ``key=value`` of the black_box section, for rankers.
        file_gives: what the scores in the file are, for the teacher ``file``.

    Raises:
        UserError: no such kind, settings that do not fit, or a package that is not installed.
    """
    kind, _, model = spec.partition(":")
    if kind not in (*POINTWISE, *LISTWISE, "file"):
        raise UserError(f"--teacher: expected one of {KINDS}; got {spec!r}")
    if bool(model) == (kind in ("local", "file")):
        raise UserError(
            f"--teacher {kind}: expected {kind if model else kind + (':MODEL' if kind == 'openai' else ':PATH')}"
        )
    if kind == "file":
        return TeacherSpec(kind=kind, model="", gives=file_gives)
    if kind in POINTWISE:
        # A reward model made of modules is loaded as the cross-encoder that it is.
        if kind in ENCODERS or (kind == "reward_model" and made_of_modules(model)):
            require_extra("sentence_transformers", "retrieval", f"--teacher {kind}")
        return TeacherSpec(kind=kind, model=model, gives="magnitude")
    place = {"model": model} if kind == "openai" else {"path": model}
    box = parsed_section(BlackBoxConfig, "black_box", {"backend": kind, **place}, options)
    return TeacherSpec(kind=kind, model=model, gives=_ranker_gives(box), box=box)


def _ranker_gives(box: BlackBoxConfig) -> Literal["order", "magnitude"]:
    if box.backend == "replay":
        from cyclealign.rankers.replay import ReplayRanker

        assert box.path is not None
        if not box.path.exists():
            raise UserError(f"--teacher replay: no file {box.path}")
        return ReplayRanker(box.path).gives
    return "magnitude" if box.passes >= 2 else "order"


def check_feeds(specs: Sequence[TeacherSpec], loss: str) -> None:
    """UserError where a teacher cannot feed a loss, naming those that it can."""
    known = losses_fed_by("magnitude")
    if loss not in known:
        raise UserError(f"--for: expected one of {', '.join(known)}; got {loss!r}")
    for spec in specs:
        fed = losses_fed_by(spec.gives)
        if loss not in fed:
            raise UserError(
                f"--for {loss}: needs magnitudes, but {spec.name} gives {described(spec.gives)};"
                f" it can feed {', '.join(fed)}"
            )


def described(gives: Gives) -> str:
    return {"order": "an order alone", "magnitude": "magnitudes", "levels": "levels"}[gives]


def load_scorer(spec: TeacherSpec, sample: Sequence[Pair]) -> PairScorer:
    """A pointwise teacher, loaded; ``sample``: some of what it will score."""
    if spec.kind == "cross_encoder":
        return CrossEncoderScorer(spec.model)
    if spec.kind == "coherence":
        return CoherenceScorer(spec.model)
    if spec.kind in ("bi_encoder", "multi_vector"):
        return VectorScorer(spec.model, several=spec.kind == "multi_vector")
    if spec.kind == "causal_lm":
        return CausalScorer(spec.model, sample)
    if spec.kind == "local":
        from cyclealign.rankers.local import LocalRanker

        return LocalRanker()
    from cyclealign.rankers.reward_model import RewardModelRanker

    return RewardModelRanker(spec.model, key="--teacher reward_model")


def load_ranker(spec: TeacherSpec, ledger: Path, stack: ExitStack) -> Ranker:
    """A listwise teacher; paid calls go to the ledger."""
    assert spec.box is not None
    if spec.kind == "replay":
        from cyclealign.rankers.replay import ReplayRanker

        return ReplayRanker(Path(spec.model))
    from cyclealign.judge.ledger import Ledger
    from cyclealign.judge.template import load_template
    from cyclealign.rankers.black_box import BlackBoxRanker

    return BlackBoxRanker(spec.box, load_template(spec.box.template), stack.enter_context(Ledger(ledger)))


def provenance(spec: TeacherSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a teacher the same one again."""
    found: dict[str, Any] = {"kind": spec.kind, "model": spec.model, **settings}
    if spec.box is not None:
        kept = {"base_url", "template", "passes", "request"}
        found |= {k: v for k, v in spec.box.model_dump(mode="json").items() if k in kept}
    if spec.model and Path(spec.model).exists():
        found["sha256"] = fingerprint(Path(spec.model))
    return found


def fingerprint(path: Path) -> str:
    """sha256 over a file, or over the names and contents of a directory's files."""
    total = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        total.update(f"{name}\0{digest}\0".encode())
    return total.hexdigest()
