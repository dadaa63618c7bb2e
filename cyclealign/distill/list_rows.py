"""Rows of a list distiller from score files: what a loss can take, texts for ids, labels for scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from cyclealign.distill.config import ScoresConfig
from cyclealign.distill.relevance import labelled, read_judged
from cyclealign.losses import RankingLoss, feeds, tier_levels, unfed
from cyclealign.scores.formats import READERS
from cyclealign.scores.jsonl_formats import texts_by_id
from cyclealign.scores.score_list import Item, ScoreList
from cyclealign.types import UserError

Rows = dict[str, list[Any]]


def ranked_rows(data: ScoresConfig, loss: RankingLoss) -> Rows:
    """``training_rows`` for a loss; for one that needs levels, levels in the place of scores.

    Equal scores are one level, the highest ones level 0, as in the cycle.

    Raises:
        UserError: scores that cannot feed the loss; as ``training_rows``.
    """
    check_feeds(data, loss)
    rows = training_rows(data)
    if loss.needs == "levels":
        every = [torch.tensor([scores], dtype=torch.float64) for scores in rows["scores"]]
        rows["scores"] = [
            tier_levels(scores, torch.ones_like(scores, dtype=torch.bool))[0].tolist() for scores in every
        ]
    return rows


def check_feeds(data: ScoresConfig, loss: RankingLoss) -> None:
    """Refuse a loss that needs more than the file gives.

    Raises:
        UserError: naming the losses that it can feed.
    """
    gives = data.gives()
    if not feeds(gives, loss.needs):
        raise UserError(unfed(loss, gives, str(data.scores)))


def training_rows(data: ScoresConfig) -> Rows:
    """Columns query, documents and scores (or labels) of all lists with at least two scored documents.

    Raises:
        UserError: no scores, no texts, or no such list.
    """
    found = _first((item for item in scored_lists(data) if len(item.documents) >= 2), data, "of two scored documents")
    return {**_texts(found), "scores": [list(item.scores or ()) for item in found]}


def mined_rows(data: ScoresConfig) -> Rows:
    """The same for CPRD: the query's positive first, then its mined negatives; further known positives are left out.

    A lone positive is a row too: it has its part in InfoNCE.

    Raises:
        UserError: no scores, no texts, or a file that does not say which document is the positive.
    """
    found = _first(map(_mined, scored_lists(data)), data, "with a known positive")
    return {**_texts(found), "scores": [list(item.scores or ()) for item in found]}


def text_rows(data: ScoresConfig) -> Rows:
    """Columns query and documents of all lists, scored or not.

    Raises:
        UserError: no texts, or no list.
    """
    return _texts(_first(_told(READERS[data.file_format()](data.scores), data), data, "of documents"))


def scored_lists(data: ScoresConfig) -> Iterator[ScoreList]:
    """The file's lists with texts and scores, or labels where they are asked for."""
    found = READERS[data.file_format()](data.scores)
    if data.teacher == "labels":
        judged = read_judged(data.qrels) if data.qrels is not None else None
        found = (known for item in found if (known := labelled(item, judged)) is not None)
    for item in _told(found, data):
        if item.scores is None:
            raise UserError(f"{item.place}: there are no scores; make them with cyclealign score")
        yield item


def _first(lists: Iterator[ScoreList], data: ScoresConfig, kind: str) -> list[ScoreList]:
    """As many as ``data.limit`` allows; UserError where there is none of the kind."""
    found = list(islice(lists, data.limit))
    if not found:
        raise UserError(f"{data.scores}: holds no list {kind}")
    return found


def _texts(lists: Sequence[ScoreList]) -> Rows:
    return {
        "query": [item.query.text for item in lists],
        "documents": [[d.text for d in item.documents] for item in lists],
    }


def _mined(item: ScoreList) -> ScoreList:
    """The list without its further positives; UserError where none is known."""
    if item.positives == 0:
        raise UserError(
            f"{item.place}: which document is the query's positive is not known; bge, ntuples, margin_mse and"
            " triples say it, or qrels do with data.teacher=labels"
        )
    kept = [0, *range(item.positives, len(item.documents))]
    scores = None if item.scores is None else tuple(item.scores[n] for n in kept)
    return replace(item, documents=tuple(item.documents[n] for n in kept), scores=scores, positives=1)


def _told(lists: Iterator[ScoreList], data: ScoresConfig) -> Iterator[ScoreList]:
    """The lists with the texts of their ids."""
    queries = texts_by_id(data.queries) if data.queries else {}
    documents = texts_by_id(data.documents) if data.documents else {}

    def told(entry: Item, texts: dict[str, str], place: str) -> Item:
        text = entry.text or texts.get(entry.id)
        if text is None:
            raise UserError(f"{place}: no text for {entry.id!r}; give data.queries and data.documents")
        return Item(entry.id, text)

    for item in lists:
        found = tuple(told(d, documents, item.place) for d in item.documents)
        yield replace(item, query=told(item.query, queries, item.place), documents=found)
