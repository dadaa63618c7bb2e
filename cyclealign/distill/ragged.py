"""Lists of any length in one batch: all documents in one column, the labels padded with NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cyclealign.models.features import Features

ListRow = Mapping[str, Any]
"""A row of a data set, by column."""
LABEL_COLUMNS = ("label", "labels", "score", "scores")  # sentence-transformers' own


@dataclass(frozen=True)
class RaggedCollator:
    """Rows (query, documents, labels) to a batch of the dense or the multi-vector trainer.

    All documents become one tokenised column, list after list; the labels [B, longest] hold NaN where a list has ended.
    Rows (document, queries, labels) are lists the other way round.

    preprocess: ``model.preprocess``. prompts: prompt of a column by its name. tasks: of the query and the documents,
        for models that tell them apart (a Router, a multi-vector model: "query", "document"). max_tokens: of a query
        and of a document; None leaves it to the model.
    """

    preprocess: Callable[..., Features]
    prompts: Mapping[str, str] | None = None
    tasks: tuple[str | None, str | None] = (None, None)
    max_tokens: tuple[int, int] | None = None
    valid_label_columns: tuple[str, ...] = LABEL_COLUMNS

    def __call__(self, rows: Sequence[ListRow]) -> Features:
        label = next((c for c in self.valid_label_columns if c in rows[0]), None)
        columns = [c for c in rows[0] if c not in (label, "dataset_name")]
        if label is None or len(columns) != 2:
            raise ValueError(f"ragged rows: expected query, documents and labels, got {', '.join(rows[0])}")
        for row in rows:
            if len(row[columns[1]]) != len(row[label]):
                raise ValueError(
                    f"{label}: expected one for each document, {len(row[columns[1]])}, got {len(row[label])}"
                )
        texts = ([row[columns[0]] for row in rows], [text for row in rows for text in row[columns[1]]])
        batch: Features = {"label": padded_labels([torch.tensor(row[label]) for row in rows])}
        sides = (1, 0) if columns[0] == "document" else (0, 1)
        for side, column, column_texts in zip(sides, columns, texts, strict=True):
            task, prompt = self.tasks[side], (self.prompts or {}).get(column)
            cut = {} if self.max_tokens is None else {"max_length": self.max_tokens[side]}
            for key, value in self.preprocess(column_texts, prompt=prompt, task=task, **cut).items():
                batch[f"{column}_{key}"] = value
            if task is not None:
                batch[f"{column}_task"] = task
        return batch


def padded_labels(labels: Sequence[Tensor]) -> Float[Tensor, "B K"]:
    """Labels of lists of any length in one tensor, NaN behind their ends."""
    return pad_sequence([row.to(torch.float32) for row in labels], batch_first=True, padding_value=torch.nan)
