"""``cyclealign distill idcm``: a cascade for long documents, in three stages.

Hofstätter et al. 2021, Intra-Document Cascading (arXiv 2105.09816): 1. the expensive model (ETM) learns passages,
2. with the weights of its best scores documents, 3. the cheap one (ESM) learns which passages it need not see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cyclealign.config.training_keys import check_training
from cyclealign.distill.config import StudentConfig
from cyclealign.distill.idcm_config import IDCMConfig, StageConfig
from cyclealign.distill.idcm_model import IDCM
from cyclealign.distill.idcm_objectives import (
    DocumentObjective,
    SelectionObjective,
    document_collator,
    selection_collator,
    stage_trainer,
)
from cyclealign.distill.idcm_passages import Cascade, EtmScores, Splitter
from cyclealign.distill.list_rows import Rows, text_rows, training_rows
from cyclealign.distill.run import once, train_or_resume
from cyclealign.distill.students import make_student
from cyclealign.distill.summaries import IDCMStage, IDCMSummary
from cyclealign.files.records import read_record, write_record
from cyclealign.losses import RankNet
from cyclealign.types import UserError


def distill_idcm(config: IDCMConfig) -> IDCMSummary:
    """Train what is left of the three stages; returns the summary that is written to ``summary.json``.

    Each stage leaves a whole model in a folder of its name, and its record as its last file; the last stage's is
    ``model``. The ETM's passage scores are in ``etm_scores.sqlite``.

    Raises:
        UserError: rows that cannot be used, a model that cannot be loaded, another config in the run's directory.
    """
    stages = {"passages": config.passages, "documents": config.documents}
    rows = {name: training_rows(stage.data) for name, stage in stages.items() if stage is not None}
    documents = text_rows(config.selection.data)  # the ETM judges their passages: no label is read
    for stage in (*stages.values(), config.selection):
        check_training({} if stage is None else stage.training)
    return once(IDCMSummary, config, partial(_trained, config, rows, documents))


def _trained(config: IDCMConfig, rows: Mapping[str, Rows], documents: Rows) -> IDCMSummary:
    stages = {"passages": config.passages, "documents": config.documents}
    model = _start_model(config)
    ran: dict[str, IDCMStage] = {}
    for name in ("passages", "documents"):
        stage = stages[name]
        if stage is not None:
            train = partial(_train_etm, config, stage, name, rows[name])
            model, ran[name] = _stage(config, name, model, train)
    model, selection = _stage(config, "model", model, partial(_train_esm, config, documents))
    timed = None
    if config.latency:
        timed = latency(Cascade(model, Splitter(config.student, model.tokenizer)), documents, config.latency)
    return IDCMSummary(passages=ran.get("passages"), documents=ran.get("documents"), selection=selection, latency=timed)


def _start_model(config: IDCMConfig) -> IDCM:
    from transformers import set_seed

    set_seed(config.seed)  # new heads are drawn
    student = config.student
    splitter = Splitter(student, None)
    encoder = StudentConfig(
        model=student.model,
        kind="cross_encoder",
        layers=student.layers,
        dropout=student.dropout,
        max_query_tokens=student.max_query_tokens,
        max_document_tokens=splitter.passage_tokens,
    )
    return IDCM(make_student(encoder, RankNet()).model, esm=student.esm, top=student.top)


def _stage(config: IDCMConfig, name: str, model: IDCM, train: Callable[[IDCM], IDCMStage]) -> tuple[IDCM, IDCMStage]:
    """Train a stage and save its model and then its record, or take up what it left when it ended."""
    folder = config.run_dir / name
    done = folder / "stage.json"
    if done.exists():
        return IDCM.load(folder), read_record(IDCMStage, done)
    record = train(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    write_record(done, record)
    return model, record


def _train_etm(config: IDCMConfig, stage: StageConfig, name: str, rows: Rows, model: IDCM) -> IDCMStage:
    """RankNet on labelled passages, or on documents of which all passages are scored."""
    splitter = Splitter(config.student, model.tokenizer)
    objective = DocumentObjective(model, RankNet(), whole=name == "passages")
    collator = document_collator(model, splitter, whole=name == "passages")
    return _fit(config.of_stage(stage), name, objective, rows, collator)


def _train_esm(config: IDCMConfig, rows: Rows, model: IDCM) -> IDCMStage:
    """The ESM on the ETM's scores of all passages of each document; a list is a (query, document)."""
    splitter = Splitter(config.student, model.tokenizer)
    lists = selection_lists(rows, splitter)
    if not lists:
        raise UserError(
            f"{config.selection.data.scores}: no document is longer than one window, nothing to choose from"
        )
    scores = EtmScores(config.run_dir / "etm_scores.sqlite", model, splitter)
    try:
        made = scores.fill(lists)
        found: Rows = {
            "query": [query for query, _ in lists],
            "passages": [passages for _, passages in lists],
            "scores": [scores.of(query, passages) for query, passages in lists],
        }
    finally:
        scores.close()
    objective = SelectionObjective(model, config.loss)
    record = _fit(config.of_stage(config.selection), "selection", objective, found, selection_collator(model, splitter))
    return replace(record, passages=sum(map(len, found["passages"])), etm_scores_made=made)


