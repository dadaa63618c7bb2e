"""``cyclealign distill leaf``: a big encoder into a small one, in the same space (LEAF, arXiv 2509.12539)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from cyclealign.config.extras import require_extra
from cyclealign.distill.leaf_config import LeafConfig, TextsConfig
from cyclealign.distill.leaf_models import load_teacher, make_student, save_router
from cyclealign.distill.leaf_retention import (
    Collection,
    System,
    mean_cosine,
    queries_per_second,
    ranges_of,
    read_collection,
    retention,
    unit_rows,
)
from cyclealign.distill.run import once, train_or_resume
from cyclealign.distill.summaries import LeafSummary
from cyclealign.distill.teacher_vectors import TASKS, Task, TeacherVectors
from cyclealign.files.atomic import write_atomic
from cyclealign.scores.jsonl_formats import read_texts
from cyclealign.types import UserError

RANGES = "int8_ranges.npy"


def distill_leaf(config: LeafConfig) -> LeafSummary:
    """Train, or go on from the last checkpoint; returns the summary that is written to ``summary.json``.

    The run's directory then holds the student in ``model`` and, in ``router``, the student for queries with the
    teacher for documents and the int8 ranges of the teacher's vectors; ``retention.json`` holds nDCG@10 by query.

    Raises:
        UserError: texts that cannot be read, a model that cannot be loaded, prefixes longer than the teacher's vectors,
            a package that is not installed, another config in the run's directory.
    """
    kept = config.evaluate
    if kept is not None:
        require_extra("ir_measures", "eval", "evaluate")
    collection = None if kept is None else read_collection(kept.queries, kept.documents, kept.qrels)
    texts = training_texts(config.data)
    return once(LeafSummary, config, partial(_trained, config, texts, collection))


def _trained(config: LeafConfig, texts: Mapping[Task, Sequence[str]], collection: Collection | None) -> LeafSummary:
    teacher = load_teacher(config.teacher)
    _check_widths(config, int(teacher.get_embedding_dimension()))
    path = config.teacher.vectors or config.run_dir / "teacher_vectors.sqlite"
    with closing(TeacherVectors(path, teacher)) as cache:
        return _distilled(config, cache, texts, collection)


def _check_widths(config: LeafConfig, whole: int) -> None:
    """UserError where a prefix is to be longer than the teacher's vectors."""
    asked = {"match.widths": config.match.widths, "evaluate.widths": config.evaluate.widths if config.evaluate else ()}
    for key, widths in asked.items():
        if widths and max(widths) > whole:
            raise UserError(f"{key}: the teacher's vectors have {whole} dimensions, got {max(widths)}")


def training_texts(data: TextsConfig) -> dict[Task, list[str]]:
    """The queries and the documents; UserError where a file cannot be read or holds nothing."""
    files = {"query": data.queries, "document": data.documents}
    found = {t: [text for _, text in islice(read_texts(p), data.limit)] for t in TASKS if (p := files[t]) is not None}
    for task, texts in found.items():
        if not texts:
            raise UserError(f"{files[task]}: holds no text")
    return found


def _distilled(
    config: LeafConfig, cache: TeacherVectors, texts: Mapping[Task, Sequence[str]], collection: Collection | None
) -> LeafSummary:
    from transformers import set_seed

    from cyclealign.distill.leaf_training import leaf_trainer

    teacher = cache.teacher
    with _precision(config, teacher):
        targets = {task: cache.vectors(found, task) for task, found in texts.items()}
    every = np.concatenate(list(targets.values()))
    set_seed(config.seed)  # a projection to another width is drawn
    student = make_student(config.student, config.teacher, teacher, width=every.shape[1], unit=_is_unit(every))
    kept, start = config.evaluate, None
    if kept is not None and kept.undistilled and collection is not None:
        start = _system(config, student, collection)
    prompted = [(teacher.prompts.get(task) or "") + text for task, found in texts.items() for text in found]
    trainer = leaf_trainer(config, student, prompted, every)
    first_loss, last_loss = train_or_resume(trainer)
    documents = targets.get("document", every)
    ranges = ranges_of(unit_rows(documents) if _by_cosine(teacher) else documents)
    student.save_pretrained(str(config.run_dir / "model"))
    save_router(student, teacher, config.run_dir / "router")
    np.save(config.run_dir / "router" / RANGES, ranges)
    steps = trainer.state.global_step
    summary = LeafSummary(texts=len(every), steps=steps, first_loss=first_loss, last_loss=last_loss)
    return summary if collection is None else _measured(summary, config, cache, student, start, collection, ranges)


def _measured(
    summary: LeafSummary,
    config: LeafConfig,
    cache: TeacherVectors,
    student: Any,
    start: System | None,
    collection: Collection,
    ranges: Float[ndarray, "2 D"],
) -> LeafSummary:
    """The report: standard (the student for both sides), asymmetric (the teacher for documents), before training."""
    assert config.evaluate is not None
    teacher = cache.teacher
    with _precision(config, teacher):
        own = System(
            cache.vectors(list(collection.queries.values()), "query"),
            cache.vectors(list(collection.documents.values()), "document"),
        )
    trained = _system(config, student, collection)
    systems = {
        "teacher": own,
        "standard": trained,
        "asymmetric": System(trained.queries, own.documents),
        **({} if start is None else {"undistilled": start}),
    }
    found = retention(systems, collection, widths=config.evaluate.widths, ranges=ranges, unit=_by_cosine(teacher))
    write_atomic(config.run_dir / "retention.json", json.dumps(found.by_query, indent=1) + "\n")
    encoders = {"teacher": teacher.encode_query, "student": student.encode_query}
    return replace(
        summary,
        ndcg10=found.ndcg10,
        retention=found.retention,
        cosine={
            "queries": mean_cosine(trained.queries, own.queries),
            "documents": mean_cosine(trained.documents, own.documents),
        },
        queries_per_second=queries_per_second(encoders, list(collection.queries.values())),
    )


def _system(config: LeafConfig, model: Any, collection: Collection) -> System:
    with _precision(config, model):
        encoded = (
            encode(list(texts.values()), show_progress_bar=False)
            for encode, texts in (
                (model.encode_query, collection.queries),
                (model.encode_document, collection.documents),
            )
        )
        return System(*(np.asarray(v, dtype=np.float32) for v in encoded))


def _precision(config: LeafConfig, model: Any) -> AbstractContextManager[object]:
    """Texts are encoded in bfloat16 where ``training.bf16`` asks for it, as the student trains."""
    import torch

    return torch.autocast(model.device.type, torch.bfloat16, enabled=bool(config.training.get("bf16")))


def _by_cosine(teacher: Any) -> bool:
    return str(teacher.similarity_fn_name) == "cosine"


def _is_unit(vectors: Float[ndarray, "N D"]) -> bool:
    """Whether the teacher normalises, told by its vectors (bfloat16 is off by some thousandths)."""
    return bool(np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-2))
