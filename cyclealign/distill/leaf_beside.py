"""LEAF's loss beside a ranking loss: a bi-encoder's vectors are held to an embedding teacher's too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.functional import normalize

from cyclealign.config.schema import LeafAuxiliary
from cyclealign.distill.adapters import DenseObjective
from cyclealign.distill.config import ListDistillConfig
from cyclealign.distill.leaf_config import EncoderTeacherConfig
from cyclealign.distill.leaf_models import load_teacher
from cyclealign.distill.ragged import ListRow, RaggedCollator
from cyclealign.distill.students import Student
from cyclealign.distill.teacher_vectors import TeacherVectors
from cyclealign.losses import EmbeddingMatch, EmbeddingPairs
from cyclealign.models.features import Features

TARGET = "target"
Vectors = Mapping[str, Float[ndarray, " D"]]


def with_leaf(config: ListDistillConfig, student: Student, rows: Mapping[str, Sequence[Any]]) -> Student:
    """The student, trained on ``config.leaf`` beside its ranking loss where there is one.

    rows: columns query and documents. The teacher's vectors are computed once and kept in the run's directory.

    Raises:
        UserError: the teacher cannot be loaded.
    """
    leaf = config.leaf
    if leaf is None or not isinstance(student.objective, DenseObjective) or student.collator is None:
        return student
    teacher = load_teacher(EncoderTeacherConfig(model=leaf.teacher), key="leaf.teacher")
    queries, documents = (list(dict.fromkeys(texts)) for texts in (rows["query"], chain(*rows["documents"])))
    with closing(TeacherVectors(config.run_dir / "teacher_vectors.sqlite", teacher)) as cache:
        vectors = (
            dict(zip(queries, cache.vectors(queries, "query"), strict=True)),
            dict(zip(documents, cache.vectors(documents, "document"), strict=True)),
        )
    objective = MatchedObjective(
        student.model,
        config.loss,
        leaf=leaf,
        width=len(vectors[0][queries[0]]),
        similarity=student.objective.similarity,
        scale=config.student.scale,
        learn_scale=config.student.learn_scale,
        positive_first=student.objective.positive_first,
    )
    ragged = student.collator
    collator = MatchedCollator(ragged.preprocess, prompts=ragged.prompts, max_tokens=ragged.max_tokens, vectors=vectors)
    return replace(student, objective=objective, collator=collator)


class MatchedObjective(DenseObjective):
    """The ranking loss, plus ``leaf.weight`` times the embedding match of every query's and document's vector.

    The projection to the teacher's width belongs to the loss: it is trained and kept in checkpoints, and the student
    that is saved ranks by its own vectors, without it. Directions are compared.
    """

    def __init__(self, model: Any, *arguments: Any, leaf: LeafAuxiliary, width: int, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        self.weight = leaf.weight
        self.match = EmbeddingMatch(power=leaf.power)
        own = model.get_embedding_dimension()
        self.projection = nn.Linear(own, width, bias=False)
        if own == width:
            nn.init.eye_(self.projection.weight)

    def forward(self, sentence_features: Sequence[Features], labels: Tensor) -> Any:
        """Both terms, each of which the trainer logs; features hold the teacher's vectors [texts, D] as ``target``."""
        targets = torch.cat([features[TARGET] for features in sentence_features])
        embeddings = [
            self.model({name: value for name, value in features.items() if name != TARGET})["sentence_embedding"]
            for features in sentence_features
        ]
        projected = normalize(self.projection(torch.cat(embeddings)), dim=1)
        pairs = EmbeddingPairs(student=projected, teacher=normalize(targets, dim=1).to(projected.dtype))
        return {
            "rank_loss": self.compute_loss_from_embeddings(embeddings, labels),
            "leaf": self.weight * self.match(pairs).loss,
        }


@dataclass(frozen=True, kw_only=True)
class MatchedCollator(RaggedCollator):
    """A ragged batch with the teacher's vectors, of queries and of documents, beside its two columns."""

    vectors: tuple[Vectors, Vectors]

    def __call__(self, rows: Sequence[ListRow]) -> Features:
        queries, documents = self.vectors
        found = {
            "query": [queries[row["query"]] for row in rows],
            "documents": [documents[text] for row in rows for text in row["documents"]],
        }
        targets = {f"{column}_{TARGET}": torch.stack(list(map(torch.tensor, v))) for column, v in found.items()}
        return super().__call__(rows) | targets
