"""Tab-separated score files: Margin-MSE's and matchmaker's, and TREC runs. No header."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from cyclealign.files.trec import best_first, finite, run_lists
from cyclealign.scores.score_list import Item, ScoreList, identity, number, one_line, tsv_rows
from cyclealign.types import UserError

RUN_TAG = "cyclealign"


def read_margin_mse(path: Path) -> Iterator[ScoreList]:
    """pos_score, neg_score, query id, positive's id, negative's id (the files of Hofstätter et al. 2020)."""
    for place, (pos, neg, query, *documents) in tsv_rows(path, (5,)):
        yield ScoreList(
            query=Item(identity(query, place)),
            documents=tuple(Item(identity(d, place)) for d in documents),
            scores=(number(pos, place), number(neg, place)),
            positives=1,
            place=place,
        )


def read_margin_mse_text(path: Path) -> Iterator[ScoreList]:
    """The same with texts for ids (matchmaker's distillation format); two columns of chunks' scores are dropped.

    Seven columns of which the last two are no lists of numbers are five with tabs inside a text: refused.
    """
    for place, (pos, neg, query, positive, negative, *chunks) in tsv_rows(path, (5, 7)):
        if not all(map(_numbers, chunks)):
            raise UserError(
                f"{place}: expected two columns of chunks' scores at the end of seven, got {chunks[-1][:40]!r}; a text"
                " may hold no tab"
            )
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
    lines, seen = tsv_rows(path, (4,)), set[str]()
    for (query, text), group in itertools.groupby(lines, key=lambda line: (line[1][0], line[1][2])):
        rows = list(group)
        place = rows[0][0]
        if query in seen:
            raise UserError(f"{place}: query {query} came before; put its lines together (sort by the first column)")
        seen.add(query)
        documents = tuple(Item(identity(row[1], at), row[3]) for at, row in rows)
        yield ScoreList(query=Item(identity(query, place), text), documents=documents, place=place)


def read_trec(path: Path) -> Iterator[ScoreList]:
    """A TREC run, as ``cyclealign.files.trec`` reads them: each query is one list."""
    for item in run_lists(path):
        documents = tuple(map(Item, item.scores))
        yield ScoreList(
            query=Item(item.query), documents=documents, scores=tuple(item.scores.values()), place=item.place
        )


def _numbers(column: str) -> bool:
    """Whether a column holds numbers: one, or several between spaces, commas or brackets."""
    found = column.strip("[] ").replace(",", " ").split()
    return bool(found) and all(finite(value) is not None for value in found)


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
    """A TREC run, best first (of equal scores as ``best_first`` has it); a query of several lists is written once, with
    the first score of each document."""
    runs: dict[str, dict[str, float]] = {}
    for item in lists:
        run = runs.setdefault(_written_id(item.query.id, item.place), {})
        for entry, score in zip(item.documents, item.scores or (), strict=True):
            run.setdefault(_written_id(entry.id, item.place), score)
    for query, scores in runs.items():
        for rank, document in enumerate(best_first(scores), start=1):
            yield f"{query} Q0 {document} {rank} {scores[document]!r} {RUN_TAG}\n"


def _written_id(value: str, place: str) -> str:
    """An id that a run can hold."""
    if not value or any(c.isspace() for c in value):
        raise UserError(f"{place}: the id {value[:40]!r} has spaces, which no TREC run can hold; write ntuples")
    return value
