"""Labelled pairs and graded lists from the files that people have; the format of each row is seen from its columns.

- HH-RLHF: ``chosen`` and ``rejected`` dialogues. TRL preference, HHH, RewardBench: ``prompt``, ``chosen``,
  ``rejected`` (texts, conversations, or lists of texts as in RewardBench 2), ``subset`` where there is one.
- LLMBar: ``input``, ``output_1``, ``output_2``, ``label`` (1 or 2).
- PandaLM: ``instruction``, ``input``, ``response1``, ``response2``, ``annotators`` (or ``annotator1`` to
  ``annotator3``): 1, 2 or 0 for a tie; the majority is the label, three different votes are a tie.
- UltraFeedback: ``instruction`` and ``completions`` with ``overall_score`` (or ``fine-grained_score``).
- Lists: ``prompt`` or ``messages``, and ``candidates`` of ``{id, text, grade}``, a higher grade being better.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cyclealign.files.prompts import parse_row
from cyclealign.files.rows import rows
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, Ranking, UserError

log = logging.getLogger(__name__)
Row = dict[str, Any]
Grades = tuple[tuple[Candidate, ...], dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledItem:
    """A candidate set and what people think of it. ``grades``: one for each candidate id, higher is better."""

    id: str
    subset: str
    set: CandidateSet
    grades: Mapping[str, float]

    @property
    def decided(self) -> bool:
        """Whether the labels prefer anything at all."""
        return len(set(self.grades.values())) > 1

    @property
    def gold(self) -> Ranking:
        return Ranking.from_scores(self.set.prompt.id, self.grades)


class _Unusable(Exception):
    """A row that cannot be judged through no fault of its format; the reason is counted and logged."""


def load_labelled(spec: str, *, subset: str | None = None, limit: int | None = None) -> list[LabelledItem]:
    """Labelled items in file order, at most ``limit``; ``subset``: only those whose subset begins with it.

    Raises:
        UserError: nothing there, or a row of no known format; names file and line.
    """
    found: list[LabelledItem] = []
    skipped: Counter[str] = Counter()
    for place, row in rows(spec, split="test"):
        named = str(row.get("subset") or row.get("source") or "all")
        if subset is not None and not named.startswith(subset):
            continue
        try:
            prompt, (candidates, grades) = _parser(row, place)(row, place)
        except _Unusable as reason:
            skipped[str(reason)] += 1
            continue
        identity = str(row.get("id", len(found)))
        found.append(LabelledItem(id=identity, subset=named, set=CandidateSet(prompt, candidates), grades=grades))
        if len(found) == limit:
            break
    for what, count in skipped.items():
        log.warning("%s: skipped %d rows that %s", spec, count, what)
    if not found:
        of_subset = f" of subset {subset}" if subset else ""
        raise UserError(f"data: {spec} holds no labelled item{of_subset} that can be judged")
    return found


Parsed = tuple[Prompt, Grades]


def _parser(row: Row, place: str) -> Callable[[Row, str], Parsed]:
    has = {k for k, v in row.items() if v is not None}
    formats: list[tuple[set[str], Callable[[Row, str], Parsed]]] = [
        ({"output_1", "output_2", "label"}, _llmbar),
        ({"response1", "response2"}, _pandalm),
        ({"instruction", "completions"}, _ultrafeedback),
        ({"candidates"}, _graded_list),
        ({"chosen", "rejected"}, _preference),
    ]
    for columns, parser in formats:
        if columns <= has:
            return parser
    raise UserError(
        f"{place}: expected labelled columns (chosen and rejected; output_1, output_2 and label; response1, response2"
        f" and annotators; instruction and completions; or candidates with grades); got {', '.join(row) or 'none'}"
    )


def _preference(row: Row, place: str) -> Parsed:
    chosen, rejected = row["chosen"], row["rejected"]
    if _texts(chosen) and _texts(rejected):
        prompt = parse_row({"prompt": row.get("prompt")}, place)
        good = [Candidate(f"chosen-{n}", text) for n, text in enumerate(chosen)]
        bad = [Candidate(f"rejected-{n}", text) for n, text in enumerate(rejected)]
        return prompt, _graded([(c, 1.0) for c in good] + [(c, 0.0) for c in bad])
    conversations = isinstance(chosen, list) and len(chosen) > 1 and isinstance(row.get("prompt"), str)
    # UltraFeedback's binarised rows repeat the prompt as text beside whole conversations.
    prompt = parse_row({k: v for k, v in row.items() if k != "prompt"} if conversations else row, place)
    if prompt.chosen is None or prompt.rejected is None:
        raise _Unusable("have an empty reply")
    pair = [(Candidate("chosen", prompt.chosen), 1.0), (Candidate("rejected", prompt.rejected), 0.0)]
    return Prompt(prompt.messages), _graded(pair)


def _llmbar(row: Row, place: str) -> Parsed:
    label = _one_of(row["label"], (1, 2), f"{place}: label")
    pair = [(Candidate(str(n), _text(row[f"output_{n}"], place)), float(n == label)) for n in (1, 2)]
    return _asked(_text(row.get("input"), f"{place}: input")), _graded(pair)


def _pandalm(row: Row, place: str) -> Parsed:
    votes = row.get("annotators") or [row[f"annotator{n}"] for n in (1, 2, 3) if row.get(f"annotator{n}") is not None]
    if not isinstance(votes, list) or not votes:
        raise UserError(f"{place}: expected annotators (or annotator1 to annotator3): votes 0, 1 or 2")
    label = majority([_one_of(v, (0, 1, 2), f"{place}: annotators") for v in votes])
    if not all(isinstance(row[f"response{n}"], str) for n in (1, 2)):  # upstream has a true and a number among them
        raise _Unusable("have a response that is not text")
    pair = [(Candidate(str(n), row[f"response{n}"]), float(n == label)) for n in (1, 2)]
    parts = [_text(row.get(key) or "", f"{place}: {key}") for key in ("instruction", "input")]
    return _asked("\n\n".join(part for part in parts if part.strip())), _graded(pair)


def _ultrafeedback(row: Row, place: str) -> Parsed:
    graded = []
    for n, completion in enumerate(row["completions"]):
        if not isinstance(completion, dict):
            raise UserError(f"{place}: completion {n}: expected an object with response and overall_score")
        grade = next((completion[k] for k in ("overall_score", "fine-grained_score") if completion.get(k)), None)
        text = _text(completion.get("response"), f"{place}: completion {n}: response")
        graded.append((Candidate(str(n), text), _grade(grade, f"{place}: completion {n}: overall_score")))
    return _asked(_text(row["instruction"], f"{place}: instruction")), _graded(graded)


def _graded_list(row: Row, place: str) -> Parsed:
    graded = []
    for n, value in enumerate(row["candidates"] if isinstance(row["candidates"], list) else [None]):
        if not isinstance(value, dict):
            raise UserError(f"{place}: candidates: expected a list of {{id, text, grade}}")
        text = _text(value.get("text"), f"{place}: candidate {n}: text")
        grade = _grade(value.get("grade"), f"{place}: candidate {n}: grade")
        graded.append((Candidate(str(value.get("id", n)), text), grade))
    return parse_row({k: row.get(k) for k in ("prompt", "messages")}, place), _graded(graded)


def _graded(found: list[tuple[Candidate, float]]) -> Grades:
    """Candidates with their grades; sets that nobody can judge are refused."""
    candidates = [c for c, _ in found]
    if len(candidates) < 2:
        raise _Unusable("have fewer than two responses")
    if not all(c.text.strip() for c in candidates):
        raise _Unusable("have an empty reply")
    if len({c.text for c in candidates}) < len(candidates):
        raise _Unusable("have equal responses")
    return tuple(candidates), {c.id: grade for c, grade in found}


def majority(votes: list[int]) -> int:
    """The vote of more annotators than any other; 0 (a tie) where there is none."""
    (first, count), *others = Counter(votes).most_common()
    return 0 if others and others[0][1] == count else first


def by_subset(items: list[LabelledItem]) -> Iterator[tuple[str, list[LabelledItem]]]:
    """The items of each subset, in order of name; nothing where there is only one."""
    names = sorted({i.subset for i in items})
    if len(names) > 1:
        yield from ((name, [i for i in items if i.subset == name]) for name in names)


def _asked(text: str) -> Prompt:
    if not text.strip():
        raise _Unusable("have an empty prompt")
    return Prompt((Message(role="user", content=text),))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, str) for v in value)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: expected text, got {type(value).__name__}")
    return value


def _one_of(value: Any, allowed: tuple[int, ...], place: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number not in allowed:
        raise UserError(f"{place}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
    return number


def _grade(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{place}: expected a finite number, got {value!r}")
    return float(value)
