"""``cyclealign distill margin_mse``: a teacher's scores of whole lists into a student, by any ranking loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cyclealign.atomic import write_atomic
from cyclealign.distill.config import ListDistillConfig, ScoresConfig
from cyclealign.distill.loss_state import keeping_loss_state
from cyclealign.distill.students import Student, make_student, retrieval
from cyclealign.score_formats import READERS, Item, ScoreList, detect
from cyclealign.score_formats.jsonl import read_texts
from cyclealign.strict_yaml import write_yaml
from cyclealign.training_keys import check_training
from cyclealign.types import UserError


def distill_lists(config: ListDistillConfig) -> dict[str, Any]:
    """Train, or go on from the last checkpoint; returns the summary that is written to ``summary.json``.

    Raises:
        UserError: scores that cannot be used, a model that cannot be loaded, another config in the run's directory.
    """
    check_training(config.training)
    rows = training_rows(config.data)
    _claim(config)
    if (summary := _finished(config.run_dir)) is not None:
        return summary
    student = make_student(config.student, config.loss)
    measured = config.evaluate is not None
    before = retrieval(config.evaluate, student, config.run_dir) if config.evaluate is not None else {}
    trainer = _trained(config, student, rows)
    student.model.save_pretrained(str(config.run_dir / "model"))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    summary = {
        "lists": len(rows["query"]),
        "pairs": sum(map(len, rows["documents"])),
        "steps": trainer.state.global_step,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }
    if measured and config.evaluate is not None:
        summary |= {"before": before, "after": retrieval(config.evaluate, student, config.run_dir)}
    write_atomic(config.run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def training_rows(data: ScoresConfig) -> dict[str, list[Any]]:
    """Columns query, documents and scores of all lists with at least two scored documents.

    Raises:
        UserError: no scores, no texts, or no such list.
    """
    format = data.format
    if format == "auto":
        format = detect(data.scores, ids=data.queries is not None or data.documents is not None)
    rows: dict[str, list[Any]] = {"query": [], "documents": [], "scores": []}
    for item in _told(READERS[format](data.scores), data):
        if item.scores is None:
            raise UserError(f"{item.place}: there are no scores; make them with cyclealign score")
        if len(item.documents) < 2:
            continue
        rows["query"].append(item.query.text)
        rows["documents"].append([d.text for d in item.documents])
        rows["scores"].append(list(item.scores))
        if len(rows["query"]) == data.limit:
            break
    if not rows["query"]:
        raise UserError(f"{data.scores}: holds no list of two scored documents")
    return rows


def _told(lists: Iterator[ScoreList], data: ScoresConfig) -> Iterator[ScoreList]:
    """The lists with the texts of their ids."""
    queries = dict(read_texts(data.queries)) if data.queries else {}
    documents = dict(read_texts(data.documents)) if data.documents else {}

    def told(entry: Item, texts: dict[str, str], place: str) -> Item:
        text = entry.text or texts.get(entry.id)
        if text is None:
            raise UserError(f"{place}: no text for {entry.id!r}; give data.queries and data.documents")
        return Item(entry.id, text)

    for item in lists:
        found = tuple(told(d, documents, item.place) for d in item.documents)
        yield replace(item, query=told(item.query, queries, item.place), documents=found)


def _claim(config: ListDistillConfig) -> None:
    """The run's directory holds the config; a directory of another one is not touched."""
    path, text = config.run_dir / "config.yaml", write_yaml(config.model_dump(mode="json"))
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{config.run_dir}: holds a distillation with another config; choose another name")
    write_atomic(path, text)


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / "summary.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _trained(config: ListDistillConfig, student: Student, rows: dict[str, list[Any]]) -> Any:
    import torch
    from datasets import Dataset

    folder = config.run_dir / "checkpoints"
    own = {
        "output_dir": str(folder),
        "seed": config.seed,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
    }
    defaults: dict[str, Any] = {
        "report_to": [],
        "logging_steps": 10,
        "lr_scheduler_type": "constant",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if config.steps is not None:
        own["max_steps"] = config.steps
    trainer = keeping_loss_state(student.trainer)(
        model=student.model,
        args=student.arguments(**{**defaults, **config.training, **own}),
        train_dataset=Dataset.from_dict(rows),
        loss=student.objective,
        data_collator=student.collator,
    )
    resumed = any(folder.glob("checkpoint-*/trainer_state.json"))
    trainer.train(resume_from_checkpoint=resumed or None)
    return trainer
