"""The passages of documents, and the ETM's scores of them, kept by the ids of their texts: none is made twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cyclealign.distill.idcm_config import IDCMStudentConfig
from cyclealign.distill.idcm_model import IDCM
from cyclealign.distill.windows import Window, shortened, windows
from cyclealign.scores.score_list import Item, ScoreList
from cyclealign.scores.store import ScoreStore, Teacher
from cyclealign.types import canonical_json

ROWS = 64  # pairs in one forward pass
SPECIAL = 3  # tokens that a pair has besides its texts


@dataclass(frozen=True)
class Splitter:
    """Queries and documents as an IDCM reads them."""

    config: IDCMStudentConfig
    tokenizer: Any

    @property
    def passage_tokens(self) -> int:
        """A little more than a window's: its ends are moved out to whole words."""
        return self.config.window + 2 * self.config.overlap + 8

    @property
    def pair_tokens(self) -> int:
        return self.config.max_query_tokens + self.passage_tokens + SPECIAL

    def query(self, text: str) -> str:
        return shortened(text, self.tokenizer, self.config.max_query_tokens)

    def passages(self, document: str) -> list[Window]:
        c = self.config
        return windows(document, self.tokenizer, size=c.window, overlap=c.overlap, most=c.max_document_tokens)


class EtmScores:
    """An id-keyed, append-only store of one ETM's passage scores (``score_store``); a killed run goes on in it."""

    def __init__(self, path: Path, model: IDCM, splitter: Splitter) -> None:
        """The cross-encoder's own content names it in the store. UserError as ``ScoreStore``."""
        self._store = ScoreStore(path)
        self._model = model
        self._splitter = splitter
        digest = content_digest(model)
        self._name = f"etm:{digest[:16]}"
        pair = {"pair_tokens": splitter.pair_tokens, "sha256": digest}
        self._store.add_teacher(Teacher(name=self._name, gives="magnitude", provenance=pair))

    def fill(self, pairs: Iterable[tuple[str, Sequence[str]]]) -> int:
        """Score the passages of each query that have no score yet; returns how many were scored now."""
        lists = [
            ScoreList(query=Item.of_text(query), documents=tuple(Item.of_text(p) for p in passages))
            for query, passages in pairs
        ]
        self._store.add_lists(lists)
        scored = 0
        for query, passages in self._store.unscored(self._name):
            texts = [self._store.text("document", p) for p in passages]
            scores = etm_scores(self._model, self._store.text("query", query), texts, self._splitter.pair_tokens)
            self._store.put(self._name, [(query, p, s) for p, s in zip(passages, scores, strict=True)])
            scored += len(passages)
        return scored

    def of(self, query: str, passages: Sequence[str]) -> list[float]:
        """Scores of texts that ``fill`` has seen. KeyError for others."""
        key = Item.of_text(query).id
        found = [self._store.score(self._name, key, Item.of_text(p).id) for p in passages]
        if any(score is None for score in found):
            raise KeyError(query)
        return [float(score) for score in found if score is not None]

    def close(self) -> None:
        self._store.close()


def content_digest(model: IDCM) -> str:
    """sha256 of the ETM's weights and vocabulary."""
    total = hashlib.sha256(canonical_json(model.tokenizer.get_vocab()).encode())
    for name, weight in sorted(model.cross_encoder.state_dict().items()):
        total.update(name.encode())
        total.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@torch.inference_mode()
def etm_scores(model: IDCM, query: str, passages: Sequence[str], most: int) -> list[float]:
    """The ETM's logits of one query's passages, in their order."""
    model.eval()
    found: list[float] = []
    for first in range(0, len(passages), ROWS):
        rows = passages[first : first + ROWS]
        found += model.etm_scores(model.pair_features([(query, p) for p in rows], most)).tolist()
    return found


@torch.inference_mode()
def esm_scores(model: IDCM, query: str, passages: Sequence[str], splitter: Splitter) -> list[float]:
    """The ESM's scores of one query's passages, in their order."""
    model.eval()
    if not passages:
        return []
    ids, mask = model.term_features([query], splitter.config.max_query_tokens)
    terms, there = model.term_features(passages, splitter.passage_tokens)
    n = len(passages)
    found: list[float] = model.esm_scores(ids.expand(n, -1), mask.expand(n, -1), terms, there).tolist()
    return found


@dataclass(frozen=True)
class Cascade:
    """A trained IDCM at work: the ESM chooses ``select`` passages of a document, the ETM scores them."""

    model: IDCM
    splitter: Splitter

    def score(self, query: str, document: str, *, select: int | None = None) -> float:
        """Score of a document, higher is better; ``select``: how many passages (None: the config's)."""
        chosen = self.chosen(query, document, select=select)
        if not chosen:
            return 0.0
        texts = [window.text for window in chosen]
        scores = torch.tensor([etm_scores(self.model, self.splitter.query(query), texts, self.splitter.pair_tokens)])
        with torch.no_grad():
            return float(self.model.document_scores(scores, torch.ones_like(scores, dtype=torch.bool))[0])

    def chosen(self, query: str, document: str, *, select: int | None = None) -> list[Window]:
        """The passages that go to the ETM, in the order of the ESM's scores; of equal scores the earlier first."""
        passages = self.splitter.passages(document)
        k = select or self.splitter.config.select
        if len(passages) <= k:
            return passages
        scores = esm_scores(self.model, self.splitter.query(query), [p.text for p in passages], self.splitter)
        order = sorted(range(len(passages)), key=lambda i: (-scores[i], i))
        return [passages[i] for i in order[:k]]
