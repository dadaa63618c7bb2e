"""The ranking losses as losses of sentence-transformers' trainers: dense, cross-encoder and multi-vector.

A trainer hands a loss its columns and labels; here they become the scores of B lists of K candidates, and the loss is
any of ``cyclealign.losses``. Two shapes of data:

- uniform: columns (query, document 1, ..., document K); labels [B, K] are the teacher's scores, [B, K - 1] its
  margins of the first document over each other one, [B] its one margin (K = 2).
- ragged: columns (query, documents), documents a list of any length; labels a list of scores as long. The dense and
  the multi-vector trainer need ``RaggedCollator`` for it.

For a loss that needs levels the labels are levels, 0 the best. The loss divides by the lists of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from cyclealign.distill.ragged import padded_labels
from cyclealign.losses import EmbeddingMatch, EmbeddingPairs, RankedScores, RankingLoss
from cyclealign.models.features import Features


class ListObjective(nn.Module):
    """Common part: from the student's scores and the labels to the loss.

    Args:
        model: the student; the trainer replaces the attribute by its wrapped one.
        loss: what to minimise.
        scale: multiplies the student's scores (a cosine needs some 20 to sharpen a softmax).
        learn_scale: train the scale with the model; see ``loss_state`` for its way through checkpoints.
        positive_first: the first candidate of every list is the known best one (PLD sets it first).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: RankingLoss,
        *,
        scale: float = 1.0,
        learn_scale: bool = False,
        positive_first: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.ranking_loss = loss
        self.positive_first = positive_first
        self.log_scale = nn.Parameter(torch.tensor(scale).log(), requires_grad=learn_scale)

    def list_loss(
        self, student: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], valid: Bool[Tensor, "B K"]
    ) -> Tensor:
        """The loss of lists; labels of entries that are not valid may hold anything."""
        levels = self.ranking_loss.needs == "levels"
        first = torch.where(valid[:, 0], 0, -1) if self.positive_first else None
        scores = RankedScores(
            student=student * self.log_scale.exp(),
            teacher=-labels if levels else labels,
            valid=valid,
            levels=torch.where(valid, labels, 0).long() if levels else None,
            positive=first,
        )
        return self.ranking_loss(scores).loss

    def get_config_dict(self) -> dict[str, object]:
        """For the model card."""
        return {"loss": repr(self.ranking_loss), "scale": self.log_scale.exp().item()}


def uniform_labels(labels: Tensor, k: int) -> Float[Tensor, "B K"]:
    """Scores of K candidates from scores, margins of the first over the others, or one margin.

    Raises:
        ValueError: labels of another width.
    """
    if labels.dim() == 1:
        labels = labels[:, None]
    if labels.dim() == 2 and labels.shape[1] == k - 1:
        return torch.cat([torch.zeros_like(labels[:, :1]), -labels], dim=1)
    if labels.dim() == 2 and labels.shape[1] == k:
        return labels
    raise ValueError(
        f"labels: expected {k} scores or {k - 1} margins a row for {k} documents, got {list(labels.shape)}"
    )


def ragged_scores(flat: Float[Tensor, " N"], labels: Tensor) -> tuple[Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Scores of all documents, list after list, at their places; and which places there are (NaN: none)."""
    _lengths(labels, len(flat))
    valid = ~labels.isnan()
    return flat.new_zeros(valid.shape).masked_scatter(valid, flat), valid


class DenseObjective(ListObjective):
    """For ``SentenceTransformerTrainer``: the score of a pair is the dot product or the cosine of its vectors."""

    def __init__(
        self, model: nn.Module, loss: RankingLoss, *, similarity: Literal["dot", "cosine"] = "dot", **options: Any
    ) -> None:
        super().__init__(model, loss, **options)
        if similarity not in ("dot", "cosine"):
            raise ValueError(f"similarity: expected dot or cosine, got {similarity!r}")
        self.similarity = similarity

    def forward(self, sentence_features: Sequence[Features], labels: Tensor) -> Tensor:
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss from the vectors of each column; sentence-transformers' own wrappers call this."""
        if self.similarity == "cosine":
            embeddings = [normalize(e, dim=-1) for e in embeddings]
        query, *columns = embeddings
        if len(columns) == 1:
            queries = query.repeat_interleave(_lengths(labels, len(columns[0])), dim=0)
            student, valid = ragged_scores((queries * columns[0]).sum(dim=-1), labels)
            return self.list_loss(student, labels, valid)
        student = torch.stack([(query * document).sum(dim=-1) for document in columns], dim=1)
        return self.list_loss(student, uniform_labels(labels, len(columns)), torch.ones_like(student, dtype=torch.bool))

    def get_config_dict(self) -> dict[str, object]:
        return super().get_config_dict() | {"similarity": self.similarity}


class MultiVectorObjective(ListObjective):
    """For ``MultiVectorEncoderTrainer``: the score of a pair is MaxSim over its token vectors.

    ``similarity``: any pairwise scoring of sentence-transformers' ``multi_vector_encoder.scoring``.
    """

    def __init__(
        self, model: nn.Module, loss: RankingLoss, *, similarity: Callable[..., Tensor] | None = None, **options: Any
    ) -> None:
        super().__init__(model, loss, **options)
        self.similarity = similarity or _maxsim()

    def forward(self, sentence_features: Sequence[Features], labels: Tensor) -> Tensor:
        query, *columns = [
            self._tokens(features, "document" if column else "query")
            for column, features in enumerate(sentence_features)
        ]
        if len(columns) == 1:
            lengths = _lengths(labels, len(columns[0][0]))
            repeated = [part.repeat_interleave(lengths, dim=0) for part in query]
            student, valid = ragged_scores(self._score((repeated[0], repeated[1]), columns[0]), labels)
            return self.list_loss(student, labels, valid)
        student = torch.stack([self._score(query, document) for document in columns], dim=1)
        return self.list_loss(student, uniform_labels(labels, len(columns)), torch.ones_like(student, dtype=torch.bool))

    def _tokens(self, features: Features, task: str) -> tuple[Tensor, Tensor]:
        """Token vectors and the scoring mask, which the model may have narrowed."""
        output = self.model(dict(features), task=features.get("task", task))
        return output["token_embeddings"], output["attention_mask"].bool()

    def _score(self, query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor]) -> Tensor:
        result: Tensor = self.similarity(query[0], document[0], queries_mask=query[1], documents_mask=document[1])
        return result


