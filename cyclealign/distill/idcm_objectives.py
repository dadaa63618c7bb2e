"""What IDCM's stages train: collators that tokenise, modules that give transformers' Trainer a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cyclealign.distill.idcm_config import IDCMConfig
from cyclealign.distill.idcm_model import IDCM
from cyclealign.distill.idcm_passages import Splitter
from cyclealign.distill.ragged import ListRow
from cyclealign.distill.run import training_arguments
from cyclealign.losses import RankedScores, RankingLoss
from cyclealign.models.features import Features

Rows = Sequence[ListRow]
Collator = Callable[[Rows], Features]


class DocumentObjective(nn.Module):
    """A ranking loss on document scores: of the ETM's passage scores the best, weighted; ``whole``: a document is one
    passage, and its score the ETM's."""

    def __init__(self, model: IDCM, loss: RankingLoss, *, whole: bool) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.whole = whole
        for parameter in model.esm.parameters():
            parameter.requires_grad_(False)
        model.top_weights.requires_grad_(not whole)

    def forward(self, pairs: dict[str, Tensor], there: Tensor, labels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """``pairs``: all passages of all documents, tokenised; ``there`` [B * K, P]: which of them exist, in order."""
        scores = self.model.etm_scores(pairs)
        passages = scores.new_zeros(there.shape).masked_scatter(there, scores)
        documents = passages[:, 0] if self.whole else self.model.document_scores(passages, there)
        student = documents.reshape(valid.shape)
        return {"loss": self.loss(RankedScores(student=student, teacher=labels, valid=valid)).loss}


class SelectionObjective(nn.Module):
    """A ranking loss on the ESM's scores of a document's passages; the ETM is frozen."""

    def __init__(self, model: IDCM, loss: RankingLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in model.esm.parameters():
            parameter.requires_grad_(True)

    def forward(
        self, query: Tensor, query_mask: Tensor, passage: Tensor, passage_mask: Tensor, labels: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Aligned token ids of the N passages that exist; ``labels`` and ``valid`` [B, P]."""
        scores = self.model.esm_scores(query, query_mask, passage, passage_mask)
        student = scores.new_zeros(valid.shape).masked_scatter(valid, scores)
        return {"loss": self.loss(RankedScores(student=student, teacher=labels, valid=valid)).loss}


def document_collator(model: IDCM, splitter: Splitter, *, whole: bool) -> Collator:
    """Lists of query, documents and scores."""

    def collate(rows: Rows) -> Features:
        k = max(len(row["documents"]) for row in rows)
        pairs: list[tuple[str, str]] = []
        counts = []
        for row in rows:
            query = splitter.query(row["query"])
            for document in row["documents"]:
                passages = [document] if whole else [w.text for w in splitter.passages(document)]
                pairs += [(query, p) for p in passages]
                counts.append(len(passages))
            counts += [0] * (k - len(row["documents"]))
        there = torch.arange(max(1, *counts))[None, :] < torch.tensor(counts)[:, None]
        labels, valid = _padded([row["scores"] for row in rows], k)
        # A document without a word has no score to train. A batch of such alone still takes a pass through the model,
        # whose score no list reads: every process has then a gradient, of zero, to share.
        features = _on_cpu(model.pair_features(pairs or [("", "")], splitter.pair_tokens))
        return {"pairs": features, "there": there, "labels": labels, "valid": valid & there[:, 0].reshape(valid.shape)}

    return collate


def selection_collator(model: IDCM, splitter: Splitter) -> Collator:
    """Lists of query, passages and the ETM's scores."""

    def collate(rows: Rows) -> Features:
        ids, mask = model.term_features([row["query"] for row in rows], splitter.config.max_query_tokens)
        counts = torch.tensor([len(row["passages"]) for row in rows], device=ids.device)
        texts = [text for row in rows for text in row["passages"]]
        passage, passage_mask = model.term_features(texts, splitter.passage_tokens)
        labels, valid = _padded([row["scores"] for row in rows], int(counts.max()))
        owners = {"query": ids.repeat_interleave(counts, 0), "query_mask": mask.repeat_interleave(counts, 0)}
        terms = _on_cpu({**owners, "passage": passage, "passage_mask": passage_mask})
        return {**terms, "labels": labels, "valid": valid}

    return collate


def _padded(values: Sequence[Sequence[float]], k: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(v) for v in values])
    found = pad_sequence([torch.tensor(v, dtype=torch.float32) for v in values], batch_first=True)
    return found, torch.arange(k)[None, :] < lengths[:, None]


def _on_cpu(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trainer moves batches by itself."""
    return {name: value.cpu() for name, value in features.items()}


def stage_trainer(
    config: IDCMConfig, folder: str, objective: nn.Module, rows: Mapping[str, Sequence[object]], collate: Any
) -> Any:
    """transformers' Trainer with the optimizer of ``training``; the weights of the best scores learn 100 times as fast
    as the rest (7e-4 and 7e-6)."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        **training_arguments(config, folder, remove_unused_columns=False, dataloader_num_workers=0)
    )
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, objective)
    rate, decay = arguments.learning_rate, arguments.weight_decay
    named = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if not name.endswith("top_weights")], "lr": rate, "weight_decay": decay},
        {"params": [p for name, p in named if name.endswith("top_weights")], "lr": 100 * rate, "weight_decay": decay},
    ]
    optimizer = kind([g for g in groups if g["params"]], **options)
    return Trainer(
        model=objective,
        args=arguments,
        train_dataset=Dataset.from_dict(dict(rows)),
        data_collator=collate,
        optimizers=(optimizer, None),
    )
