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
    """``train`` and ``test``: npz of images [N, H, W] or [N, H, W, C] and labels [N]. ``views``: of each training
    image, itself and copies moved by up to ``shift`` pixels; the teacher reads each view once."""

    train: Path
    test: Path | None = None
    views: int = Field(default=1, ge=1)
    shift: int = Field(default=2, ge=0)


class TeacherConfig(ClassifierConfig):
    """``model``: a classifier that this command wrote. Without one, the network of ``kind`` and ``width`` is first
    trained by cross-entropy for ``steps``."""

    width: int = Field(default=32, ge=1)
    model: Path | None = None
    steps: int = Field(default=1000, ge=1)


class PLDConfig(DistillConfig):
    """A classifier's logits into another one over the same classes."""

    data: ImagesConfig
    teacher: TeacherConfig = TeacherConfig()
    student: ClassifierConfig = ClassifierConfig()
    loss: Loss = PLD()

    @model_validator(mode="after")
    def _possible(self) -> PLDConfig:
        check_loss(self.loss)
        if self.loss.needs == "levels":
            raise ValueError(f"loss.name: {self.loss.name} does not compare logits; take pld, kl or listmle")
        return self


class PLDListConfig(ListDistillConfig):
    """A ranker's scores of whole lists into another one: the list distiller, by PLD. ``positive_first``: the first
    document of every list is known to be the best one, whatever the teacher says."""

    loss: Loss = PLD()
    positive_first: bool = False


def pld_schema(path_or_name: str) -> type[PLDConfig | PLDListConfig]:
    """Lists of scores where the config names ``data.scores``, else images.

    Raises:
        UserError: no such config, or one that is no YAML.
    """
    raw = read_yaml(read_text(find_config(path_or_name)), path_or_name)
    data = raw.get("data") if isinstance(raw, dict) else None
    named = isinstance(data, dict) and "scores" in data
    return PLDListConfig if named else PLDConfig
