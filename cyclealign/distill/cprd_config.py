"""Schema of ``cyclealign distill cprd``."""

from __future__ import annotations

from pydantic import Field, model_validator

from cyclealign.config.schema import Loss
from cyclealign.config.section import Section
from cyclealign.distill.config import ListDistillConfig, ScoresConfig
from cyclealign.losses import CPRD


class ImageEncoderConfig(Section):
    """Queries are image files."""

    size: int = Field(default=32, ge=8)
    """Images are scaled to this many pixels on each side."""
    width: int = Field(default=32, ge=1)
    """Channels of the encoder's first block."""


class CPRDConfig(ListDistillConfig):
    """A cross-encoder's order of a query's positive and its mined negatives, in a format that tells them apart, into a
    dual encoder."""

    images: ImageEncoderConfig | None = None
    """An image encoder for the queries; null: they are texts."""
    loss: Loss = CPRD(threshold="mean")
    """The ranking loss beside InfoNCE, by its ``name`` and its own keys."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the ranking loss beside InfoNCE."""
    reverse: ScoresConfig | None = None
    """Lists the other way round, trained on in turns with those of ``data``: a document in the place of the query, and
    in that of the documents its own query first, then mined ones; null: none."""

    @model_validator(mode="after")
    def _dual(self) -> CPRDConfig:
        if self.student.kind not in ("dot", "cosine"):
            raise ValueError(f"student.kind: expected dot or cosine for a dual encoder, got {self.student.kind}")
        if self.leaf is not None:
            raise ValueError("leaf: stands beside the losses of distill margin_mse, not beside InfoNCE; remove it")
        if self.loss.needs == "levels":
            raise ValueError(f"loss.name: {self.loss.name} takes levels, not scores; take cprd, listmle or kl")
        return self
