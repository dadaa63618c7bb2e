"""Relevance judgements of (query, document), and lists of a first-stage ranker labelled by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cyclealign.files.trec import read_qrels
from cyclealign.scores.score_list import Item, ScoreList
from cyclealign.types import UserError

Judged = Mapping[str, Mapping[str, float]]


def read_judged(path: Path) -> dict[str, dict[str, float]]:
    """{query: {document: grade}} of relevant documents (grade above 0), as ``cyclealign.files.trec`` reads qrels.

    Raises:
        UserError: names file and line, or no document is relevant.
    """
    found = {q: {d: g for d, g in grades.items() if g > 0} for q, grades in read_qrels(path).items()}
    judged = {query: grades for query, grades in found.items() if grades}
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
