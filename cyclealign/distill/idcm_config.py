"""Schema of ``cyclealign distill idcm``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cyclealign.config.schema import Loss
from cyclealign.config.section import Section
from cyclealign.distill.config import DistillConfig, EncoderShape, ScoresConfig, check_loss
from cyclealign.losses import NDCG2


class IDCMStudentConfig(EncoderShape):
    """``model``: the cross-encoder that becomes the ETM; ``esm``: CK, or the smaller CKS. ``select``: passages that
    the ETM scores (k); ``top``: of them, how many scores add up (l). Tokens: a window every ``window``, with
    ``overlap`` more on either side."""

    model: str = Field(min_length=1)
    esm: Literal["ck", "cks"] = "ck"
    select: int = Field(default=4, ge=1)
    top: int = Field(default=3, ge=1)
    window: int = Field(default=50, ge=4)
    overlap: int = Field(default=7, ge=0)
    max_query_tokens: int = Field(default=30, ge=4)
    max_document_tokens: int = Field(default=2000, ge=8)


class StageConfig(Section):
    """``steps`` and ``training`` stand over those of the whole distillation."""

    data: ScoresConfig
    steps: int | None = Field(default=None, ge=1)
    training: dict[str, Any] = Field(default_factory=dict)


class IDCMConfig(DistillConfig):
    """Three stages. passages: the ETM on labelled passages; None where ``student.model`` is a trained cross-encoder.
    documents: the ETM and the weights of its best scores on labelled documents, all passages; None: not trained.
    selection: the ESM on the ETM's scores of the passages of each document, by ``loss``; no score or label is read.
    ``latency``: documents whose scoring is timed at the end."""

    student: IDCMStudentConfig
    passages: StageConfig | None = None
    documents: StageConfig | None = None
    selection: StageConfig
    loss: Loss = NDCG2()
    latency: int = Field(default=50, ge=0)

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
