"""What the schemas of all distillers share, and that of lists of scored documents (any ranking loss)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cyclealign.config import Loss, Section
from cyclealign.losses import MarginMSE, feeds, losses_fed_by
from cyclealign.score_formats import READERS
from cyclealign.score_formats.sidecar import recorded_gives


class StudentConfig(Section):
    """``kind``: how a pair is scored. dot and cosine: one vector a text; colbert: MaxSim over token vectors;
    cross_encoder: the pair read as one. ``layers``: keep the first so many of the encoder. ``scale`` multiplies the
    student's score, ``learn_scale`` trains it."""

    model: str = Field(min_length=1)
    kind: Literal["dot", "cosine", "colbert", "cross_encoder"] = "dot"
    layers: int | None = Field(default=None, ge=1)
    max_query_tokens: int = Field(default=30, ge=4)
    max_document_tokens: int = Field(default=200, ge=8)
    scale: float = Field(default=1.0, gt=0)
    learn_scale: bool = False


class ScoresConfig(Section):
    """``scores``: a score file in a format of ``score_formats``; ``queries`` and ``documents``: texts of its ids."""

    scores: Path
    format: str = "auto"
    queries: Path | None = None
    documents: Path | None = None
    limit: int | None = Field(default=None, ge=1)


class RetrievalConfig(Section):
    """Retrieval before and after: (id, text) files, and qrels as TSV of query, document, relevance."""

    queries: Path
    documents: Path
    qrels: Path


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


class ListDistillConfig(DistillConfig):
    """A teacher's scores of whole lists into a student."""

    student: StudentConfig
    data: ScoresConfig
    evaluate: RetrievalConfig | None = None
    loss: Loss = MarginMSE()

    @model_validator(mode="after")
    def _possible(self) -> ListDistillConfig:
        if self.data.format not in ("auto", *READERS):
            raise ValueError(f"data.format: expected auto, {', '.join(READERS)}, got {self.data.format!r}")
        if self.loss.student_score == "log_ratio" or self.loss.sft > 0:
            raise ValueError(
                f"loss.name: {self.loss.name} (with its SFT term) is for policies; set loss.sft_weight=0, or"
                " take another loss"
            )
        gives = recorded_gives(self.data.scores) or ("order" if self.data.format == "rankllm" else "magnitude")
        if not feeds(gives, self.loss.needs):
            raise ValueError(
                f"loss.name: {self.loss.name} needs magnitudes, but {self.data.scores} gives an order alone;"
                f" use {', '.join(losses_fed_by(gives))}"
            )
        if self.evaluate is not None and self.student.kind == "cross_encoder":
            raise ValueError("evaluate: retrieval needs vectors, a cross_encoder has none")
        return self
