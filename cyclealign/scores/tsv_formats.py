"""Tab-separated score files: Margin-MSE's and matchmaker's, and TREC runs. No header."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from cyclealign.scores.score_list import Item, ScoreList, lines, number, one_line, tsv_rows
from cyclealign.types import UserError

RUN_TAG = "cyclealign"


def read_margin_mse(path: Path) -> Iterator[ScoreList]:
    """pos_score, neg_score, query id, positive's id, negative's id (the files of Hofstätter et al. 2020)."""
    for place, (pos, neg, query, *documents) in tsv_rows(path, (5,)):
        yield ScoreList(
            query=Item(query),
            documents=tuple(map(Item, documents)),
            scores=(number(pos, place), number(neg, place)),
            positives=1,
            place=place,
        )


def read_margin_mse_text(path: Path) -> Iterator[ScoreList]:
    """The same with texts for ids (matchmaker's distillation format); two columns of chunks' scores are dropped."""
    for place, (pos, neg, query, positive, negative, *_) in tsv_rows(path, (5, 7)):
        yield ScoreList(
            query=Item.of_text(query),
            documents=(Item.of_text(positive), Item.of_text(negative)),
            scores=(number(pos, place), number(neg, place)),
            positives=1,
            place=place,
        )


def read_triples(path: Path) -> Iterator[ScoreList]:
    """Query, positive, negative: texts, no scores (matchmaker's standalone format)."""
    for place, (query, *documents) in tsv_rows(path, (3,)):
        yield ScoreList(
            query=Item.of_text(query), documents=tuple(map(Item.of_text, documents)), positives=1, place=place
        )


def read_rerank(path: Path) -> Iterator[ScoreList]:
    """Query id, document id, query text, document text: candidates to re-rank; lines of one query follow each other."""
    for (query, text), group in itertools.groupby(tsv_rows(path, (4,)), key=lambda line: (line[1][0], line[1][2])):
        rows = list(group)
        documents = tuple(Item(row[1], row[3]) for _, row in rows)
        yield ScoreList(query=Item(query, text), documents=documents, place=rows[0][0])


def read_trec(path: Path) -> Iterator[ScoreList]:
    """A TREC run of six columns, or three (query, document, score); lines of one query follow each other."""
    for query, group in itertools.groupby(_run_lines(path), key=lambda line: line[1]):
        rows = list(group)
        yield ScoreList(
            query=Item(query),
            documents=tuple(Item(document) for _, _, document, _ in rows),
            scores=tuple(score for *_, score in rows),
            place=rows[0][0],
        )


def _run_lines(path: Path) -> Iterator[tuple[str, str, str, float]]:
    for place, line in lines(path):
        fields = line.split()
        if len(fields) not in (3, 6):
            raise UserError(f"{place}: expected 6 columns (qid Q0 docid rank score tag) or 3, got {len(fields)}")
        document, score = (fields[2], fields[4]) if len(fields) == 6 else (fields[1], fields[2])
        yield place, fields[0], document, number(score, place)


def margin_mse_lines(lists: Iterable[ScoreList], *, texts: bool) -> Iterator[str]:
    """One line for each known positive with each other document.

    Raises:
        UserError: a list without a known positive, or (``texts``) a text that is not known.
    """
    for item in lists:
        if not 0 < item.positives < len(item.documents):
            raise UserError(f"{item.place}: Margin-MSE lines need a known positive and another document in each list")
        scored = list(zip(item.documents, item.scores or (), strict=True))
        for (pos, pos_score), (neg, neg_score) in itertools.product(scored[: item.positives], scored[item.positives :]):
            names = [one_line(i.text or "") if texts else i.id for i in (item.query, pos, neg)]
            if not all(names):
                raise UserError(f"{item.place}: a text is missing; write the ids: margin_mse:PATH")
            yield "\t".join([repr(pos_score), repr(neg_score), *names]) + "\n"


def trec_lines(lists: Iterable[ScoreList]) -> Iterator[str]:
    """A TREC run, best first; of equal scores the earlier document first."""
    for item in lists:
        scored = sorted(zip(item.scores or (), item.documents, strict=True), key=lambda pair: -pair[0])
        for rank, (score, document) in enumerate(scored, start=1):
            yield f"{item.query.id} Q0 {document.id} {rank} {score!r} {RUN_TAG}\n"
