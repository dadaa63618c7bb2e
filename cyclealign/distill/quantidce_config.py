"""Schema of ``cyclealign distill quantidce``: the model and its two stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from cyclealign.config.section import Section
from cyclealign.distill.config import DistillConfig, EncoderShape
from cyclealign.losses import MultiLevelRanking, QuantiDCEKD


class EncoderConfig(EncoderShape):
    """The encoder of the metric."""

    model: str = Field(min_length=1)
    """A transformers encoder: directory or hub id."""
    max_tokens: int = Field(default=128, ge=8)
    """Of context and response together; longer ones are cut."""


class StageConfig(Section):
    """What both stages have."""

    data: Path
    """Rows to train on."""
    validation: Path | None = None
    """Rows like ``data``; the checkpoint with the lowest loss on them is kept; null: the last one."""
    steps: int | None = Field(default=None, ge=1)
    """In the place of the whole distillation's ``steps``."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Stands over the whole distillation's ``training``, key by key."""


class PretrainingConfig(StageConfig):
    """Levels of responses, as ``dialogues.read_levels`` reads them."""

    loss: MultiLevelRanking = MultiLevelRanking(squash="sigmoid")
    """Multi-level ranking, by its own keys."""

    @model_validator(mode="after")
    def _of_a_metric(self) -> PretrainingConfig:
        # The second stage and all that read the metric take the sigmoid of its logit.
        if self.loss.squash != "sigmoid":
            raise ValueError(f"pretraining.loss.squash: a metric is in (0, 1); set sigmoid, not {self.loss.squash}")
        if self.loss.sft > 0:
            raise ValueError("pretraining.loss.sft_weight: the SFT term is for policies; remove it")
        return self


class FinetuningConfig(StageConfig):
    """Human ratings from 1 to 5, as ``dialogues.read_ratings`` reads them."""

    loss: QuantiDCEKD = QuantiDCEKD()
    """Ratings beside the frozen model, by its own keys."""


class QuantiDCEConfig(DistillConfig):
    """Both stages; without ratings the first alone makes the model."""

    student: EncoderConfig
    """The encoder of the metric."""
    pretraining: PretrainingConfig
    """The first stage: levels of responses."""
    finetuning: FinetuningConfig | None = None
    """The second stage: human ratings; null: the first alone makes the model."""

    def of_stage(self, stage: StageConfig) -> QuantiDCEConfig:
        """The same run with a stage's own steps and training arguments."""
        training = {**self.training, **stage.training}
        return self.model_copy(update={"steps": stage.steps or self.steps, "training": training})
