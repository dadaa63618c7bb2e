"""What the schemas of all distillers share, and that of lists of scored documents (any ranking loss)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cyclealign.config.schema import LeafAuxiliary, Loss
from cyclealign.config.section import Section
from cyclealign.losses import MarginMSE, RankingLoss
from cyclealign.scores.formats import READERS, detect, read_as
from cyclealign.scores.sidecar import Gives, recorded_gives


class EncoderShape(Section):
    """What is kept of an encoder."""

    layers: int | None = Field(default=None, ge=1)
    """Keep the first so many layers of the encoder, which must have one list of them; null: all."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Every dropout rate, also of the saved config; null: as the encoder's config has it."""


class StudentConfig(EncoderShape):
    """The model that learns, and how it scores a pair."""

    model: str = Field(min_length=1)
    """A sentence-transformers or transformers encoder: directory or hub id."""
    kind: Literal["dot", "cosine", "colbert", "cross_encoder", "prettr", "tk"] = "dot"
    """How a pair is scored. ``dot`` and ``cosine``: one vector a text; ``colbert``: MaxSim over token vectors;
    ``cross_encoder``: the pair read as one; ``prettr``: read apart up to layer ``split``, as one behind it; ``tk``:
    kernels over the cosines of term vectors."""
    split: int | None = Field(default=None, ge=1)
    """Of ``prettr``, the layer up to which texts are read apart; null: half of them."""
    max_query_tokens: int = Field(default=30, ge=4)
    """Longer queries are cut."""
    max_document_tokens: int = Field(default=200, ge=8)
    """Longer documents are cut."""
    scale: float = Field(default=1.0, gt=0)
    """Multiplies the student's score before the loss: a cosine needs some 20 under a softmax."""
    learn_scale: bool = False
    """Train the scale too; no score of the saved model has it."""

    @property
    def has_vectors(self) -> bool:
        """Whether texts have vectors of their own, so that all documents can be searched."""
        return self.kind in ("dot", "cosine", "colbert")


class ScoresConfig(Section):
    """Lists of scored documents."""

    scores: Path
    """A score file, as ``cyclealign score`` reads and writes them."""
    teacher: Literal["scores", "labels"] = "scores"
    """The scores of the file, or labels alone: what ``qrels`` judges relevant, else the file's known positives."""
    qrels: Path | None = None
    """Relevance judgements: TREC's, or tab-separated query, document, relevance."""
    format: str = "auto"
    """Format of the score file; ``auto``: by its first line."""
    queries: Path | None = None
    """Texts of the file's query ids: tab-separated, JSONL or Parquet."""
    documents: Path | None = None
    """Texts of the file's document ids: tab-separated, JSONL or Parquet."""
    limit: int | None = Field(default=None, ge=1)
    """The first so many lists; null: all."""

    @field_validator("format")
    @classmethod
    def _known(cls, format: str) -> str:
        if format not in ("auto", *READERS):
            raise ValueError(f"expected auto, {', '.join(READERS)}, got {format!r}")
        return format

    @model_validator(mode="after")
    def _labels(self) -> ScoresConfig:
        if self.qrels is not None and self.teacher == "scores":
            raise ValueError("qrels: labels are read only with data.teacher=labels")
        return self

    def file_format(self) -> str:
        """The format that is named, or the one that the file is seen to have.

        Raises:
            UserError: no such file, or one of no known kind.
        """
        if self.format != "auto":
            return self.format
        return detect(self.scores, ids=self.queries is not None or self.documents is not None)

    def gives(self) -> Gives:
        """What a loss can take from the lists: labels are an order; else what lies beside the file, or ``read_as``.

        Raises:
            UserError: as ``file_format``.
        """
        if self.teacher == "labels":
            return "order"
        return recorded_gives(self.scores) or read_as(self.scores, self.file_format())


class RetrievalConfig(Section):
    """Retrieval before and after."""

    queries: Path
    """File of (id, text)."""
    documents: Path
    """File of (id, text)."""
    qrels: Path
    """Relevance judgements: TREC's, or tab-separated query, document, relevance."""


class EffectivenessConfig(RetrievalConfig):
    """Retrieval before and after, where documents have vectors, and re-ranking."""

    candidates: Path | None = None
    """A TREC run whose documents are re-ranked besides; null: none."""


class DistillConfig(Section):
    """What every distillation has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run's directory: letters, digits, ``.``, ``_``, ``-``."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of new weights, of the order of the data and of dropout."""
    output_dir: Path = Path("runs")
    """Where run directories lie."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, in the place of ``training.num_train_epochs``; null: by epochs."""
    save_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    training: dict[str, Any] = Field(default_factory=dict)
    """transformers' TrainingArguments by their own names; what the run sets itself is refused."""

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name


def check_loss(loss: RankingLoss) -> None:
    """ValueError for a loss that is of a policy's likelihoods: against a reference, or with an SFT term."""
    if loss.student_score == "log_ratio":
        raise ValueError(
            f"loss.student_score: log_ratio compares a policy with its reference, and a distilled student has none;"
            f" set loss.student_score=mean, or take another loss than {loss.name}"
        )
    if loss.sft > 0:
        raise ValueError(
            f"loss.name: {loss.name} (with its SFT term) is for policies; set loss.sft_weight=0, or take another loss"
        )


class ListDistillConfig(DistillConfig):
    """A teacher's scores of whole lists into a student."""

    student: StudentConfig
    """The model that learns."""
    data: ScoresConfig
    """The teacher's scores of whole lists."""
    evaluate: EffectivenessConfig | None = None
    """Retrieval, measured before and after; null: not measured."""
    loss: Loss = MarginMSE()
    """The ranking loss, by its ``name`` and its own keys."""
    leaf: LeafAuxiliary | None = None
    """LEAF's match of vectors beside the loss; null: none."""

    @model_validator(mode="after")
    def _possible(self) -> ListDistillConfig:
        check_loss(self.loss)
        if self.leaf is not None and self.student.kind not in ("dot", "cosine"):
            raise ValueError(f"leaf: a {self.student.kind} has no vector of a text to match; use dot or cosine")
        if self.student.split is not None and self.student.kind != "prettr":
            raise ValueError(f"student.split: only prettr splits, not {self.student.kind}")
        if self.evaluate is not None and self.evaluate.candidates is None and not self.student.has_vectors:
            raise ValueError(f"evaluate: a {self.student.kind} has no vectors to search; give evaluate.candidates")
        return self
