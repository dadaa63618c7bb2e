"""Schema of ``cyclealign distill idcm``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cyclealign.config.schema import Loss
from cyclealign.config.section import Section
from cyclealign.distill.config import DistillConfig, EncoderShape, ScoresConfig, check_loss
from cyclealign.losses import NDCG2


class IDCMStudentConfig(EncoderShape):
    """The cascade's models and windows."""

    model: str = Field(min_length=1)
    """The cross-encoder that becomes the ETM: directory or hub id."""
    esm: Literal["ck", "cks"] = "ck"
    """The model that selects passages: CK, or the smaller CKS."""
    select: int = Field(default=4, ge=1)
    """Passages of a document that the ETM scores (k)."""
    top: int = Field(default=3, ge=1)
    """Of them, how many scores add up (l)."""
    window: int = Field(default=50, ge=4)
    """Tokens of a passage."""
    overlap: int = Field(default=7, ge=0)
    """Further tokens of a passage on either side."""
    max_query_tokens: int = Field(default=30, ge=4)
    """Longer queries are cut."""
    max_document_tokens: int = Field(default=2000, ge=8)
    """Longer documents are cut."""


class StageConfig(Section):
    """One stage of three."""

    data: ScoresConfig
    """The stage's lists."""
    steps: int | None = Field(default=None, ge=1)
    """In the place of the whole distillation's ``steps``."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Stands over the whole distillation's ``training``, key by key."""


class IDCMConfig(DistillConfig):
    """Three stages."""

    student: IDCMStudentConfig
    """The cascade's models and windows."""
    passages: StageConfig | None = None
    """The ETM on labelled passages; null, where ``student.model`` is a trained cross-encoder."""
    documents: StageConfig | None = None
    """The ETM and the weights of its best scores on labelled documents, all passages; null: not trained."""
    selection: StageConfig
    """The ESM on the ETM's scores of the passages of each document; no score or label is read."""
    loss: Loss = NDCG2()
    """The loss of the selection, by its ``name`` and its own keys."""
    latency: int = Field(default=50, ge=0)
    """Documents whose scoring is timed at the end."""

    @model_validator(mode="after")
    def _possible(self) -> IDCMConfig:
        check_loss(self.loss)
        if self.loss.needs == "levels":
            raise ValueError(f"loss.name: {self.loss.name} cannot select passages; use idcm")
        if self.student.top > self.student.select:
            raise ValueError(f"student.top: {self.student.top} scores of student.select={self.student.select} passages")
        return self

    def of_stage(self, stage: StageConfig) -> IDCMConfig:
        """The same run with a stage's own steps and training arguments."""
        training = {**self.training, **stage.training}
        return self.model_copy(update={"steps": stage.steps or self.steps, "training": training})
