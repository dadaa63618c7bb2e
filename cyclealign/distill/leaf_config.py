"""Schema of ``cyclealign distill leaf``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cyclealign.config.section import Section
from cyclealign.distill.config import DistillConfig, EncoderShape
from cyclealign.losses import EmbeddingMatch


class EncoderTeacherConfig(Section):
    """The big encoder."""

    model: str = Field(min_length=1)
    """Any sentence-transformers encoder: directory or hub id."""
    max_tokens: int | None = Field(default=None, ge=4)
    """Where it cuts texts; null: its own limit."""
    vectors: Path | None = None
    """File of its cached vectors, which runs may share; null: in the run's directory."""


class LeafStudentConfig(EncoderShape):
    """The small encoder."""

    model: str | None = None
    """The encoder to start from; null: the teacher's own."""
    max_tokens: int = Field(default=256, ge=4)
    """Where it cuts texts."""


class TextsConfig(Section):
    """Texts to match the teacher on."""

    queries: Path | None = None
    """File of (id, text)."""
    documents: Path | None = None
    """File of (id, text)."""
    limit: int | None = Field(default=None, ge=1)
    """Of each file, the first so many; null: all."""

    @model_validator(mode="after")
    def _some(self) -> TextsConfig:
        if self.queries is None and self.documents is None:
            raise ValueError("expected texts: give data.queries, data.documents, or (better) both")
        return self


class RetentionConfig(Section):
    """How much of the teacher's retrieval is left."""

    queries: Path
    """File of (id, text)."""
    documents: Path
    """File of (id, text)."""
    qrels: Path
    """Relevance judgements: TREC's, or tab-separated query, document, relevance."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Prefixes of the vectors to retrieve with beside the whole ones, at most the teacher's width; measured too at int8
    and binary precision."""
    undistilled: bool = True
    """Measure the student before its training too."""


class LeafConfig(DistillConfig):
    """An encoder into a smaller one, in the same space. The learning rate falls linearly from
    ``training.learning_rate``, several times over the run."""

    teacher: EncoderTeacherConfig
    """The big encoder."""
    student: LeafStudentConfig = LeafStudentConfig()
    """The small encoder."""
    data: TextsConfig
    """Texts to match the teacher on."""
    match: EmbeddingMatch = EmbeddingMatch()
    """How vectors are compared."""
    cycles: int = Field(default=3, ge=1)
    """How often the learning rate falls."""
    cycle_end: float = Field(default=0.1, ge=0, le=1)
    """Where it ends each time, as a share of ``training.learning_rate``."""
    evaluate: RetentionConfig | None = None
    """How much of the teacher's retrieval is left; null: not measured."""

    @model_validator(mode="after")
    def _own_schedule(self) -> LeafConfig:
        if "lr_scheduler_type" in self.training:
            raise ValueError("training.lr_scheduler_type: leaf has a schedule of its own; set cycles and cycle_end")
        return self
