"""Two small retrieval collections with BM25 candidates, for the evals of rankers: SciFact and the English XQuAD."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclealign.files.rows import rows

K1, B = 0.9, 0.4
WORD = re.compile(r"[a-z0-9]+")
Relevant = dict[str, set[str]]


@dataclass(frozen=True)
class Collection:
    """Texts by id; ids of all relevant documents of each query, split for training and for testing."""

    documents: dict[str, str]
    queries: dict[str, str]
    train: Relevant
    test: Relevant


class BM25:
    """Okapi BM25 over lower-cased alphanumeric words, without stemming; idf log(1 + (N - n + 0.5) / (n + 0.5))."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self.ids = list(documents)
        counts = [Counter(WORD.findall(text.lower())) for text in documents.values()]
        lengths = np.array([sum(c.values()) for c in counts], dtype=np.float64)
        norms = K1 * (1 - B + B * lengths / lengths.mean())
        postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for n, found in enumerate(counts):
            for word, times in found.items():
                postings[word].append((n, times / (times + norms[n])))
        self.postings = {
            word: (np.array([n for n, _ in held]), self._idf(len(held)) * np.array([share for _, share in held]))
            for word, held in postings.items()
        }

    def _idf(self, holding: int) -> float:
        return float(np.log(1 + (len(self.ids) - holding + 0.5) / (holding + 0.5)))

    def top(self, query: str, k: int) -> dict[str, float]:
        """The k best documents with their scores, best first."""
        scores = np.zeros(len(self.ids))
        for word in WORD.findall(query.lower()):
            if word in self.postings:
                places, weights = self.postings[word]
                scores[places] += weights
        return {self.ids[n]: float(scores[n]) for n in np.argsort(-scores, kind="stable")[:k]}


def read_scifact(data: Path) -> Collection:
    """Abstracts with their titles; the development claims are the test."""
    folder = data / "scifact"
    documents = {
        str(r["doc_id"]): f"{r['title']}. {' '.join(r['abstract'])}" for r in _rows(folder / "corpus.jsonl.gz")
    }
    claims = {split: list(_rows(folder / f"claims_{split}.jsonl.gz")) for split in ("train", "dev")}
    train, test = (
        {str(r["query_id"]): {str(d) for d in r["cited_doc_ids"]} & documents.keys() for r in claims[split]}
        for split in ("train", "dev")
    )
    return Collection(documents, {str(r["query_id"]): r["claim"] for c in claims.values() for r in c}, train, test)


def read_xquad(data: Path) -> Collection:
    """Paragraphs with their titles; every other article's questions, by title, are the test."""
    passages = list(_rows(data / "xquad_en" / "passages.jsonl.gz"))
    questions = list(_rows(data / "xquad_en" / "questions.jsonl.gz"))
    titles = {str(r["passage_id"]): r["title"] for r in passages}
    tested = set(sorted(set(titles.values()))[1::2])
    relevant = {str(r["query_id"]): {str(r["passage_id"])} for r in questions}
    sides: tuple[Relevant, Relevant] = ({}, {})
    for query, found in relevant.items():
        sides[titles[next(iter(found))] in tested][query] = found
    documents = {str(r["passage_id"]): f"{r['title'].replace('_', ' ')}. {r['text']}" for r in passages}
    return Collection(documents, {str(r["query_id"]): r["question"] for r in questions}, *sides)


READERS = {"scifact": read_scifact, "xquad_en": read_xquad}


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    return (row for _, row in rows(str(path)))
