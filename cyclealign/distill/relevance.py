"""Relevance judgements of (query, document), and lists of a first-stage ranker labelled by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cyclealign.scores.score_list import Item, ScoreList, lines
from cyclealign.types import UserError

Judged = Mapping[str, Mapping[str, int]]


def read_judged(path: Path) -> dict[str, dict[str, int]]:
    """{query: {document: grade}} of relevant documents (grade above 0): three columns (query, document, grade; a header
    may stand first), or TREC's four (query 0 document grade).

    Raises:
        UserError: names file and line.
    """
    judged: dict[str, dict[str, int]] = {}
    for place, line in lines(path):
        fields = line.split()
        if len(fields) not in (3, 4):
            raise UserError(f"{place}: expected query, document, relevance, or TREC's four columns, got {len(fields)}")
        query, document, grade = fields[0], fields[-2], fields[-1]
        if grade.lstrip("-").isdigit():
            if int(grade) > 0:
                judged.setdefault(query, {})[document] = int(grade)
        elif not place.endswith(":1") or any(c.isdigit() for c in grade):  # no header
            raise UserError(f"{place}: expected a whole number as relevance, got {grade!r}")
    if not judged:
        raise UserError(f"{path}: judges no document relevant")
    return judged


def labelled(item: ScoreList, judged: Judged | None) -> ScoreList | None:
    """The list with labels as scores: the grade of a judged document, 1 of a known positive, 0 of all others.

    The best judged documents stand first, also those that the first stage missed. None where nothing is known to be
    relevant.
    """
    if judged is None:
        grades = (1.0,) * item.positives + (0.0,) * (len(item.documents) - item.positives)
        return replace(item, scores=grades) if item.positives else None
    relevant = judged.get(item.query.id)
    if relevant is None:
        return None
    found = {d.id for d in item.documents}
    documents = (*(Item(d) for d in relevant if d not in found), *item.documents)
    ordered = sorted(documents, key=lambda d: -relevant.get(d.id, 0))
    grades = tuple(float(relevant.get(d.id, 0)) for d in ordered)
    return replace(item, documents=tuple(ordered), scores=grades, positives=len(relevant))
