"""Schema of ``cyclealign distill cprd``."""

from __future__ import annotations

from pydantic import Field, model_validator

from cyclealign.config.schema import Loss
from cyclealign.config.section import Section
from cyclealign.distill.config import ListDistillConfig
from cyclealign.losses import CPRD


class ImageEncoderConfig(Section):
    """Queries are image files. ``size``: what they are scaled to; ``width``: channels of the encoder's first block."""

    size: int = Field(default=32, ge=8)
    width: int = Field(default=32, ge=1)


class CPRDConfig(ListDistillConfig):
    """``data``: scored lists of a query's positive and its mined negatives, in a format that tells them apart.
    ``weight``: of the ranking loss beside InfoNCE. ``images``: an image encoder for the queries."""

    images: ImageEncoderConfig | None = None
    loss: Loss = CPRD(threshold="mean")
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _dual(self) -> CPRDConfig:
        if self.student.kind not in ("dot", "cosine"):
            raise ValueError(f"student.kind: expected dot or cosine for a dual encoder, got {self.student.kind}")
        if self.leaf is not None:
            raise ValueError("leaf: stands beside the losses of distill margin_mse, not beside InfoNCE; remove it")
        if self.loss.needs == "levels":
            raise ValueError(f"loss.name: {self.loss.name} takes levels, not scores; take cprd, listmle or kl")
        return self
