"""What a distillation says of itself when it has ended: a record for each method's ``summary.json`` and its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

Effectiveness = Mapping[str, float]
"""A measure's value by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFit:
    """A training on lists: optimiser steps, first and last logged loss (None where none was logged).

    ``before``, ``after``: what the student was worth, where that was to be measured.
    """

    steps: int
    first_loss: float | None
    last_loss: float | None
    before: Effectiveness | None = None
    after: Effectiveness | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSummary:
    """Of a list distiller; ``pairs``: (query, document) pairs. The rest is its ``ListFit``."""

    FORMAT: ClassVar[int] = 1

    lists: int
    pairs: int
    steps: int
    first_loss: float | None
    last_loss: float | None
    before: Effectiveness | None = None
    after: Effectiveness | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CPRDSummary:
    """Of CPRD; ``ranked_lists``: those with an order of negatives; ``reverse_lists``: those the other way round;
    ``scale``: the similarity's, learned or not."""

    FORMAT: ClassVar[int] = 1

    lists: int
    ranked_lists: int
    reverse_lists: int | None = None
    steps: int
    first_loss: float | None
    last_loss: float | None
    before: Effectiveness | None = None
    after: Effectiveness | None = None
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiDCEStage:
    """``pretraining.json`` or ``finetuning.json``; ``best_validation_loss``: with validation rows."""

    FORMAT: ClassVar[int] = 1

    rows: int
    steps: int
    first_loss: float | None
    last_loss: float | None
    best_validation_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiDCESummary:
    """Of both stages; without ratings of the first alone."""

    FORMAT: ClassVar[int] = 1

    pretraining: QuantiDCEStage
    finetuning: QuantiDCEStage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IDCMStage:
    """``stage.json``. Of the selection also the ``passages`` that it chose among, and the ETM scores made for it."""

    FORMAT: ClassVar[int] = 1

    lists: int
    steps: int
    first_loss: float | None
    last_loss: float | None
    passages: int | None = None
    etm_scores_made: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IDCMSummary:
    """Of the stages that ran; ``latency``: documents a second, where it was to be measured."""

    FORMAT: ClassVar[int] = 1

    passages: IDCMStage | None = None
    documents: IDCMStage | None = None
    selection: IDCMStage
    latency: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafSummary:
    """Of LEAF; with a collection, what is left of the teacher's retrieval, by system and setting (``Retention``)."""

    FORMAT: ClassVar[int] = 1

    texts: int
    steps: int
    first_loss: float | None
    last_loss: float | None
    ndcg10: Mapping[str, Mapping[str, float]] | None = None
    retention: Mapping[str, Mapping[str, float | None]] | None = None
    cosine: Mapping[str, float] | None = None
    queries_per_second: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSummary:
    """Of a classifier's distillation; accuracies where there are test images."""

    FORMAT: ClassVar[int] = 1

    images: int
    first_loss: float | None
    last_loss: float | None
    teacher_parameters: int
    teacher_accuracy: float | None = None
    student_parameters: int
    student_accuracy: float | None = None
