"""Schema of ``cyclealign distill leaf``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cyclealign.config.section import Section
from cyclealign.distill.config import DistillConfig, EncoderShape
from cyclealign.losses import EmbeddingMatch


class EncoderTeacherConfig(Section):
    """``model``: any sentence-transformers encoder. ``max_tokens``: where it cuts texts, its own limit by default.
    ``vectors``: file of its cached vectors, which runs may share; in the run's directory by default."""

    model: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=4)
    vectors: Path | None = None


class LeafStudentConfig(EncoderShape):
    """``model``: the encoder to start from, the teacher's own by default."""

    model: str | None = None
    max_tokens: int = Field(default=256, ge=4)


class TextsConfig(Section):
    """Files of (id, text): texts to match the teacher on. ``limit``: of each file, the first so many."""

    queries: Path | None = None
    documents: Path | None = None
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _some(self) -> TextsConfig:
        if self.queries is None and self.documents is None:
            raise ValueError("expected texts: give data.queries, data.documents, or (better) both")
        return self


class RetentionConfig(Section):
    """How much of the teacher's retrieval is left: (id, text) files, and qrels as TREC's or TSV of query, document,
    relevance. ``widths``: prefixes of the vectors to retrieve with beside the whole ones, at most the teacher's width;
    measured too at int8 and binary precision. ``undistilled``: and of the student before its training."""

    queries: Path
    documents: Path
    qrels: Path
    widths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    undistilled: bool = True


class LeafConfig(DistillConfig):
    """An encoder into a smaller one, in the same space. The learning rate falls linearly from
    ``training.learning_rate`` to ``cycle_end`` times it, ``cycles`` times over the run."""

    teacher: EncoderTeacherConfig
    student: LeafStudentConfig = LeafStudentConfig()
    data: TextsConfig
    match: EmbeddingMatch = EmbeddingMatch()
    cycles: int = Field(default=3, ge=1)
    cycle_end: float = Field(default=0.1, ge=0, le=1)
    evaluate: RetentionConfig | None = None

    @model_validator(mode="after")
    def _own_schedule(self) -> LeafConfig:
        if "lr_scheduler_type" in self.training:
            raise ValueError("training.lr_scheduler_type: leaf has a schedule of its own; set cycles and cycle_end")
        return self
