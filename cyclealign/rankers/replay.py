"""Recorded rankings instead of a judge: the verdicts of an earlier run, or of people.

The file is JSONL. A line names its prompt by ``prompt_id`` or by ``messages``, and gives one of

- ``tiers``: lists of names, best first, those of one list tied (as in ``black_box.jsonl``, whose ``votes``,
  ``scores``, ``confidence``, ``passes``, ``reasons`` and ``cascade`` are taken over),
- ``order`` or ``ranking``: names, best first,
- ``scores``: a number for each name, higher is better,
- ``unranked``: why there is none, with ``detail``.

A name is a candidate's text or its id. Ids are only as good as the set they come from: a line may say what they stand
for in ``candidates`` (``[{"id": ..., "text": ...}]``), and a ``candidates.jsonl`` beside the file, as a run has it,
does that for all lines; they are then compared by text. A directory is read as a run: the black box's verdicts of all
its interactions. Of several lines for one prompt, the first that names exactly the candidates of a set is its verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from cyclealign.files.foreign_json import json_rows
from cyclealign.files.messages import messages as parsed_messages
from cyclealign.files.records import decode
from cyclealign.rankers.agreement import given_of, tiers_of
from cyclealign.rankers.scored import too_few
from cyclealign.rankers.utilities import given_by
from cyclealign.types import (
    CandidateSet,
    Cascaded,
    Given,
    Gives,
    Prompt,
    RankContext,
    Ranking,
    Reason,
    Unranked,
    UnrankedReason,
    UserError,
)

Line = Mapping[str, Any]
"""A JSON object that anybody may have written."""
FORMS = ("tiers", "order", "ranking", "scores", "unranked")
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """One line, with names for ids. ``verdict``'s prompt id is the line's own; names are texts where known."""

    verdict: Ranking | Unranked
    texts: Mapping[str, str]

    def names(self) -> dict[str, str] | None:
        """Text (or the bare name) to name; None for a line without a ranking."""
        if isinstance(self.verdict, Unranked):
            return None
        return {self.texts.get(name, name): name for name in self.verdict.order}


class ReplayRanker:
    """Gives recorded rankings; implements ``types.Ranker``. What is not recorded is Unranked("error").

    ``parts``: for a cascade. Also give the recorded order of some of a line's candidates, without its scores and votes;
    of what a cascade pruned in the recorded run, give the judge's own part alone.
    """

    def __init__(self, path: Path, *, parts: bool = False) -> None:
        """``path``: a JSONL file, or a run's directory. UserError naming file and line where it cannot be read."""
        self._parts = parts
        files = sorted(path.glob("interactions/*/black_box.jsonl")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path}: expected a JSONL file or a run's directory, got a directory without verdicts")
        self._records: dict[str, list[_Record]] = {}
        for file in files:
            for prompt_id, record in _read(file):
                self._records.setdefault(prompt_id, []).append(_judges_own(record) if parts else record)
        rankings = [r.verdict for rs in self._records.values() for r in rs if isinstance(r.verdict, Ranking)]
        given = set(map(given_by, rankings))
        self.gives: Gives = "order" if "order" in given or not given else "votes" if given == {"votes"} else "magnitude"

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """The recorded verdict of each set, in the order in which they come."""
        for item in sets:
            yield replace(self.verdict(item), set_id=item.id)

    def verdict(self, item: CandidateSet) -> Ranking | Unranked:
        """Of one set."""
        prompt_id = item.prompt.id
        if len(item.candidates) < 2:
            return too_few(item)
        records = self._records.get(prompt_id, [])
        for record in records:
            if isinstance(record.verdict, Unranked):
                continue
            renamed = _match(record, item, parts=self._parts)
            if renamed is not None:
                return _renamed(record.verdict, prompt_id, renamed)
        refused = [r.verdict for r in records if isinstance(r.verdict, Unranked)]
        if refused and len(refused) == len(records):
            return refused[0]
        return Unranked(prompt_id, "error", "not recorded" + (" for these candidates" if records else ""))


