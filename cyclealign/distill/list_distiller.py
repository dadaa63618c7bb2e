"""``cyclealign distill margin_mse``: a teacher's scores of whole lists into a student, by any ranking loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cyclealign.distill.config import ListDistillConfig, ScoresConfig
from cyclealign.distill.effectiveness import effectiveness
from cyclealign.distill.leaf_beside import with_leaf
from cyclealign.distill.loss_state import keeping_loss_state
from cyclealign.distill.relevance import labelled, read_judged
from cyclealign.distill.run import claim, train_or_resume, training_arguments, write_summary
from cyclealign.distill.students import Student, make_student
from cyclealign.score_formats import READERS, Item, ScoreList, detect
from cyclealign.score_formats.jsonl import read_texts
from cyclealign.types import UserError


def distill_lists(config: ListDistillConfig, *, positive_first: bool = False) -> dict[str, Any]:
    """Train, or go on from the last checkpoint; returns the summary that is written to ``summary.json``.

    ``positive_first``: the first document of every list is known to be the best one.

    Raises:
        UserError: scores that cannot be used, a model that cannot be loaded, another config in the run's directory.
    """
    from transformers import set_seed

    rows = training_rows(config.data)
    if (summary := claim(config)) is not None:
        return summary
    set_seed(config.seed)  # a new head's weights are drawn
    student = make_student(config.student, config.loss, positive_first=positive_first)
    pairs = sum(map(len, rows["documents"]))
    summary = {"lists": len(rows["query"]), "pairs": pairs, **fit_lists(config, student, rows)}
    write_summary(config, summary)
    return summary


def fit_lists(config: ListDistillConfig, student: Student, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Train a student on lists, save it, and measure it before and after: steps, first and last loss, effectiveness.

    Raises:
        UserError: the teacher of ``config.leaf`` cannot be loaded.
    """
    before = effectiveness(config.evaluate, student, config.run_dir) if config.evaluate is not None else None
    trainer = _trainer(config, with_leaf(config, student, rows), rows)
    first_loss, last_loss = train_or_resume(trainer)
    student.model.save_pretrained(str(config.run_dir / "model"))
    found = {"steps": trainer.state.global_step, "first_loss": first_loss, "last_loss": last_loss}
    if config.evaluate is not None:
        found |= {"before": before, "after": effectiveness(config.evaluate, student, config.run_dir)}
    return found


def training_rows(data: ScoresConfig) -> dict[str, list[Any]]:
    """Columns query, documents and scores (or labels) of all lists with at least two scored documents.

    Raises:
        UserError: no scores, no texts, or no such list.
    """
    rows: dict[str, list[Any]] = {"query": [], "documents": [], "scores": []}
    for item in _told(_lists(data), data):
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


def _lists(data: ScoresConfig) -> Iterator[ScoreList]:
    """The file's lists, with labels instead of its scores where they are asked for."""
    format = data.format
    if format == "auto":
        format = detect(data.scores, ids=data.queries is not None or data.documents is not None)
    found = READERS[format](data.scores)
    if data.teacher == "scores":
        return found
    judged = read_judged(data.qrels) if data.qrels is not None else None
    return (known for item in found if (known := labelled(item, judged)) is not None)


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


def _trainer(config: ListDistillConfig, student: Student, rows: dict[str, list[Any]]) -> Any:
    from datasets import Dataset

    arguments = student.arguments(**training_arguments(config))
    if student.tenfold is not None:
        arguments.learning_rate_mapping = {student.tenfold: 10 * arguments.learning_rate}
    return keeping_loss_state(student.trainer)(
        model=student.model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        loss=student.objective,
        data_collator=student.collator,
    )