def selection_lists(rows: Rows, splitter: Splitter) -> list[tuple[str, list[str]]]:
    """(query, texts of a document's passages) of every document with at least two, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    cut: dict[str, list[str]] = {}
    for query, documents in zip(rows["query"], rows["documents"], strict=True):
        for document in documents:
            if document not in cut:
                cut[document] = list(dict.fromkeys(w.text for w in splitter.passages(document)))
            if len(cut[document]) >= 2:
                found[splitter.query(query), document] = cut[document]
    return [(query, passages) for (query, _), passages in found.items()]


def _fit(config: IDCMConfig, name: str, objective: Any, rows: Rows, collator: Any) -> IDCMStage:
    trainer = stage_trainer(config, f"checkpoints/{name}", objective, rows, collator)
    first_loss, last_loss = train_or_resume(trainer)
    steps = trainer.state.global_step
    return IDCMStage(lists=len(rows["query"]), steps=steps, first_loss=first_loss, last_loss=last_loss)


def latency(cascade: Cascade, rows: Rows, documents: int) -> dict[str, float]:
    """Documents a second of one query and document at a time: with ``select`` passages, and with all of them.

    Both include tokenisation. Each document is scored both ways in turn, so that a slow moment of the machine hits
    both; one document is scored first that is not counted.
    """
    pairs = [(q, d) for q, found in zip(rows["query"], rows["documents"], strict=True) for d in found][: documents + 1]
    chosen, every = cascade.splitter.config.select, max(1, max(len(cascade.splitter.passages(d)) for _, d in pairs))
    timed = [[_seconds(cascade, *pair, select) for select in (chosen, every)] for pair in pairs]
    counted: Sequence[Sequence[float]] = timed[1:] or timed
    cascaded, whole = (sum(row[n] for row in counted) for n in (0, 1))
    return {
        "documents": len(counted),
        "passages_a_document": sum(len(cascade.splitter.passages(d)) for _, d in pairs) / len(pairs),
        "documents_per_second": len(counted) / cascaded,
        "documents_per_second_all_passages": len(counted) / whole,
        "speed_up": whole / cascaded,
    }


def _seconds(cascade: Cascade, query: str, document: str, select: int) -> float:
    began = time.perf_counter()
    cascade.score(query, document, select=select)
    return time.perf_counter() - began


def load_cascade(folder: Path, config: IDCMConfig) -> Cascade:
    """A trained run's cascade, to score documents with. UserError where the folder holds none."""
    model = IDCM.load(folder)
    return Cascade(model, Splitter(config.student, model.tokenizer))
