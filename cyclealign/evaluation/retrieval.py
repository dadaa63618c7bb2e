"""``cyclealign eval retrieval``: a run against relevance judgements, measured by ir-measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclealign.config.extras import require_extra
from cyclealign.evaluation.result import Item, Result, make_result
from cyclealign.evaluation.statistics import Figure, bootstrap_mean
from cyclealign.files.trec import best_first, read_qrels, read_run
from cyclealign.types import UserError

MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")
Scores = Mapping[str, Mapping[str, float]]


def evaluate_retrieval(qrels: Path, run: Path, measures: Sequence[str], *, seed: int) -> Result:
    """Every measure's mean over all judged queries with its bootstrap interval; the first measure is the primary one.

    A judged query that the run has no document for counts 0.

    Raises:
        UserError: a file that is no TREC qrels or run, an unknown measure, or no common query.
    """
    judged, found = read_qrels(qrels), read_run(run)
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
    """Value of each measure for each judged query, documents of equal score in trec_eval's order for all of them.

    Grades need not be whole numbers: nDCG takes them as gains (linear, none below 0), and for measures of relevant
    and not relevant a document is relevant whose grade is above 0, or at least N where ``rel=N`` is said.

    Raises:
        UserError: a measure that ir-measures does not know, or that needs whole grades where they are not; a run
            without a judged query.
    """
    ir_measures = _library()
    try:
        parsed = {str(name): ir_measures.parse_measure(name) for name in measures}
    except (NameError, ValueError, SyntaxError) as error:
        raise UserError(f"--measure: {error}; expected names like {', '.join(MEASURES)}") from error
    if not qrels.keys() & run.keys():
        raise UserError("the run answers no judged query; query ids must be the same")
    whole = all(float(g).is_integer() for grades in qrels.values() for g in grades.values())
    # trec_eval compares scores as 32-bit numbers, others as 64-bit ones: places are the same to all.
    places = {q: {d: float(len(docs) - n) for n, d in enumerate(best_first(docs))} for q, docs in run.items()}
    values = {name: dict.fromkeys(qrels, 0.0) for name in parsed}
    for name, measure in parsed.items():
        if not whole and measure.NAME == "nDCG" and measure.params.keys() <= {"cutoff"}:
            cutoff = measure.params.get("cutoff")
            values[name] = {q: ndcg(grades, places.get(q, {}), cutoff) for q, grades in qrels.items()}
            continue
        grades = {q: {d: _whole(g, measure, name) for d, g in docs.items()} for q, docs in qrels.items()}
        for found in ir_measures.iter_calc([measure], grades, places):
            if found.query_id in grades:
                values[name][found.query_id] = float(found.value)
    return values


def ndcg(grades: Mapping[str, float], scores: Mapping[str, float], cutoff: int | None = None) -> float:
    """trec_eval's nDCG of one query for grades of any size: linear gains, log2 discount; 0 without a gain."""
    gains = [max(0.0, grades.get(d, 0.0)) for d in best_first(scores)[:cutoff]]
    ideal = _dcg(sorted((max(0.0, g) for g in grades.values()), reverse=True)[:cutoff])
    return _dcg(gains) / ideal if ideal else 0.0


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(n + 2) for n, gain in enumerate(gains))


def _whole(grade: float, measure: Any, name: str) -> int:
    """The grade as the measure's library takes it: whole, and the same side of the measure's threshold."""
    if float(grade).is_integer():
        return int(grade)
    rel = measure.SUPPORTED_PARAMS.get("rel")
    needed = measure.params.get("rel", rel.default if rel is not None else None)
    if not isinstance(needed, int):
        raise UserError(f"--measure {name}: needs whole numbers as grades, got {grade:g}; nDCG takes any")
    relevant = grade >= needed if "rel" in measure.params else grade > 0
    return needed if relevant else 0


def _library() -> Any:
    require_extra("ir_measures", "eval", "eval retrieval")
    import ir_measures

    return ir_measures