def _judges_own(record: _Record) -> _Record:
    """The record without what a cascade added: a local order must not be replayed as a judge's."""
    verdict = record.verdict
    if isinstance(verdict, Unranked) or verdict.cascade is None:
        return record
    judged = set(verdict.judged)
    tiers = (tuple(name for name in tier if name in judged) for tier in verdict.tiers)
    return replace(record, verdict=replace(verdict, tiers=tuple(t for t in tiers if t), cascade=None))


def _match(record: _Record, item: CandidateSet, *, parts: bool) -> dict[str, str] | None:
    """Recorded name to candidate id, where both are of the same candidates: by text, else by id.

    ``parts``: where the item's candidates are some of the recorded ones.
    """
    names = record.names() or {}
    by_text = {c.text: c.id for c in item.candidates}
    if names.keys() == by_text.keys() or (parts and by_text.keys() < names.keys()):
        return {name: by_text[text] for text, name in names.items() if text in by_text}
    if not record.texts and (names.keys() == set(item.ids) or (parts and set(item.ids) < names.keys())):
        return {i: i for i in item.ids}
    return None


def _renamed(ranking: Ranking, prompt_id: str, ids: Mapping[str, str]) -> Ranking:
    if len(ids) < len(ranking.order):
        tiers = (tuple(ids[name] for name in tier if name in ids) for tier in ranking.tiers)
        return Ranking(prompt_id=prompt_id, tiers=tuple(tier for tier in tiers if tier))

    def values(by_name: Mapping[str, float] | None) -> dict[str, float] | None:
        return None if by_name is None else {ids[name]: value for name, value in by_name.items()}

    cascade = ranking.cascade
    if cascade is not None:
        kept = tuple(ids[name] for name in cascade.kept)
        cascade = replace(cascade, kept=kept, scores=values(cascade.scores) or {})
    return Ranking(
        prompt_id=prompt_id,
        tiers=tuple(tuple(ids[name] for name in tier) for tier in ranking.tiers),
        scores=values(ranking.scores),
        votes=values(ranking.votes),
        confidence=ranking.confidence,
        passes=tuple(_renamed_pass(given, ids) for given in ranking.passes),
        reasons=tuple(replace(r, shown=tuple(ids[name] for name in r.shown)) for r in ranking.reasons),
        cascade=cascade,
    )


def _renamed_pass(given: Given, ids: Mapping[str, str]) -> Given:
    return given_of(tuple(tuple(ids[name] for name in tier) for tier in tiers_of(given)))


# Reading ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> Iterator[tuple[str, _Record]]:
    beside = path.with_name("candidates.jsonl")
    shared = {i: _texts(where, line) for where, i, line in _lines(beside)} if beside.exists() and beside != path else {}
    for where, prompt_id, line in _lines(path):
        texts = _texts(where, line) if "candidates" in line else shared.get(prompt_id, {})
        yield prompt_id, _Record(_verdict(where, prompt_id, line), texts)


def _lines(path: Path) -> Iterator[tuple[str, str, Line]]:
    """Place (``file:line``), prompt id and content of every line that is not blank."""
    for where, line in json_rows(path):
        yield where, _prompt_id(where, line), line


def _prompt_id(where: str, line: Line) -> str:
    messages = line.get("messages")
    if messages is not None:
        return Prompt(tuple(parsed_messages(messages, f"{where}: messages"))).id
    prompt_id = line.get("prompt_id")
    _expect(isinstance(prompt_id, str), where, "expected prompt_id (text) or messages")
    return str(prompt_id)


def _texts(where: str, line: Line) -> dict[str, str]:
    """Candidate id to text."""
    candidates = line.get("candidates")
    fine = isinstance(candidates, list) and all(
        isinstance(c, dict) and isinstance(c.get("id"), str) and isinstance(c.get("text"), str) for c in candidates
    )
    _expect(fine, where, "candidates: expected a list of objects with id and text")
    return {c["id"]: c["text"] for c in candidates or ()}


