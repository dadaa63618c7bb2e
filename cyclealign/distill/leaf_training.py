"""Training a student on a teacher's vectors: targets in batches, and the cyclic learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray

from cyclealign.distill.adapters import EmbeddingObjective
from cyclealign.distill.leaf_config import LeafConfig
from cyclealign.distill.ragged import LABEL_COLUMNS, ListRow
from cyclealign.distill.run import training_arguments
from cyclealign.models.features import Features

# The published ones, but for the epochs: 30 there, over millions of texts.
PUBLISHED: dict[str, Any] = {"learning_rate": 1e-4, "per_device_train_batch_size": 32, "num_train_epochs": 30}


def leaf_trainer(config: LeafConfig, student: Any, texts: Sequence[str], targets: Float[ndarray, "N D"]) -> Any:
    """A trainer that matches the student's vectors of ``texts`` to the rows of ``targets``."""
    import sentence_transformers as st
    from datasets import Dataset

    kind = type("CyclicTrainer", (_CyclicSchedule, st.SentenceTransformerTrainer), {})
    kind.cycles, kind.cycle_end = config.cycles, config.cycle_end  # type: ignore[attr-defined]
    return kind(
        model=student,
        args=st.SentenceTransformerTrainingArguments(**training_arguments(config, **PUBLISHED)),
        train_dataset=Dataset.from_dict({"text": list(texts), "label": list(range(len(texts)))}),
        loss=EmbeddingObjective(student, config.match),
        data_collator=TargetCollator(student.preprocess, targets),
    )


def cyclic_decay(step: int, *, steps: int, cycles: int, end: float) -> float:
    """Factor of the learning rate at a step from 0: in each of ``cycles`` equal cycles from 1 linearly to ``end``."""
    length = -(-steps // cycles)
    return 1.0 - (1.0 - end) * (step % length) / max(1, length - 1)


@dataclass(frozen=True)
class TargetCollator:
    """Rows (text, number of its target) to a batch: the tokenised texts, and the targets as labels [B, D]."""

    preprocess: Callable[..., Features]
    targets: Float[ndarray, "N D"]
    valid_label_columns: tuple[str, ...] = LABEL_COLUMNS

    def __call__(self, rows: Sequence[ListRow]) -> Features:
        features = self.preprocess([row["text"] for row in rows])
        targets = torch.from_numpy(self.targets[[row["label"] for row in rows]])
        return {"label": targets, **{f"text_{name}": value for name, value in features.items()}}


class _CyclicSchedule:
    """Mixin before a trainer: the learning rate falls linearly, several times."""

    cycles: int
    cycle_end: float
    optimizer: Any
    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        from torch.optim.lr_scheduler import LambdaLR

        factor = partial(cyclic_decay, steps=num_training_steps, cycles=self.cycles, end=self.cycle_end)
        self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
        return self.lr_scheduler
