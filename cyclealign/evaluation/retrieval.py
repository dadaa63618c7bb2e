"""``cyclealign eval retrieval``: a run against relevance judgements, measured by ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclealign.config.extras import require_extra
from cyclealign.evaluation.result import Item, Result, make_result
from cyclealign.evaluation.statistics import Figure, bootstrap_mean
from cyclealign.types import UserError

MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")
Scores = Mapping[str, Mapping[str, float]]


def evaluate_retrieval(qrels: Path, run: Path, measures: Sequence[str], *, seed: int) -> Result:
    """Every measure's mean over all judged queries with its bootstrap interval; the first measure is the primary one.

    A judged query that the run has no document for counts 0.

    Raises:
        UserError: a file that is no TREC qrels or run, an unknown measure, or no common query.
    """
    judged, found = read_trec(qrels, "qrels"), read_trec(run, "run")
    by_query = measured(judged, found, measures)
    metrics: dict[str, Figure] = {
        "queries": len(judged),
        "queries_without_documents": len(judged.keys() - found.keys()),
    }
    metrics |= {m: bootstrap_mean(list(by_query[m].values()), seed=seed) for m in measures}
    items = [Item(key=q, value=by_query[measures[0]][q], values={m: by_query[m][q] for m in measures}) for q in judged]
    about = {"qrels": str(qrels), "run": str(run), "measures": list(measures)}
    return make_result("retrieval", about=about, seed=seed, metrics=metrics, items=items, primary=measures[0])


def measured(qrels: Scores, run: Scores, measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Value of each measure for each judged query. UserError for a measure that ir-measures does not know."""
    ir_measures = _library()
    try:
        parsed = {str(name): ir_measures.parse_measure(name) for name in measures}
    except (NameError, ValueError, SyntaxError) as error:
        raise UserError(f"--measure: {error}; expected names like {', '.join(MEASURES)}") from error
    if not qrels.keys() & run.keys():
        raise UserError("the run answers no judged query; query ids must be the same")
    grades = {q: {d: int(g) for d, g in docs.items()} for q, docs in qrels.items()}
    values = {name: dict.fromkeys(grades, 0.0) for name in parsed}
    names = {measure: name for name, measure in parsed.items()}
    for metric in ir_measures.iter_calc(list(parsed.values()), grades, {q: dict(d) for q, d in run.items()}):
        if metric.query_id in grades:
            values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def read_trec(path: Path, kind: str) -> dict[str, dict[str, float]]:
    """TREC qrels (query 0 document grade) or run (query Q0 document rank score name): {query: {document: number}}.

    Raises:
        UserError: names file and line.
    """
    fields, place = (4, 3) if kind == "qrels" else (6, 4)
    found: dict[str, dict[str, float]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        try:
            if len(parts) != fields:
                raise ValueError
            found.setdefault(parts[0], {})[parts[2]] = float(parts[place])
        except ValueError as error:
            raise UserError(f"{path}:{number}: expected a line of TREC {kind} with {fields} fields") from error
    if not found:
        raise UserError(f"{path}: holds no line of TREC {kind}")
    return found


def _library() -> Any:
    require_extra("ir_measures", "eval", "eval retrieval")
    import ir_measures

    return ir_measures
