"""What the schemas of all distillers share, and that of lists of scored documents (any ranking loss)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cyclealign.config.schema import LeafAuxiliary, Loss
from cyclealign.config.section import Section
from cyclealign.losses import MarginMSE, RankingLoss
from cyclealign.scores.formats import READERS, detect, read_as
from cyclealign.scores.sidecar import Gives, recorded_gives


class EncoderShape(Section):
    """``layers``: keep the first so many of the encoder. ``dropout``: every rate of it, None: as its config has it."""

    layers: int | None = Field(default=None, ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)


class StudentConfig(EncoderShape):
    """``kind``: how a pair is scored. dot and cosine: one vector a text; colbert: MaxSim over token vectors;
    cross_encoder: the pair read as one; prettr: read apart up to layer ``split`` (None: half of them), as one behind
    it; tk: kernels over the cosines of term vectors. ``scale`` multiplies the student's score, ``learn_scale`` trains
    it."""

    model: str = Field(min_length=1)
    kind: Literal["dot", "cosine", "colbert", "cross_encoder", "prettr", "tk"] = "dot"
    split: int | None = Field(default=None, ge=1)
    max_query_tokens: int = Field(default=30, ge=4)
    max_document_tokens: int = Field(default=200, ge=8)
    scale: float = Field(default=1.0, gt=0)
    learn_scale: bool = False

    @property
    def has_vectors(self) -> bool:
        """Whether texts have vectors of their own, so that all documents can be searched."""
        return self.kind in ("dot", "cosine", "colbert")


class ScoresConfig(Section):
    """``scores``: a score file in a format of ``score_formats``; ``queries`` and ``documents``: texts of its ids.

    ``teacher``: the scores of the file, or labels alone: what ``qrels`` judges relevant (TREC qrels, or TSV of query,
    document, relevance), without it the file's known positives (a triple's second column)."""

    scores: Path
    teacher: Literal["scores", "labels"] = "scores"
    qrels: Path | None = None
    format: str = "auto"
    queries: Path | None = None
    documents: Path | None = None
    limit: int | None = Field(default=None, ge=1)

    @field_validator("format")
    @classmethod
    def _known(cls, format: str) -> str:
        if format not in ("auto", *READERS):
            raise ValueError(f"expected auto, {', '.join(READERS)}, got {format!r}")
        return format

    @model_validator(mode="after")
    def _labels(self) -> ScoresConfig:
        if self.qrels is not None and self.teacher == "scores":
            raise ValueError("qrels: labels are read only with data.teacher=labels")
        return self

    def file_format(self) -> str:
        """The format that is named, or the one that the file is seen to have.

        Raises:
            UserError: no such file, or one of no known kind.
        """
        if self.format != "auto":
            return self.format
        return detect(self.scores, ids=self.queries is not None or self.documents is not None)

    def gives(self) -> Gives:
        """What a loss can take from the lists: labels are an order; else what lies beside the file, or ``read_as``.

        Raises:
            UserError: as ``file_format``.
        """
        if self.teacher == "labels":
            return "order"
        return recorded_gives(self.scores) or read_as(self.scores, self.file_format())


class RetrievalConfig(Section):
    """Retrieval before and after: (id, text) files, and qrels as TREC's or TSV of query, document, relevance."""

    queries: Path
    documents: Path
    qrels: Path


class EffectivenessConfig(RetrievalConfig):
    """Retrieval, where documents have vectors; ``candidates``: a TREC run whose documents are re-ranked besides."""

    candidates: Path | None = None


class DistillConfig(Section):
    """What every distillation has. ``steps``: optimiser steps instead of epochs; ``save_every``: steps between
    checkpoints; ``training``: transformers.TrainingArguments by their own names."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=42, ge=0, lt=2**32)
    output_dir: Path = Path("runs")
    steps: int | None = Field(default=None, ge=1)
    save_every: int = Field(default=500, ge=1)
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name


def check_loss(loss: RankingLoss) -> None:
    """ValueError for a loss that is of a policy's likelihoods: against a reference, or with an SFT term."""
    if loss.student_score == "log_ratio":
        raise ValueError(
            f"loss.student_score: log_ratio compares a policy with its reference, and a distilled student has none;"
            f" set loss.student_score=mean, or take another loss than {loss.name}"
        )
    if loss.sft > 0:
        raise ValueError(
            f"loss.name: {loss.name} (with its SFT term) is for policies; set loss.sft_weight=0, or take another loss"
        )


class ListDistillConfig(DistillConfig):
    """A teacher's scores of whole lists into a student."""

    student: StudentConfig
    data: ScoresConfig
    evaluate: EffectivenessConfig | None = None
    loss: Loss = MarginMSE()
    leaf: LeafAuxiliary | None = None

    @model_validator(mode="after")
    def _possible(self) -> ListDistillConfig:
        check_loss(self.loss)
        if self.leaf is not None and self.student.kind not in ("dot", "cosine"):
            raise ValueError(f"leaf: a {self.student.kind} has no vector of a text to match; use dot or cosine")
        if self.student.split is not None and self.student.kind != "prettr":
            raise ValueError(f"student.split: only prettr splits, not {self.student.kind}")
        if self.evaluate is not None and self.evaluate.candidates is None and not self.student.has_vectors:
            raise ValueError(f"evaluate: a {self.student.kind} has no vectors to search; give evaluate.candidates")
        return self
