"""Students on sentence-transformers: each kind's model, adapter, trainer and evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclealign.distill.adapters import CrossEncoderObjective, DenseObjective, ListObjective, MultiVectorObjective
from cyclealign.distill.config import RetrievalConfig, StudentConfig
from cyclealign.distill.ragged import RaggedCollator
from cyclealign.losses import RankingLoss
from cyclealign.score_formats.jsonl import read_texts
from cyclealign.score_formats.lists import tsv_rows
from cyclealign.types import UserError


@dataclass(frozen=True)
class Student:
    """A model that is ready to train: ``trainer`` and ``arguments`` are sentence-transformers' classes."""

    model: Any
    objective: ListObjective
    trainer: type
    arguments: type
    collator: RaggedCollator | None


def make_student(config: StudentConfig, loss: RankingLoss) -> Student:
    """UserError where the model cannot be loaded or cut."""
    import sentence_transformers as st

    scale: dict[str, Any] = {"scale": config.scale, "learn_scale": config.learn_scale}
    cut = (config.max_query_tokens, config.max_document_tokens)
    if config.kind == "cross_encoder":
        model = _loaded(st.CrossEncoder, config.model, num_labels=1, max_length=sum(cut))
        keep_layers(model, config.layers)
        objective: ListObjective = CrossEncoderObjective(model, loss, **scale)
        return Student(model, objective, st.CrossEncoderTrainer, st.CrossEncoderTrainingArguments, None)
    if config.kind == "colbert":
        model = _loaded(st.MultiVectorEncoder, config.model)
        keep_layers(model, config.layers)
        collator = RaggedCollator(model.preprocess, tasks=("query", "document"), max_tokens=cut)
        objective = MultiVectorObjective(model, loss, **scale)
        return Student(model, objective, st.MultiVectorEncoderTrainer, st.MultiVectorEncoderTrainingArguments, collator)
    model = _dense(config)
    objective = DenseObjective(model, loss, similarity=config.kind, **scale)
    collator = RaggedCollator(model.preprocess, max_tokens=cut)
    return Student(model, objective, st.SentenceTransformerTrainer, st.SentenceTransformerTrainingArguments, collator)


def retrieval(config: RetrievalConfig, student: Student, folder: Path) -> dict[str, float]:
    """MRR@10, nDCG@10 and recall@100 of retrieving from all documents by sentence-transformers' evaluator."""
    from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant: dict[str, set[str]] = {}
    for place, (query, document, relevance) in tsv_rows(config.qrels, (3,)):
        if relevance.lstrip("-").isdigit():  # else the header
            if int(relevance) > 0:
                relevant.setdefault(query, set()).add(document)
        elif not place.endswith(":1"):
            raise UserError(f"{place}: expected a whole number as relevance, got {relevance!r}")
    dense = isinstance(student.objective, DenseObjective)
    evaluator = (InformationRetrievalEvaluator if dense else MultiVectorInformationRetrievalEvaluator)(
        queries={key: text for key, text in read_texts(config.queries) if key in relevant},
        corpus=dict(read_texts(config.documents)),
        relevant_docs=relevant,
        precision_recall_at_k=[100],
        name="",
        write_csv=False,
    )
    found = evaluator(student.model, output_path=str(folder))
    wanted = ("mrr@10", "ndcg@10", "recall@100")
    return {name: float(v) for name in wanted for key, v in found.items() if key.endswith(name)}


def _dense(config: StudentConfig) -> Any:
    """A bi-encoder whose own similarity is the trained one; for the dot product, without a normalising module."""
    import sentence_transformers as st
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = _loaded(st.SentenceTransformer, config.model)
    modules = [m for m in model if config.kind == "cosine" or not isinstance(m, Normalize)]
    model = st.SentenceTransformer(modules=modules, similarity_fn_name=config.kind, device=str(model.device))
    model.max_seq_length = max(config.max_query_tokens, config.max_document_tokens)
    keep_layers(model, config.layers)
    return model


def keep_layers(model: Any, layers: int | None) -> None:
    """Cut an encoder after its first so many layers."""
    if layers is None:
        return
    inner = model[0].auto_model
    found = [m for name, m in inner.named_modules() if name.rpartition(".")[2] in ("layer", "layers") and len(m) > 0]
    if not found or len(found[0]) < layers:
        raise UserError(f"student.layers: the encoder has {len(found[0]) if found else 'no'} layers, got {layers}")
    del found[0][layers:]
    inner.config.num_hidden_layers = layers


def _loaded(load: Any, name: str, **options: Any) -> Any:
    import torch

    try:
        return load(name, device="cuda" if torch.cuda.is_available() else "cpu", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"student.model: cannot load {name!r}: {' '.join(str(error).split())[:200]}") from error