def _verdict(where: str, prompt_id: str, line: Line) -> Ranking | Unranked:
    if "unranked" in line:
        _expect(line["unranked"] in get_args(UnrankedReason), where, f"unranked: got {line['unranked']!r}")
        return Unranked(prompt_id, line["unranked"], str(line.get("detail", "")))
    if "tiers" in line:
        tiers = line["tiers"]
        _expect(isinstance(tiers, list) and all(map(_are_names, tiers)), where, "tiers: expected lists of names")
    elif "scores" in line:
        return Ranking.from_scores(prompt_id, _numbers(where, "scores", line["scores"]))
    else:
        key = next((form for form in ("order", "ranking") if form in line), None)
        _expect(key is not None, where, f"expected one of {', '.join(FORMS)}")
        _expect(_are_names(line[key or ""]), where, f"{key}: expected a list of names")
        tiers = [[name] for name in line[key or ""]]
    names = [name for tier in tiers for name in tier]
    _expect(len(set(names)) == len(names) > 0, where, "expected each candidate once, and at least one")
    return _ranking(where, prompt_id, tiers, set(names), line)


def _ranking(where: str, prompt_id: str, tiers: list[list[str]], names: set[str], line: Line) -> Ranking:
    cascade = _cascade(where, names, line)
    judged = names if cascade is None or cascade.audited else set(cascade.kept)
    graded = {key: _numbers(where, key, line[key]) for key in ("scores", "votes") if line.get(key) is not None}
    for key, values in graded.items():
        _expect(values.keys() == judged, where, f"{key}: expected a number for each ranked candidate, and no other")
    passes = line.get("passes", [])
    fine = isinstance(passes, list) and all(_orders(given, judged) for given in passes)
    _expect(fine, where, "passes: expected orders of the ranked candidates")
    confidence = line.get("confidence")
    _expect(confidence is None or _is_number(confidence), where, "confidence: expected a number")
    return Ranking(
        prompt_id=prompt_id,
        tiers=tuple(map(tuple, tiers)),
        confidence=confidence,
        passes=tuple(tuple(one if isinstance(one, str) else tuple(one) for one in given) for given in passes),
        reasons=_reasons(where, judged, line),
        cascade=cascade,
        scores=graded.get("scores"),
        votes=graded.get("votes"),
    )


def _reasons(where: str, judged: set[str], line: Line) -> tuple[Reason, ...]:
    """What the judge wrote before its verdicts, each with what it was shown."""
    found: tuple[Reason, ...] = ()
    given = line.get("reasons") or []
    try:
        found = tuple(decode(Reason, one) for one in given) if isinstance(given, list) else ()
        fine = isinstance(given, list) and all(sorted(r.shown) == sorted(judged) for r in found)
    except ValueError:
        fine = False
    _expect(fine, where, "reasons: expected a list of objects with shown (the ranked candidates) and text")
    return found


def _cascade(where: str, names: set[str], line: Line) -> Cascaded | None:
    """What a cascade did with the list, where one did: else its own order would be taken for the judge's."""
    if line.get("cascade") is None:
        return None
    try:
        found = decode(Cascaded, line["cascade"])
        finite = all(map(math.isfinite, found.scores.values()))
        fine = found.scores.keys() == names and finite and names.issuperset(found.kept)
    except ValueError:
        fine = False
    _expect(fine, where, "cascade: expected kept, scores of each ranked candidate, and audited")
    return found


def _numbers(where: str, key: str, values: Any) -> dict[str, float]:
    fine = isinstance(values, dict) and len(values) > 0 and all(map(_is_number, values.values()))
    _expect(fine, where, f"{key}: expected an object of finite numbers by candidate")
    return dict(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value)


def _orders(given: Any, names: set[str]) -> bool:
    """Whether a pass gives each of these names one place; tied names are a list in it."""
    if not isinstance(given, list):
        return False
    tiers = [[one] if isinstance(one, str) else one for one in given]
    if not all(tier and _are_names(tier) for tier in tiers):
        return False
    found = [name for tier in tiers for name in tier]
    return len(found) == len(names) and set(found) == names


def _expect(fine: bool, where: str, problem: str) -> None:
    if not fine:
        raise UserError(f"{where}: {problem}")
