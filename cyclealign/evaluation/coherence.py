"""``cyclealign eval coherence``: does a metric order dialogue responses as people rate them?

Pearson, Spearman and Kendall correlation of scores with human ratings, by SciPy, with bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cyclealign.evaluation.result import Item, Result, make_result
from cyclealign.evaluation.statistics import Estimate, Figure, Figures, expanded_tails
from cyclealign.files.dialogues import exchange_of, is_number, rating_of
from cyclealign.files.foreign_json import json_rows
from cyclealign.rankers.by_name import scorer_by_name
from cyclealign.types import UserError

DRAWS = 1_000
Row = dict[str, Any]


def evaluate_coherence(data: Path, scorer: str | None, *, seed: int) -> Result:
    """Correlations over the rows of ``data``.

    A row has human ratings (``human`` or ``ratings``: a number or several, whose mean counts), and either ``score``
    or, with ``scorer`` (as in ``eval reward``), ``messages`` or ``context`` (a list of turns) and ``response``; as
    ``cyclealign.files.dialogues`` reads them.

    Raises:
        UserError: names file and line; or fewer than three rows, or ratings or scores that are all the same.
    """
    rows = list(json_rows(data))
    human = [rating_of(row, place) for place, row in rows]
    scores = _scores(rows, scorer)
    metrics: dict[str, Figure] = {"items": len(rows)}
    metrics |= correlations(scores, human, seed=seed)
    names = sorted({str(row["subset"]) for _, row in rows if row.get("subset")})
    places = {n: [i for i, (_, row) in enumerate(rows) if str(row.get("subset")) == n] for n in names}
    subsets: dict[str, Figures] = {
        name: found
        for name, at in places.items()
        if (found := _subset([scores[i] for i in at], [human[i] for i in at], seed))
    }
    items = [
        Item(key=str(row.get("id", n)), values={"score": s, "human": h})
        for n, ((_, row), s, h) in enumerate(zip(rows, scores, human, strict=True))
    ]
    about = {"data": str(data), "scorer": scorer}
    return make_result(
        "coherence", about=about, seed=seed, metrics=metrics, items=items, primary="spearman", subsets=subsets
    )


def correlations(scores: Sequence[float], human: Sequence[float], *, seed: int) -> dict[str, Estimate]:
    """Pearson's r, Spearman's rho and Kendall's tau-b with percentile bootstrap intervals over the items.

    Raises:
        UserError: fewer than three items, or nothing that varies.
    """
    if len(scores) < 3 or len(set(scores)) < 2 or len(set(human)) < 2:
        raise UserError("correlations need three items at least, and scores and ratings that are not all the same")
    from scipy import stats

    first, second = np.asarray(scores, dtype=np.float64), np.asarray(human, dtype=np.float64)
    measures: dict[str, Callable[..., Any]] = {
        "pearson": stats.pearsonr,
        "spearman": stats.spearmanr,
        "kendall": stats.kendalltau,
    }
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(first), (DRAWS, len(first)))
    usable = [d for d in drawn if np.ptp(first[d]) > 0 and np.ptp(second[d]) > 0]
    found = {}
    for name, measure in measures.items():
        values = [float(measure(first[d], second[d]).statistic) for d in usable]
        low, high = np.quantile(values, expanded_tails(len(first)))
        found[name] = Estimate(float(measure(first, second).statistic), float(low), float(high), len(first))
    return found


def _subset(scores: Sequence[float], human: Sequence[float], seed: int) -> dict[str, Estimate]:
    try:
        return correlations(scores, human, seed=seed)
    except UserError:  # too small, or all alike: the whole has its figures
        return {}


def _scores(rows: Sequence[tuple[str, Row]], scorer: str | None) -> list[float]:
    if scorer is not None:
        return scorer_by_name(scorer).score([exchange_of(row, place) for place, row in rows])
    for place, row in rows:
        if not is_number(row.get("score")):
            raise UserError(f"{place}: expected score: a number; or name a --scorer")
    return [float(row["score"]) for _, row in rows]