class CrossEncoderObjective(ListObjective):
    """For ``CrossEncoderTrainer``: the score of a pair is the model's one output."""

    def forward(
        self,
        inputs: Sequence[Sequence[Any]],
        labels: Tensor | Sequence[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        try:
            return self._forward(inputs, labels, prompt, task)
        except TypeError as error:
            # The trainer takes a TypeError for an old signature and runs the whole step again without the prompt.
            raise RuntimeError(f"the cross-encoder's loss failed: {error}") from error

    def _forward(
        self, inputs: Sequence[Sequence[Any]], labels: Tensor | Sequence[Tensor], prompt: str | None, task: str | None
    ) -> Tensor:
        queries, *columns = inputs
        ragged = len(columns) == 1 and not isinstance(columns[0][0], str)
        lists = columns[0] if ragged else [list(row) for row in zip(*columns, strict=True)]
        pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
        flat = self._scores(pairs, prompt, task)
        teacher = (labels if isinstance(labels, Tensor) else padded_labels(labels)).to(flat.device)
        teacher = teacher if ragged else uniform_labels(teacher, len(columns))
        student, valid = ragged_scores(flat, teacher)
        return self.list_loss(student, teacher, valid)

    def _scores(self, pairs: list[tuple[str, str]], prompt: str | None, task: str | None) -> Float[Tensor, " N"]:
        device = next(self.model.parameters()).device
        features = self.model.preprocess(pairs, prompt=prompt, task=task)  # type: ignore[operator]
        moved = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in features.items()}
        scores: Tensor = self.model(moved)["scores"]
        if scores.numel() != len(pairs):
            raise ValueError(f"model: expected one output a pair, got {list(scores.shape)} for {len(pairs)} pairs")
        return scores.view(-1)


class EmbeddingObjective(nn.Module):
    """For ``SentenceTransformerTrainer``: every column's vectors against the teacher's, which are the labels.

    Labels are [B, D] (the same target for every column) or [B, columns, D]. A projection to the teacher's width belongs
    into the model, as a ``Dense`` module, so that it is saved with it.
    """

    def __init__(self, model: nn.Module, loss: EmbeddingMatch) -> None:
        super().__init__()
        self.model = model
        self.match = loss

    def forward(self, sentence_features: Sequence[Features], labels: Tensor) -> Tensor:
        return self.compute_loss_from_embeddings(
            [self.model(f)["sentence_embedding"] for f in sentence_features], labels
        )

    def compute_loss_from_embeddings(self, embeddings: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss from the vectors of each column."""
        student = torch.stack(list(embeddings), dim=1)
        target = labels[:, None].expand(-1, student.shape[1], -1) if labels.dim() == 2 else labels
        return self.match(EmbeddingPairs(student=student.flatten(0, 1), teacher=target.flatten(0, 1))).loss

    def get_config_dict(self) -> dict[str, object]:
        """For the model card."""
        return {"loss": repr(self.match)}


def _maxsim() -> Callable[..., Tensor]:
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores_pairwise

    found: Callable[..., Tensor] = colbert_scores_pairwise
    return found


def _lengths(labels: Tensor, documents: int) -> Tensor:
    """Documents of each list; ValueError where the labels are not those of so many documents."""
    if labels.dim() != 2:
        raise ValueError(f"labels: expected a list of scores for each query, got {list(labels.shape)}")
    lengths = (~labels.isnan()).sum(dim=1)
    if int(lengths.sum()) != documents:
        raise ValueError(f"labels: expected one for each of {documents} documents, got {int(lengths.sum())}")
    return lengths
