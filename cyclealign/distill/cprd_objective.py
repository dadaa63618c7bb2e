"""The objective of CPRD: InfoNCE over the batch, and a ranking loss over each query's mined candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cyclealign.distill.adapters import DenseObjective, ragged_scores
from cyclealign.losses import RankedScores, RankingLoss
from cyclealign.models.features import Features


class CPRDObjective(DenseObjective):
    """For ``SentenceTransformerTrainer`` with ``RaggedCollator``: the first document of a list is its positive.

    Of lists the other way round, a document's queries, all below holds with the two exchanged.

    InfoNCE, both ways: a query's positive among all documents of the batch, a positive's query among all queries.
    The ranking loss sees a query's other documents with the teacher's scores, without the positive (Chen et al.
    2024: the positive is InfoNCE's), and those of other lists as candidates ``outside``. Both share the scale. Where
    a text stands in several lists of a batch, its copies are left out of the sums of those lists.

    Args:
        weight: of the ranking loss; 0 leaves InfoNCE alone.
    """

    def __init__(self, model: nn.Module, loss: RankingLoss, *, weight: float = 1.0, **options: Any) -> None:
        super().__init__(model, loss, **options)
        self.weight = weight

    def forward(self, sentence_features: Sequence[Features], labels: Tensor) -> Any:
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        # A text, or an image, may stand in several lists: it is no negative of itself.
        told = sentence_features[1]
        own = told["input_ids"] if "input_ids" in told else told["pixel_values"].flatten(start_dim=1)
        _, texts = own.unique(dim=0, return_inverse=True)
        return self._parts(embeddings, labels, texts)

    def compute_loss_from_embeddings(self, embeddings: Sequence[Tensor], labels: Tensor) -> Any:
        """Two named scalars, which the trainer adds up and logs; every document is taken for another text."""
        return self._parts(embeddings, labels, torch.arange(len(embeddings[1]), device=labels.device))

    def _parts(self, embeddings: Sequence[Tensor], labels: Tensor, texts: Int[Tensor, " N"]) -> dict[str, Tensor]:
        """``texts``: equal numbers for equal documents."""
        if self.similarity == "cosine":
            embeddings = [normalize(e, dim=-1) for e in embeddings]
        query, documents = (e.float() for e in embeddings)
        logits = query @ documents.T * self.log_scale.exp()
        lengths = (~labels.isnan()).sum(dim=1)
        first = lengths.cumsum(0) - lengths
        parts = {"infonce": _infonce(logits, first, texts)}
        if self.weight > 0:
            rows = torch.arange(len(query), device=query.device)
            own = rows.repeat_interleave(lengths) == rows[:, None]
            student, valid = ragged_scores(logits[own], labels)
            mined = RankedScores(
                student=student[:, 1:],
                teacher=labels[:, 1:],
                valid=valid[:, 1:],
                outside=logits.masked_fill(_told(own, texts), -math.inf),
            )
            parts["distillation"] = self.weight * self.ranking_loss(mined).loss
        return parts

    def get_config_dict(self) -> dict[str, object]:
        return super().get_config_dict() | {"weight": self.weight}


def _infonce(logits: Float[Tensor, "B N"], first: Int[Tensor, " B"], texts: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """A query's positive, at ``first``, among all documents, and a positive's query among all queries; the mean."""
    positives = texts[first]
    itself = torch.zeros_like(logits, dtype=torch.bool).scatter(1, first[:, None], True)
    to_document = logits.masked_fill((texts == positives[:, None]) & ~itself, -math.inf)
    copies = (positives == positives[:, None]) & ~itself[:, first]
    to_query = logits[:, first].T.masked_fill(copies, -math.inf)
    rows = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(to_document, first) + cross_entropy(to_query, rows)) / 2


def _told(own: Bool[Tensor, "B N"], texts: Int[Tensor, " N"]) -> Bool[Tensor, "B N"]:
    """Which documents are texts of a list: its own, and copies of them in other lists."""
    texts_of_lists = own.new_zeros(len(own), int(texts.max()) + 1, dtype=torch.int64)
    texts_of_lists.index_add_(1, texts, own.long())
    return texts_of_lists[:, texts] > 0
