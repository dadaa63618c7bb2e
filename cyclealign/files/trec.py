"""TREC's two files, as all who read them do: relevance judgements (qrels) and runs.

Columns are parted by spaces or tabs. A grade may be any finite number, a document is relevant where it is above 0.
Documents of equal score stand in one order for every measure and every file: that of trec_eval, the greater id first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclealign.files.foreign import lines
from cyclealign.types import UserError

Qrels = dict[str, dict[str, float]]
_BETWEEN = re.compile(r"[ \t]+")  # not str.split: it would also cut ids at the spaces of other scripts
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class RunList:
    """The documents of one query with their scores, in the file's order. ``place``: of its first line."""

    query: str
    scores: dict[str, float]
    place: str


def read_qrels(path: Path) -> Qrels:
    """{query: {document: grade}}: TREC's four columns (query 0 document grade), or three without the second; a header
    may stand first, as BEIR's files have one.

    Raises:
        UserError: names file and line of what is no judgement, or judges a document a second time and differently.
    """
    found: Qrels = {}
    for number, (place, line) in enumerate(lines(path)):
        fields = _fields(line)
        # A space inside an id between tabs makes four columns of three, with a part of the id for the document.
        if len(fields) == 4 and len(cut := line.split("\t")) == 3 and " " in cut[1].strip():
            raise UserError(f"{place}: expected an id without spaces, got {cut[1][:40]!r}")
        if len(fields) not in (3, 4):
            raise UserError(
                f"{place}: expected a line of TREC qrels: query 0 document grade, or query document grade; got"
                f" {len(fields)} columns"
            )
        query, document, grade = fields[0], fields[-2], fields[-1]
        if number == 0 and not any(c.isdigit() for c in grade) and grade.lower() not in ("nan", "inf", "-inf"):
            continue  # a header
        value = finite(grade)
        if value is None:
            raise UserError(f"{place}: expected a finite number as relevance, got {grade[:40]!r}")
        if found.setdefault(query, {}).setdefault(document, value) != value:
            known = found[query][document]
            raise UserError(f"{place}: document {document} of query {query} has the grade {known:g} already")
    if not found:
        raise UserError(f"{path}: holds no line of TREC qrels (query 0 document grade)")
    return found


def run_lists(path: Path) -> Iterator[RunList]:
    """The lists of a run, each query's once, in order of first lines: six columns (query Q0 document rank score name),
    or three: query document score, or MS MARCO's query document rank, whose scores are then minus the ranks.

    Lines of one query may stand apart, as in runs that were merged; only then is the whole run held in memory.

    Raises:
        UserError: names file and line of what is no line of a run, or names a document a second time.
    """
    sign = -1.0 if ranked(path) else 1.0
    if _apart(path):
        held: dict[str, RunList] = {}
        for place, query, document, score in _run_lines(path):
            _add(held.setdefault(query, RunList(query, {}, place)), document, sign * score, place)
        yield from held.values()
        return
    current: RunList | None = None
    for place, query, document, score in _run_lines(path):
        if current is None or current.query != query:
            if current is not None:
                yield current
            current = RunList(query, {}, place)
        _add(current, document, sign * score, place)
    if current is not None:
        yield current


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """{query: {document: score}} of a whole run; UserError as ``run_lists``, and where there is no line."""
    found = {item.query: item.scores for item in run_lists(path)}
    if not found:
        raise UserError(f"{path}: holds no line of a TREC run (query Q0 document rank score name)")
    return found


def best_first(scores: Mapping[str, float]) -> list[str]:
    """Documents by score, best first; of equal scores the greater id first, as trec_eval has it."""
    return sorted(sorted(scores, reverse=True), key=lambda document: -scores[document])


def finite(value: Any) -> float | None:
    """A finite number, or one written in digits; None for anything else (``nan``, ``1_000``, true)."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        value = value.strip()  # of marks, too, that float() does not know for blanks
        if not _NUMBER.fullmatch(value):
            return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _apart(path: Path) -> bool:
    """Whether lines of one query stand apart from each other."""
    seen, last = set[str](), None
    for _, line in lines(path):
        query = _fields(line)[0]
        if query != last and query in seen:
            return True
        seen.add(query)
        last = query
    return False


def ranked(path: Path) -> bool:
    """Whether the third of three columns is a rank, as in MS MARCO's runs: in every list it counts 1, 2, 3 … down the
    lines. Where it counts down to 1 in every list, or is anything else than such a count somewhere, it is a score.

    Raises:
        UserError: the numbers are 1 to n in every list, in no one order: ranks or scores, nobody can tell.
    """
    counts: dict[str, _Count] = {}
    for _, line in lines(path):
        fields = _fields(line)
        value = finite(fields[2]) if len(fields) == 3 else None
        if value is None or not counts.setdefault(fields[0], _Count()).add(value):
            return False
    long = [count for count in counts.values() if count.n > 1]
    if not long or not all(count.whole for count in counts.values()) or all(count.falls for count in long):
        return False
    if all(count.rises for count in long):
        return True
    raise UserError(
        f"{path}: the third column holds 1 to n in each list, in no one order: ranks or scores? Sort each list best"
        " first, or write six columns (query Q0 document rank score name)"
    )


@dataclass(slots=True)
class _Count:
    """Whether the numbers of a list are 1 to n, and in which order."""

    n: int = 0
    most: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    last: float = 0.0
    rises: bool = True
    falls: bool = True

    def add(self, value: float) -> bool:
        """False where such a number is no rank."""
        if value < 1 or not value.is_integer():
            return False
        self.rises &= value == self.last + 1
        self.falls &= self.n == 0 or value == self.last - 1
        self.n, self.last, self.most = self.n + 1, value, max(self.most, value)
        self.total += value
        self.squares += value * value
        return True

    @property
    def whole(self) -> bool:
        n = self.n
        return (self.most, self.total, self.squares) == (n, n * (n + 1) / 2, n * (n + 1) * (2 * n + 1) / 6)


def _run_lines(path: Path) -> Iterator[tuple[str, str, str, float]]:
    for place, line in lines(path):
        fields = _fields(line)
        if len(fields) not in (3, 6):
            raise UserError(f"{place}: expected 6 columns (qid Q0 docid rank score tag) or 3, got {len(fields)}")
        document, text = (fields[2], fields[4]) if len(fields) == 6 else (fields[1], fields[2])
        score = finite(text)
        if score is None:
            raise UserError(f"{place}: expected a finite score, got {text[:40]!r}")
        yield place, fields[0], document, score


def _add(item: RunList, document: str, score: float, place: str) -> None:
    if document in item.scores:
        raise UserError(f"{place}: document {document} stands twice for query {item.query}; a run names it once")
    item.scores[document] = score


def _fields(line: str) -> list[str]:
    return _BETWEEN.split(line.strip(" \t\f\v"))
