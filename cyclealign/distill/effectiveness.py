"""How well a student finds and re-ranks: dense retrieval by sentence-transformers' evaluators, re-ranking of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from cyclealign.config.extras import require_extra
from cyclealign.distill.adapters import CrossEncoderObjective, DenseObjective
from cyclealign.distill.config import EffectivenessConfig
from cyclealign.distill.relevance import Judged, read_judged
from cyclealign.distill.students import Student
from cyclealign.evaluation.retrieval import measured
from cyclealign.files.trec import run_lists
from cyclealign.rankers.encoders import cross_scores, vector_scores
from cyclealign.scores.jsonl_formats import texts_by_id
from cyclealign.types import UserError

Run = dict[str, dict[str, float]]


def effectiveness(config: EffectivenessConfig, student: Student, folder: Path) -> dict[str, float]:
    """MRR@10, nDCG@10 and recall@100 of retrieving from all documents, where documents have vectors; MRR@10 and nDCG@10
    of re-ranking the candidates, where there are some (``rerank_mrr@10``, ``rerank_ndcg@10``)."""
    judged = read_judged(config.qrels)
    queries, documents = texts_by_id(config.queries), texts_by_id(config.documents)
    found: dict[str, float] = {}
    if config.candidates is not None:
        require_extra("ir_measures", "eval", "evaluate.candidates")
    if not isinstance(student.objective, CrossEncoderObjective):
        found |= _retrieved(student, queries, documents, judged, folder)
    if config.candidates is not None:
        candidates: dict[str, list[str]] = {}
        for item in run_lists(config.candidates):
            if item.query in judged:
                candidates[item.query] = list(item.scores)
        found |= _reranked(judged, reranked(student.model, queries, documents, candidates))
    return found


def reranked(
    model: Any, queries: Mapping[str, str], documents: Mapping[str, str], candidates: Mapping[str, list[str]]
) -> Run:
    """Scores of each query's candidates by any model of sentence-transformers: {query: {document: score}}.

    Raises:
        UserError: a candidate or a query without text.
    """
    names = [(query, document) for query, found in candidates.items() for document in found]
    missing = [d for _, d in names if d not in documents] or [q for q in candidates if q not in queries]
    if missing:
        raise UserError(f"candidates: no text for {missing[0]!r}")
    pairs = [(queries[query], documents[document]) for query, document in names]
    scores = cross_scores(model, pairs) if hasattr(model, "predict") else vector_scores(model, pairs)
    run: Run = {query: {} for query in candidates}
    for (query, document), score in zip(names, scores, strict=True):
        run[query][document] = score
    return run


def _reranked(judged: Judged, run: Run) -> dict[str, float]:
    """A judged query without candidates counts 0."""
    values = measured(judged, run, ("RR@10", "nDCG@10"))
    names = {"rerank_mrr@10": "RR@10", "rerank_ndcg@10": "nDCG@10"}
    return {name: fmean(values[measure].values()) for name, measure in names.items()}


def _retrieved(
    student: Student, queries: Mapping[str, str], documents: Mapping[str, str], judged: Judged, folder: Path
) -> dict[str, float]:
    from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    dense = isinstance(student.objective, DenseObjective)
    evaluator = (InformationRetrievalEvaluator if dense else MultiVectorInformationRetrievalEvaluator)(
        queries={key: text for key, text in queries.items() if key in judged},
        corpus=dict(documents),
        relevant_docs={query: set(relevant) for query, relevant in judged.items()},
        precision_recall_at_k=[100],
        name="",
        write_csv=False,
    )
    found = evaluator(student.model, output_path=str(folder))
    wanted = ("mrr@10", "ndcg@10", "recall@100")
    return {name: float(v) for name in wanted for key, v in found.items() if key.endswith(name)}
