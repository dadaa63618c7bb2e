"""``cyclealign distill quantidce``: a metric of dialogue coherence, from levels of responses, then from few ratings.

Ye et al. 2021, Towards Quantifiable Dialogue Coherence Evaluation (arXiv 2106.00507).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cyclealign.config.training_keys import check_training
from cyclealign.distill.adapters import CrossEncoderObjective
from cyclealign.distill.coherence_model import RatingObjective, load_model, make_model
from cyclealign.distill.quantidce_config import (
    FinetuningConfig,
    QuantiDCEConfig,
    StageConfig,
)
from cyclealign.distill.run import once, train_or_resume, training_arguments
from cyclealign.distill.summaries import QuantiDCEStage, QuantiDCESummary
from cyclealign.files.dialogues import read_levels, read_ratings
from cyclealign.files.records import read_record, write_record
from cyclealign.types import UserError, chat_as_text

Rows = Mapping[str, Sequence[Any]]  # columns


def distill_quantidce(config: QuantiDCEConfig) -> QuantiDCESummary:
    """Train both stages, or what is left of them; returns the summary that is written to ``summary.json``.

    The model is in ``model``, that of the first stage in ``pretrained``; each stage's record is its last file.

    Raises:
        UserError: rows that cannot be used, a model that cannot be loaded, another config in the run's directory.
    """
    levels = [level_rows(path) for path in _paths(config.pretraining)]
    ratings = [] if config.finetuning is None else [rating_rows(path) for path in _paths(config.finetuning)]
    check_training(config.pretraining.training)
    check_training({} if config.finetuning is None else config.finetuning.training)
    return once(QuantiDCESummary, config, partial(_trained, config, levels, ratings))


def _trained(config: QuantiDCEConfig, levels: Sequence[Rows], ratings: Sequence[Rows]) -> QuantiDCESummary:
    first = config.run_dir / ("model" if config.finetuning is None else "pretrained")
    pretrained = pretrain(config, levels, first)
    finetuned = None if config.finetuning is None else finetune(config, config.finetuning, ratings, first)
    return QuantiDCESummary(pretraining=pretrained, finetuning=finetuned)


def pretrain(config: QuantiDCEConfig, rows: Sequence[Rows], out: Path) -> QuantiDCEStage:
    """The first stage, into ``out``, from training rows and, where there are some, validation rows; its record."""
    if (found := _record(config, "pretraining")) is not None:
        return found
    student = config.student
    model = make_model(student.model, student, max_tokens=student.max_tokens, seed=config.seed)
    objective = CrossEncoderObjective(model, config.pretraining.loss)
    return _fit(config.of_stage(config.pretraining), "pretraining", objective, rows, out)


def finetune(config: QuantiDCEConfig, stage: FinetuningConfig, rows: Sequence[Rows], first: Path) -> QuantiDCEStage:
    """The second stage, from the model of the first in ``first``, into ``model``."""
    if (found := _record(config, "finetuning")) is not None:
        return found
    objective = RatingObjective(load_model(str(first)), stage.loss, load_model(str(first)))
    return _fit(config.of_stage(stage), "finetuning", objective, rows, config.run_dir / "model")


def level_rows(path: Path) -> Rows:
    """Columns context, responses and label (their levels, 0 the best), a row for each context.

    Raises:
        UserError: a row without levels, or a file without rows.
    """
    found = list(read_levels(path))
    if not found:
        raise UserError(f"{path}: expected contexts with levels of responses, got an empty file")
    return {
        "context": [chat_as_text(d.context) for d in found],
        "responses": [[text for level in d.levels for text in level] for d in found],
        "label": [[n for n, level in enumerate(d.levels) for _ in level] for d in found],
    }


def rating_rows(path: Path) -> Rows:
    """Columns context, response and label (the mean rating), a row for each response.

    Raises:
        UserError: a row without a rating from 1 to 5, or a file without rows.
    """
    found = list(read_ratings(path))
    outside = [r.rating for r in found if not 1 <= r.rating <= 5]
    if not found or outside:
        raise UserError(f"{path}: expected ratings from 1 to 5, got {outside[0] if outside else 'an empty file'}")
    return {
        "context": [chat_as_text(r.context) for r in found],
        "response": [r.response for r in found],
        "label": [r.rating for r in found],
    }


def _fit(config: QuantiDCEConfig, name: str, objective: nn.Module, rows: Sequence[Rows], out: Path) -> QuantiDCEStage:
    """Train one stage, or go on from its last checkpoint; save its model, then its record."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoderTrainer, CrossEncoderTrainingArguments

    train, *validation = [Dataset.from_dict(dict(columns)) for columns in rows]
    chosen = {"eval_strategy": "steps", "eval_steps": config.save_every, "load_best_model_at_end": True}
    arguments = training_arguments(config, f"checkpoints/{name}", **(chosen if validation else {}))
    trainer = CrossEncoderTrainer(
        model=objective.model,
        args=CrossEncoderTrainingArguments(**arguments),
        train_dataset=train,
        eval_dataset=validation[0] if validation else None,
        loss=objective,
    )
    first_loss, last_loss = train_or_resume(trainer)
    trainer.model.save_pretrained(str(out))
    record = QuantiDCEStage(
        rows=len(train),
        steps=trainer.state.global_step,
        first_loss=first_loss,
        last_loss=last_loss,
        best_validation_loss=trainer.state.best_metric if validation else None,
    )
    write_record(config.run_dir / f"{name}.json", record)
    return record


def _record(config: QuantiDCEConfig, name: str) -> QuantiDCEStage | None:
    """What a stage that has ended wrote last."""
    path = config.run_dir / f"{name}.json"
    return read_record(QuantiDCEStage, path) if path.exists() else None


def _paths(stage: StageConfig) -> list[Path]:
    return [stage.data] if stage.validation is None else [stage.data, stage.validation]
