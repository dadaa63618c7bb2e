"""What is left of the teacher's retrieval: by student, by both together, at prefix widths and low precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from cyclealign.distill.relevance import read_judged
from cyclealign.evaluation.retrieval import measured
from cyclealign.scores.jsonl_formats import texts_by_id
from cyclealign.types import UserError

Precision = Literal["float32", "int8", "binary"]
Vectors = Float[ndarray, "N D"]
QUERIES_TIMED = 32


@dataclass(frozen=True)
class Collection:
    """Judged queries, all documents, and the grades {query: {document: relevance}} of the relevant ones."""

    queries: dict[str, str]
    documents: dict[str, str]
    grades: dict[str, dict[str, float]]


@dataclass(frozen=True)
class System:
    """A way to retrieve: vectors of the queries and of the documents, in the collection's order."""

    queries: Vectors
    documents: Vectors


def read_collection(queries: Path, documents: Path, qrels: Path) -> Collection:
    """UserError where a file cannot be read, or no judged query has a text."""
    grades, known = read_judged(qrels), texts_by_id(queries)
    judged = {q: known[q] for q in grades if q in known}
    if not judged:
        raise UserError(f"{qrels}: judges no query of {queries} as having a relevant document")
    return Collection(judged, texts_by_id(documents), {q: grades[q] for q in judged})


def ndcg(
    system: System, collection: Collection, *, precision: Precision = "float32", ranges: Vectors | None = None
) -> dict[str, float]:
    """nDCG@10 of each judged query by exact search.

    ranges: least and greatest value of each dimension [2, D], for int8: of the teacher's documents, also where the
    vectors are a student's.
    """
    from sentence_transformers.util import dot_score, semantic_search

    queries, documents = (at_precision(v, precision, ranges) for v in (system.queries, system.documents))
    hits = semantic_search(queries, documents, top_k=10, score_function=dot_score)
    ids = list(collection.documents)
    run = {
        query: {ids[hit["corpus_id"]]: float(hit["score"]) for hit in found}
        for query, found in zip(collection.queries, hits, strict=True)
    }
    values = measured(collection.grades, run, ["nDCG@10"])["nDCG@10"]
    return {query: values[query] for query in collection.queries}


def at_precision(vectors: Vectors, precision: Precision, ranges: Vectors | None = None) -> Vectors:
    """What the codes of sentence-transformers' quantisation stand for, as float32.

    int8 codes count steps from the least value of their dimension: their own dot product would weigh dimensions by
    the width of their range and add what depends on the query alone and on the document alone, and can turn an order
    round. So they are read back first, as the middle of their step. Binary: -1 or 1; the dot product is then D minus
    twice the Hamming distance.
    """
    from sentence_transformers.util.quantization import quantize_embeddings

    if precision == "float32":
        return vectors
    if precision == "binary":
        bits = np.unpackbits(np.asarray(quantize_embeddings(vectors, "ubinary")), axis=1, count=vectors.shape[1])
        return np.asarray(bits.astype(np.float32) * 2 - 1)
    if ranges is None:
        raise ValueError("ranges: int8 needs the least and greatest value of each dimension")
    codes = np.asarray(quantize_embeddings(vectors, "int8", ranges=ranges)).astype(np.float32)
    return np.asarray(ranges[0] + (codes + 128.5) * (ranges[1] - ranges[0]) / 255, dtype=np.float32)


def prefix(vectors: Vectors, width: int, *, unit: bool) -> Vectors:
    """The first ``width`` dimensions, at length 1 again where ``unit`` (retrieval by cosine)."""
    cut = vectors[:, :width]
    return unit_rows(cut) if unit else np.asarray(cut)


def unit_rows(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def ranges_of(documents: Vectors) -> Float[ndarray, "2 D"]:
    """Least and greatest value of each dimension: what int8 codes are calibrated by."""
    return np.stack([documents.min(axis=0), documents.max(axis=0)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """By system and setting (``float32``, ``width 64``, ...): mean nDCG@10, and its share of the teacher's at the same.

    ``by_query``: nDCG@10 of each query in float32, by system.
    """

    ndcg10: Mapping[str, Mapping[str, float]]
    retention: Mapping[str, Mapping[str, float | None]]
    by_query: Mapping[str, Mapping[str, float]]


def retention(
    systems: Mapping[str, System], collection: Collection, *, widths: Sequence[int], ranges: Vectors, unit: bool
) -> Retention:
    """nDCG@10 of every system, whole, at each width and precision, and its share of the teacher's at the same one.

    systems: ``teacher`` and others. unit: vectors are compared by their cosine.
    """
    if unit:
        systems = {n: System(unit_rows(s.queries), unit_rows(s.documents)) for n, s in systems.items()}
    curves: dict[str, dict[str, dict[str, float]]] = {}
    for name, system in systems.items():
        at = {"float32": ndcg(system, collection)}
        for width in widths:
            cut = System(*(prefix(v, width, unit=unit) for v in (system.queries, system.documents)))
            at[f"width {width}"] = ndcg(cut, collection)
        for precision in ("int8", "binary"):
            at[precision] = ndcg(system, collection, precision=precision, ranges=ranges)
        curves[name] = at
    means = {n: {k: float(np.mean(list(v.values()))) for k, v in at.items()} for n, at in curves.items()}
    shares = {
        n: {k: v / means["teacher"][k] if means["teacher"][k] else None for k, v in at.items()}
        for n, at in means.items()
        if n != "teacher"
    }
    return Retention(ndcg10=means, retention=shares, by_query={n: at["float32"] for n, at in curves.items()})


def mean_cosine(first: Vectors, second: Vectors) -> float:
    return float((unit_rows(first) * unit_rows(second)).sum(axis=1).mean())


def queries_per_second(encoders: Mapping[str, Callable[..., Any]], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """The best of three rounds in which the encoders take turns, one query at a time and in batches of 32."""
    texts = list(texts)[:QUERIES_TIMED]
    found: dict[str, dict[str, float]] = {}
    for batch in (1, 32):
        best = dict.fromkeys(encoders, float("inf"))
        for _ in range(3):
            for name, encode in encoders.items():
                began = time.perf_counter()
                encode(texts, batch_size=batch, show_progress_bar=False)
                best[name] = min(best[name], time.perf_counter() - began)
        found[f"batch {batch}"] = {name: len(texts) / seconds for name, seconds in best.items()}
    return found
