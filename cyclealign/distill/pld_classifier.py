"""``cyclealign distill pld``: a classifier's logits into a smaller classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cyclealign.distill.pld_config import PLDConfig
from cyclealign.distill.run import once, train_or_resume, training_arguments
from cyclealign.distill.summaries import ClassifierSummary
from cyclealign.losses import RankedScores, RankingLoss
from cyclealign.models.classifier import Classifier, LabelledImages, logits_of, read_images, shifted_views
from cyclealign.types import UserError

BATCH = 128
# Student's and teacher's logits [B, classes] and labels [B] to the loss.
Objective = Callable[[Float[Tensor, "B K"], Float[Tensor, "B K"], Int[Tensor, " B"]], Tensor]


@dataclass(frozen=True)
class Material:
    """What teacher and student read; ``shape`` is C, H, W."""

    train: LabelledImages
    test: LabelledImages | None
    shape: tuple[int, int, int]
    classes: int


def distill_classifier(config: PLDConfig, objective: Objective | None = None) -> ClassifierSummary:
    """Train, or go on from the last checkpoint; returns the summary that is written to ``summary.json``.

    Args:
        objective: in the place of ``config.loss``.

    Raises:
        UserError: images or a teacher that cannot be used, another config in the run's directory.
    """
    train = partial(_trained, config, _material(config), objective or ranking_objective(config.loss))
    return once(ClassifierSummary, config, train, sentence_transformers=False)


def _trained(config: PLDConfig, material: Material, objective: Objective) -> ClassifierSummary:
    _check_batches(config, len(material.train.labels))
    teacher = _teacher(config, material)
    logits = logits_of(teacher, material.train.pixels)
    torch.manual_seed(config.seed)
    student = Classifier(config.student, material.shape, material.classes)
    losses = train_classifier(config, student, material.train, logits, objective)
    student.save(config.run_dir / "model")
    return ClassifierSummary(
        images=len(logits),
        first_loss=losses[0],
        last_loss=losses[1],
        teacher_parameters=sum(p.numel() for p in teacher.parameters()),
        teacher_accuracy=_share_correct(teacher, material.test),
        student_parameters=sum(p.numel() for p in student.parameters()),
        student_accuracy=_share_correct(student, material.test),
    )


def ranking_objective(loss: RankingLoss) -> Objective:
    """Classes as the candidates of one list an image, the label as the known positive."""

    def objective(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        valid = torch.ones_like(student, dtype=torch.bool)
        return loss(RankedScores(student=student, teacher=teacher, valid=valid, positive=labels)).loss

    return objective


def cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The objective that reads no teacher."""
    del teacher
    return nn.functional.cross_entropy(student.float(), labels)


def correct(model: nn.Module, images: LabelledImages) -> torch.Tensor:
    """Whether the top class is the label, bool [N]."""
    return logits_of(model, images.pixels).argmax(dim=1) == images.labels


def _share_correct(model: nn.Module, images: LabelledImages | None) -> float | None:
    return None if images is None else float(correct(model, images).float().mean())


def train_classifier(
    config: PLDConfig,
    model: Classifier,
    images: LabelledImages,
    teacher: Float[Tensor, "N K"],
    objective: Objective,
    *,
    stage: str = "checkpoints",
    **arguments: Any,
) -> tuple[float | None, float | None]:
    """Train with transformers' Trainer, or go on from its last checkpoint; first and last logged loss."""
    from torch.utils.data import TensorDataset
    from transformers import Trainer, TrainingArguments

    class ClassifierTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            return objective(model(inputs["pixels"]).float(), inputs["teacher"], inputs["labels"])

    def collate(rows: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
        columns = (torch.stack(column) for column in zip(*rows, strict=True))
        return dict(zip(("pixels", "teacher", "labels"), columns, strict=True))

    defaults = {"learning_rate": 1e-3, "per_device_train_batch_size": BATCH, "lr_scheduler_type": "cosine"}
    options = {**training_arguments(config, stage, **defaults), "remove_unused_columns": False, **arguments}
    told = TrainingArguments(**options)
    data = TensorDataset(images.pixels, teacher, images.labels)
    # Batch norm over one image has no variance; with another order, each epoch leaves out another image.
    told.dataloader_drop_last = model.network.kind == "mlp" and len(data) % told.train_batch_size == 1
    return train_or_resume(ClassifierTrainer(model=model, args=told, train_dataset=data, data_collator=collate))


def _material(config: PLDConfig) -> Material:
    train = read_images(config.data.train)
    test = None if config.data.test is None else read_images(config.data.test)
    channels, height, width = train.pixels.shape[1:]
    classes = int(train.labels.max()) + 1
    if test is not None and (test.pixels.shape[1:] != train.pixels.shape[1:] or int(test.labels.max()) >= classes):
        raise UserError(f"{config.data.test}: expected images of the size and the classes of {config.data.train}")
    if "cnn" in (config.student.kind, config.teacher.kind) and min(height, width) < 8:
        raise UserError(f"{config.data.train}: expected images of at least 8x8 for a cnn, got {height}x{width}")
    views = shifted_views(train, config.data.views, config.data.shift, seed=config.seed)
    return Material(views, test, (channels, height, width), classes)


def _check_batches(config: PLDConfig, images: int) -> None:
    """UserError where an mlp's batch norm would see one image at a time."""
    batch = min(images, config.training.get("per_device_train_batch_size", BATCH))
    trained = (config.student.kind, None if config.teacher.model else config.teacher.kind)
    if "mlp" in trained and batch < 2:
        raise UserError(f"training.per_device_train_batch_size: an mlp needs two images a batch, got {batch}")


def _teacher(config: PLDConfig, material: Material) -> Classifier:
    """The one of the config, or the one that this run trains."""
    told = config.teacher.model
    folder = told or config.run_dir / "teacher"
    if told is None and not (folder / "classifier.json").exists():
        torch.manual_seed(config.seed)
        made = Classifier(config.teacher, material.shape, material.classes)
        unread = torch.zeros(len(material.train.labels), 1)
        train_classifier(
            config, made, material.train, unread, cross_entropy, stage="teacher", max_steps=config.teacher.steps
        )
        made.save(folder)
    teacher = Classifier.load(folder)
    if (teacher.shape, teacher.classes) != (material.shape, material.classes):
        raise UserError(
            f"{folder}: expected a teacher of {material.classes} classes and images {material.shape},"
            f" got {teacher.classes} and {teacher.shape}"
        )
    return teacher
