"""Loading, asking and timing the students of ``margin_mse.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer

from cyclealign.distill.effectiveness import Run, reranked
from cyclealign.models.cross_encoders import load_cross_encoder
from cyclealign.models.pair_model import PairModel

TIMED = 20  # queries


def load(student: str, folder: Path) -> Any:
    """The trained student on the CPU."""
    loader = {"dot": SentenceTransformer, "colbert": MultiVectorEncoder}.get(student, load_cross_encoder)
    return loader(str(folder), device="cpu")


def answers(model: Any, data: Mapping[str, Any], candidates: Mapping[str, list[str]]) -> dict[str, Run]:
    """Scores of each query's candidates (``rerank``) and, with vectors, of the ten best documents (``retrieve``)."""
    queries, documents = data["queries"], data["documents"]
    if isinstance(model, CrossEncoder):
        return {"rerank": reranked(model, queries, documents, candidates)}
    vectors = model.encode_document(list(documents.values()), show_progress_bar=False)
    places = {name: n for n, name in enumerate(documents)}
    names = list(documents)
    found: dict[str, Run] = {"rerank": {}, "retrieve": {}}
    for key, query in zip(queries, model.encode_query(list(queries.values()), show_progress_bar=False), strict=True):
        scores = torch.as_tensor(model.similarity(query[None], vectors))[0]
        best = scores.topk(min(10, len(names)))
        found["rerank"][key] = {name: float(scores[places[name]]) for name in candidates[key]}
        found["retrieve"][key] = {names[n]: float(s) for n, s in zip(best.indices, best.values, strict=True)}
    return found


@torch.inference_mode()
def milliseconds(model: Any, data: Mapping[str, Any], candidates: Mapping[str, list[str]]) -> float:
    """Median processor time to re-rank one query's candidates; what does not depend on the query is there before."""
    times = []
    for query in list(candidates)[:TIMED]:
        texts = [data["documents"][d] for d in candidates[query]]
        answer = prepared_ranker(model, texts)
        begun = time.process_time()  # what else runs on the machine has no say
        answer(data["queries"][query])
        times.append(1000 * (time.process_time() - begun))
    return median(times)


def prepared_ranker(model: Any, texts: Sequence[str]) -> Callable[[str], Any]:
    """Scores of these documents for a query, with the documents' own vectors made beforehand."""
    if not isinstance(model, CrossEncoder):
        vectors = model.encode_document(list(texts), show_progress_bar=False)
        return lambda query: model.similarity(model.encode_query([query], show_progress_bar=False), vectors)
    module = model[0]
    if not isinstance(module, PairModel):
        return lambda query: model.predict([(query, text) for text in texts], show_progress_bar=False)
    held = module.represent(**module.tokenised(texts, "document"), side="document")

    def answer(query: str) -> Any:
        vectors, mask = module.represent(**module.tokenised([query], "query"), side="query")
        return module.join((vectors.expand(len(texts), -1, -1), mask.expand(len(texts), -1)), held)

    return answer
