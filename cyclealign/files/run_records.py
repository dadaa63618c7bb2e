"""Prompts, candidate sets and verdicts as records of a run, and back."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Literal, TypeVar
from weakref import finalize

from cyclealign.files.jsonl import Lines
from cyclealign.files.lazy import Lazy
from cyclealign.files.records import Encoded, decode, encode, read_records
from cyclealign.types import (
    OWN_REPLY,
    Candidate,
    CandidateSet,
    Cascaded,
    Given,
    Message,
    Prompt,
    Ranking,
    Reason,
    Unranked,
    UnrankedReason,
    UserError,
    Vote,
)

Verdict = Ranking | Unranked
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """A line of ``prompts/*.jsonl``."""

    prompt_id: str
    messages: tuple[Message, ...]
    chosen: str | None = None
    rejected: str | None = None
    rubric: str | None = None
    reference: str | None = None
    answer: str | None = None

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.messages, self.chosen, self.rejected, self.rubric, self.reference, self.answer)


class StoredPrompts(Lazy[Prompt]):
    """The prompts of a run's file, none where it is missing; a place in the file is all that is held of each.
    UserError where a line is no such record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = Lines(path) if path.exists() else ()

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Prompt]:
        return (record.prompt for record in read_records(PromptRecord, self._path))

    def at(self, index: int) -> Prompt:
        try:
            return decode(PromptRecord, self._lines[index]).prompt
        except ValueError as error:
            raise UserError(
                f"{self._path}:{index + 1}: {error}; not as cyclealign wrote it: put the file back from a copy"
            ) from error


class PromptSpool(Lazy[Prompt]):
    """Prompts on their way into a run, in a file without a name that ends with it; a place in it is all that is held
    of each. UserError where it cannot be written."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or gettempdir()
        with self._writing():
            self._file = TemporaryFile(dir=directory)  # noqa: SIM115  (lives as long as what it holds)
        finalize(self, self._file.close)
        self._starts = array("q")

    def add(self, prompt: Prompt) -> None:
        with self._writing():
            self._starts.append(self._file.seek(0, os.SEEK_END))
            self._file.write(json.dumps(prompt_record(prompt), ensure_ascii=False).encode() + b"\n")

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, index: int) -> Prompt:
        with self._writing():  # what was added last is flushed here
            self._file.seek(self._starts[index])
        return decode(PromptRecord, json.loads(self._file.readline())).prompt

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"prompts cannot be written aside in {self._directory}: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRecord(PromptRecord):
    """A line of ``candidates.jsonl``."""

    candidates: tuple[Candidate, ...]
    drawn: int
    unfinished: int | None = None

    def __post_init__(self) -> None:
        if len({c.id for c in self.candidates}) < len(self.candidates):
            raise ValueError("candidates: two of one id")

    @property
    def set(self) -> CandidateSet:
        return CandidateSet(self.prompt, self.candidates, self.drawn, unfinished=self.unfinished or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """A line of ``answers.jsonl``: the black box's own reply to a prompt, or why it is ``unanswered``."""

    prompt_id: str
    text: str | None = None
    finish: Literal["stop", "length"] | None = None
    unanswered: UnrankedReason | None = None
    detail: str | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.unanswered is None) or (self.text is None) != (self.finish is None):
            raise ValueError("text: expected either this, with finish, or unanswered")

    @property
    def candidate(self) -> Candidate | None:
        """The reply; None where there is none."""
        return None if self.text is None or self.finish is None else Candidate(OWN_REPLY, self.text, self.finish)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRecord:
    """A line of ``*_box.jsonl``: ``tiers`` and what else the ranker gave, or why it is ``unranked``."""

    prompt_id: str
    unranked: UnrankedReason | None = None
    detail: str | None = None
    tiers: tuple[tuple[str, ...], ...] | None = None
    scores: Mapping[str, float] | None = None
    votes: Mapping[str, float] | None = None
    confidence: float | None = None
    passes: tuple[Given, ...] | None = None
    reverse: Given | None = None
    reasons: tuple[Reason, ...] | None = None
    cascade: Cascaded | None = None
    jury: tuple[Vote, ...] | None = None

    def __post_init__(self) -> None:
        if (self.tiers is None) == (self.unranked is None):
            raise ValueError("tiers: expected either these or unranked")
        ids = [i for tier in self.tiers or () for i in tier]
        if self.tiers is not None and not 0 < len(ids) == len(set(ids)):
            raise ValueError("tiers: expected each candidate once, and at least one")

    @property
    def verdict(self) -> Verdict:
        if self.unranked is not None:
            return Unranked(self.prompt_id, self.unranked, self.detail or "")
        return Ranking(
            prompt_id=self.prompt_id,
            tiers=self.tiers or (),
            scores=self.scores,
            votes=self.votes,
            confidence=self.confidence,
            passes=self.passes or (),
            reverse=self.reverse or (),
            reasons=self.reasons or (),
            cascade=self.cascade,
            jury=self.jury or (),
        )


def prompt_record(prompt: Prompt) -> Encoded:
    chosen, rejected = _labels(prompt)
    return encode(
        PromptRecord(
            prompt_id=prompt.id,
            messages=prompt.messages,
            chosen=chosen,
            rejected=rejected,
            rubric=prompt.rubric,
            reference=prompt.reference,
            answer=prompt.answer,
        )
    )


def set_record(item: CandidateSet) -> Encoded:
    chosen, rejected = _labels(item.prompt)
    return encode(
        SetRecord(
            prompt_id=item.prompt.id,
            messages=item.prompt.messages,
            chosen=chosen,
            rejected=rejected,
            rubric=item.prompt.rubric,
            reference=item.prompt.reference,
            candidates=item.candidates,
            drawn=item.drawn,
            unfinished=item.unfinished or None,
        )
    )


def _labels(prompt: Prompt) -> tuple[str | None, str | None]:
    """Both or neither: half a pair is no label."""
    both = prompt.chosen is not None and prompt.rejected is not None
    return (prompt.chosen, prompt.rejected) if both else (None, None)


def verdict_record(verdict: Verdict) -> Encoded:
    if isinstance(verdict, Unranked):
        reason, detail = verdict.reason, verdict.detail
        return encode(VerdictRecord(prompt_id=verdict.prompt_id, unranked=reason, detail=detail))
    return encode(
        VerdictRecord(
            prompt_id=verdict.prompt_id,
            tiers=verdict.tiers,
            scores=verdict.scores,
            votes=verdict.votes,
            confidence=verdict.confidence,
            passes=verdict.passes or None,
            reverse=verdict.reverse or None,
            reasons=verdict.reasons or None,
            cascade=verdict.cascade,
            jury=verdict.jury or None,
        )
    )


class OnRecord(dict[str, R]):
    """Records of a file by prompt id. UserError where one is asked for that is not there: another file names it."""

    def __init__(self, path: Path, found: Iterable[tuple[str, R]]) -> None:
        super().__init__(found)
        self._path = path

    def __missing__(self, prompt_id: str) -> R:
        raise UserError(
            f"{self._path}: has no line for the prompt {prompt_id}, which other files of the run have; put it back"
            " from a copy"
        )


def read_sets(path: Path) -> OnRecord[CandidateSet]:
    """Candidate sets of a ``candidates.jsonl``, by prompt id."""
    return OnRecord(path, ((r.prompt_id, r.set) for r in read_records(SetRecord, path)))


def read_verdicts(path: Path) -> OnRecord[Verdict]:
    """Rankings and unranked items of a ``*_box.jsonl``, by prompt id."""
    return OnRecord(path, ((r.prompt_id, r.verdict) for r in read_records(VerdictRecord, path)))


def ranked_sets(candidates: Path, black_box: Path, *, aligned: bool) -> Iterator[tuple[CandidateSet, Ranking]]:
    """The sets of an interaction with their rankings. ``aligned``: both files have them line by line, as those of lists
    that exist are written: then none is held, and a prompt may have several."""
    if aligned:
        sets, verdicts = read_records(SetRecord, candidates), read_records(VerdictRecord, black_box)
        for given, verdict in zip(sets, verdicts, strict=True):
            if isinstance(found := verdict.verdict, Ranking):
                yield given.set, found
        return
    held = read_sets(candidates)
    for prompt_id, ranking in read_rankings(black_box).items():
        yield held[prompt_id], ranking


def read_rankings(path: Path) -> OnRecord[Ranking]:
    return OnRecord(path, ((i, v) for i, v in read_verdicts(path).items() if isinstance(v, Ranking)))
