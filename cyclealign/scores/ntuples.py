"""sentence-transformers' n-tuples: a query and documents in columns, told by name, never by place alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclealign.files.rows import rows
from cyclealign.scores.score_list import Item, ScoreList, number, string_list, text
from cyclealign.types import UserError

LABELS = ("scores", "score", "labels", "label")
QUERIES = ("query", "anchor", "question", "sentence", "sentence1", "sentence_0")
# The known positive, and all that stands beside it; each may end in a number (negative_1) or be a list of texts.
POSITIVE = r"pos|positives?|positive_passages?|answers?|sentence2|sentence_1|response"
OTHER = (
    r"neg|(?:hard_?)?negatives?|negative_passages?|documents?|docs?|passages?|candidates?|contexts?|texts?|corpus"
    r"|sentence3|sentence_2"
)
_POSITIVE, _DOCUMENT = (
    re.compile(f"(?:{names})(?:_?[0-9]+)?", re.IGNORECASE) for names in (POSITIVE, f"{POSITIVE}|{OTHER}")
)
# Columns that say where a row is from, and are no text of it.
_ABOUT = re.compile(
    r"id|_id|.*_ids?|idx|index|source|dataset|subset|split|origin|domain|url|lang|language|category|task|task_type|type"
    r"|licen[cs]e|meta|metadata|date|timestamp|model|models|__index_level_0__",
    re.IGNORECASE,
)


def read_ntuples(path: Path) -> Iterator[ScoreList]:
    """Rows of a query and its documents, each a column or all in one list, with scores or margins where it has them.

    The query is the column named as ``QUERIES``, documents are those named as ``POSITIVE`` and ``OTHER``, in the order
    of the columns, which is that of the scores, too. The positive is put first; without one by name the first document
    is taken for it. Margins of it over the others become scores with its own at 0; a lone list of documents has a
    score for each. Columns that only say where a row is from are left out.

    Raises:
        UserError: names the place, and a column whose name says neither what it is nor that it is no document.
    """
    for place, row in rows(str(path)):
        label = next((c for c in LABELS if row.get(c) is not None), None)
        query, columns = _columns(row, place)
        documents = [
            (text(d, place, c), bool(_POSITIVE.fullmatch(c))) for c in columns for d in _texts(row[c], place, c)
        ]
        first = next((n for n, (_, positive) in enumerate(documents) if positive), 0)
        order = [first, *(n for n in range(len(documents)) if n != first)]
        # One number too few for a lone list is a score that was lost, not margins.
        listed = len(columns) == 1
        scores = None if label is None else _scores(row[label], order, place, margins=not listed)
        yield ScoreList(
            query=Item.of_text(text(row[query], place, query)),
            documents=tuple(Item.of_text(documents[n][0]) for n in order),
            scores=scores,
            positives=1,
            place=place,
        )


def _columns(row: Mapping[str, Any], place: str) -> tuple[str, list[str]]:
    """The column of the query and those of documents."""
    there = [c for c, value in row.items() if value is not None and c not in LABELS]
    queries = [c for c in there if c.lower() in QUERIES]
    documents = [c for c in there if _DOCUMENT.fullmatch(c)]
    strange = [c for c in there if c not in (*queries, *documents) and not _ABOUT.fullmatch(c)]
    if len(queries) != 1 or not documents:
        raise UserError(
            f"{place}: expected a query and documents: one column of {', '.join(QUERIES)}, and columns like positive,"
            f" negative_1 or documents; got the columns {', '.join(row)}"
        )
    if strange:
        raise UserError(
            f"{place}: column {strange[0]!r} may be a document or none; name documents positive, negative_1, ...,"
            " and take out what is none"
        )
    return queries[0], documents


def _texts(value: Any, place: str, column: str) -> list[Any]:
    return [value] if isinstance(value, str) else string_list(value, place, column)


def _scores(label: Any, order: Sequence[int], place: str, *, margins: bool) -> tuple[float, ...]:
    """Scores in the documents' new order; margins are of the first of them over the others in the old one."""
    values = [number(v, place) for v in (label if isinstance(label, list) else [label])]
    if margins and len(values) == len(order) - 1:
        return (0.0, *(-v for v in values))
    if len(values) != len(order):
        raise UserError(f"{place}: expected a score for each of {len(order)} documents, got {len(values)}")
    return tuple(values[n] for n in order)
