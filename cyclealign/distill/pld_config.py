"""The schemas of ``cyclealign distill pld``: classifier to classifier, and ranker to ranker."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from cyclealign.config.loading import find_config
from cyclealign.config.schema import Loss
from cyclealign.config.section import Section
from cyclealign.distill.config import DistillConfig, ListDistillConfig, check_loss
from cyclealign.files.foreign import read_text
from cyclealign.files.strict_yaml import read_yaml
from cyclealign.losses import PLD
from cyclealign.models.classifier import ClassifierConfig


class ImagesConfig(Section):
    """Labelled images: npz of images [N, H, W] or [N, H, W, C] and labels [N]."""

    train: Path
    """The images to train on."""
    test: Path | None = None
    """The images to measure on; null: nothing is measured."""
    views: int = Field(default=1, ge=1)
    """Of each training image, itself and moved copies, so many in all; the teacher reads each once."""
    shift: int = Field(default=2, ge=0)
    """Pixels by which copies are moved, at most."""


class TeacherConfig(ClassifierConfig):
    """The big classifier."""

    width: int = Field(default=32, ge=1)
    """Channels of the first block, or units of a hidden layer."""
    model: Path | None = None
    """A classifier that this command wrote; null: ``kind`` and ``width`` say a network, which is trained by
    cross-entropy first."""
    steps: int = Field(default=1000, ge=1)
    """Optimiser steps of that training."""


class PLDConfig(DistillConfig):
    """A classifier's logits into another one over the same classes."""

    data: ImagesConfig
    """The images."""
    teacher: TeacherConfig = TeacherConfig()
    """The big classifier."""
    student: ClassifierConfig = ClassifierConfig()
    """The small classifier."""
    loss: Loss = PLD()
    """The loss, by its ``name`` and its own keys."""

    @model_validator(mode="after")
    def _possible(self) -> PLDConfig:
        check_loss(self.loss)
        if self.loss.needs == "levels":
            raise ValueError(f"loss.name: {self.loss.name} does not compare logits; take pld, kl or listmle")
        return self


class PLDListConfig(ListDistillConfig):
    """A ranker's scores of whole lists into another one: the list distiller, by PLD."""

    loss: Loss = PLD()
    """The loss, by its ``name`` and its own keys."""
    positive_first: bool = False
    """The first document of every list is known to be the best one, whatever the teacher says."""


def pld_schema(path_or_name: str) -> type[PLDConfig | PLDListConfig]:
    """Lists of scores where the config names ``data.scores``, else images.

    Raises:
        UserError: no such config, or one that is no YAML.
    """
    raw = read_yaml(read_text(find_config(path_or_name)), path_or_name)
    data = raw.get("data") if isinstance(raw, dict) else None
    named = isinstance(data, dict) and "scores" in data
    return PLDListConfig if named else PLDConfig
