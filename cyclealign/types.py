"""The words of the package: prompts, candidates, rankings, and the protocols between the parts.

Standard library only, so that the loop can be read, typed and tested without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable


class Message(TypedDict):
    """One turn of a chat: ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


def chat_as_text(messages: Sequence[Message]) -> str:
    """A chat as one text, its turns with an empty line between them; a lone message as it is."""
    return "\n\n".join(message["content"] for message in messages)


class UserError(Exception):
    """A mistake of the user's (config, data, template, server): one readable line, exit code 2."""


class BudgetExhausted(Exception):
    """The hard budget would be exceeded by the next call; everything ranked so far is kept. ``key``: of the budget."""

    def __init__(self, message: str, *, key: str = "black_box.budget_usd") -> None:
        super().__init__(message)
        self.key = key


class RunStopped(Exception):
    """The run ended early by one of its own rules; the message says which. Exit code 1."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form under which content is hashed."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_hex(value: Any) -> str:
    """Hex digest of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from any sequence of names and numbers, the same on every machine."""
    return int(sha256_hex(list(parts))[:16], 16) >> 1


@dataclass(frozen=True)  # without slots: its id is asked for many times, and kept
class Prompt:
    """A chat that ends where the assistant is to speak.

    ``chosen`` and ``rejected`` are a labelled pair of replies where the data has one (else None); ``rubric`` and
    ``reference`` are what a judge is to go by, and a good reply, for this prompt alone; ``answer`` is a reply of the
    black box's own where a column holds it. They take no part in the id.
    """

    messages: tuple[Message, ...]
    chosen: str | None = None
    rejected: str | None = None
    rubric: str | None = None
    reference: str | None = None
    answer: str | None = None

    @cached_property
    def id(self) -> str:
        """First 32 hex digits of the sha256 of the canonical messages."""
        return sha256_hex([{"role": m["role"], "content": m["content"]} for m in self.messages])[:32]


OWN_REPLY = "black_box"  # id of the black box's own reply among the candidates of a run


@dataclass(frozen=True, slots=True)
class Candidate:
    """One response. ``id`` is unique within its set; ``finish`` is ``length`` when sampling was cut off.

    ``text`` is the answer alone, all that anybody is shown or counts. ``thinking``: what the policy wrote before it,
    as it wrote it, tags and white space included; empty: nothing; None: somebody else wrote the reply, or it is a
    policy that does not think.
    """

    id: str
    text: str
    finish: Literal["stop", "length"] = "stop"
    thinking: str | None = None


Exchange = tuple[Sequence[Message], Sequence[Candidate]]  # a chat, and replies to it


@dataclass(frozen=True)  # without slots, as Prompt
class CandidateSet:
    """A prompt with its distinct, non-empty responses (``drawn``: how many samples it took to get them, ``unfinished``:
    how many of these never left their thinking, and so have no answer).

    ``demonstrations``: what a judge is shown before this very set, where a measurement settles that; None: what the
    context selects.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    drawn: int = 0
    demonstrations: tuple[Demonstration, ...] | None = None
    unfinished: int = 0

    @cached_property
    def id(self) -> str:
        """First 32 hex digits of a sha256 of what a ranker is asked: prompt, candidates as they stand, the rubric and
        the reference of the prompt, and the demonstrations where they are settled. Two sets of one id are one
        question. Thinking counts where there is any: the white box goes by it."""
        asked: list[Any] = [
            self.prompt.id,
            [[c.id, c.text, c.finish, *([c.thinking] if c.thinking else [])] for c in self.candidates],
        ]
        if self.prompt.rubric is not None or self.prompt.reference is not None:
            asked.append({"rubric": self.prompt.rubric, "reference": self.prompt.reference})
        if self.demonstrations is not None:
            asked.append([d.id for d in self.demonstrations])
        return sha256_hex(asked)[:32]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(c.id for c in self.candidates)

    def text(self, candidate_id: str) -> str:
        """The response text of one candidate id; KeyError when there is none."""
        for candidate in self.candidates:
            if candidate.id == candidate_id:
                return candidate.text
        raise KeyError(candidate_id)


UnrankedReason = Literal["unusable", "refusal", "budget", "error", "too_few"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascaded:
    """What a cascade did with a list before, or instead of, asking its judge.

    kept: ids that its local ranker keeps for the judge; none where it is sure and answers alone. scores: the local
    ranker's, higher is better: sigmoid of a difference is the chance that the judge orders the two so. audited: the
    judge was asked about the whole list all the same, to measure what the cascade loses.
    """

    kept: tuple[str, ...]
    scores: Mapping[str, float]
    audited: bool = False


Given = tuple[str | tuple[str, ...], ...]
"""What one pass gave: ids best first, those that it ties in a tuple of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What a judge wrote before its verdict in one pass. ``shown``: the ids in the order in which it saw them, so that
    its response 1 is the first of them."""

    shown: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What one judge of several says of a list.

    shown: the orders in which the candidates stood before it, one a pass. passes: what each of them gave.
    reverse: as in ``Ranking``, of its own first pass. unranked: why it has no vote, with ``detail``.
    """

    judge: str
    shown: tuple[tuple[str, ...], ...] = ()
    passes: tuple[Given, ...] = ()
    reverse: Given | None = None
    unranked: UnrankedReason | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidate ids in tiers, best first; ids of one tier are tied; a ranking may cover a subset.

    ``scores``: utilities, higher is better, where the ranker has magnitudes. ``votes``: share of all pairwise
    comparisons over the passes that each id won (sums to 1). ``confidence``: mean Kendall tau between passes.
    ``passes``: what each pass gave. ``reverse``: what was given to the first pass's presentation shown from its end,
    which only measures the judge. ``reasons``: of the passes, where the judge was asked for them. ``cascade``: where a
    cascade pruned, answered alone or audited; votes, confidence and passes are then of the judged ids alone. ``jury``:
    where several judges were asked, what each said; ``passes`` are then of those that have a vote, judge by judge.
    ``set_id``: of the set that a ranker was asked about; it joins a verdict to its question within a call, and is no
    part of what the verdict says.
    """

    prompt_id: str
    tiers: tuple[tuple[str, ...], ...]
    scores: Mapping[str, float] | None = None
    votes: Mapping[str, float] | None = None
    confidence: float | None = None
    passes: tuple[Given, ...] = ()
    reverse: Given = ()
    reasons: tuple[Reason, ...] = ()
    cascade: Cascaded | None = None
    jury: tuple[Vote, ...] = ()
    set_id: str = field(default="", compare=False)

    @property
    def judged(self) -> tuple[str, ...]:
        """Ids whose order is the judge's own: all, but for those that a cascade pruned or ranked alone."""
        if self.cascade is None or self.cascade.audited:
            return self.order
        return tuple(i for i in self.order if i in self.cascade.kept)

    @property
    def order(self) -> tuple[str, ...]:
        """All ids, best first; tied ids in the order in which the tier names them."""
        return tuple(i for tier in self.tiers for i in tier)

    @staticmethod
    def from_order(prompt_id: str, order: Iterable[str], **extra: Any) -> Ranking:
        """A ranking without ties."""
        return Ranking(prompt_id=prompt_id, tiers=tuple((i,) for i in order), **extra)

    @staticmethod
    def from_scores(prompt_id: str, scores: Mapping[str, float], *, set_id: str = "") -> Ranking:
        """Order by score, higher first; equal scores share a tier."""
        levels = sorted(set(scores.values()), reverse=True)
        tiers = tuple(tuple(i for i, s in scores.items() if s == level) for level in levels)
        return Ranking(prompt_id=prompt_id, tiers=tiers, scores=dict(scores), set_id=set_id)


@dataclass(frozen=True, slots=True)
class Unranked:
    """Why there is no ranking for a prompt. Never a guessed order. ``set_id``: as in ``Ranking``."""

    prompt_id: str
    reason: UnrankedReason
    detail: str = ""
    set_id: str = field(default="", compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """What passes from trainer to generator: a name that is never reused, and directories.

    ``base``: path or hub id of the start model (or of the full checkpoint after full fine-tuning).
    ``adapter``: a PEFT adapter directory on top of it, or None.
    """

    name: str
    base: str
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class CanarySample:
    """A short greedy continuation with the generator's own log-probabilities (nats), one per token."""

    prompt: Prompt
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A worked ranking shown to the black box: the prompt, its responses, their order (best first).

    ``source``: ``static`` or the interaction that produced it. ``agreement``: chance-corrected, 1.0 for static.
    ``note`` and ``tags`` are for whoever curates the file; no judge sees them.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    order: tuple[int, ...]
    source: str = "static"
    agreement: float = 1.0
    note: str = ""
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return sha256_hex([self.prompt.id, list(self.responses), list(self.order)])[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankContext:
    """What a ranker may use besides the sets. ``demonstrations`` is the pool's selection function.

    ``purpose``: what paid calls are filed as; ``eval`` where a verdict measures the ranker and teaches nobody,
    ``witness`` where it is of a run's witness.
    ``shown_again``: ids of the prompts whose lists a paid judge is also shown in reverse, to measure it.
    """

    run: str
    interaction: int
    seed: int
    demonstrations: DemonstrationSource
    purpose: Literal["rank", "eval", "witness"] = "rank"
    shown_again: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingExample:
    """One training list: K responses of one prompt with the teacher's utilities (higher is better).

    ``thinking``: of each response, as in ``Candidate``; None: of none.
    """

    prompt_id: str
    messages: tuple[Message, ...]
    responses: tuple[str, ...]
    ended: tuple[bool, ...]
    teacher: tuple[float, ...]
    thinking: tuple[str | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainReport:
    """One interaction's training: optimiser steps so far in the run, and the logged rows."""

    global_step: int
    logs: tuple[Mapping[str, float], ...] = field(default=())


class DemonstrationSource(Protocol):
    """Selects the demonstrations for one prompt, in the order in which they are shown."""

    def select(self, prompt: Prompt) -> Sequence[Demonstration]: ...


class Generator(Protocol):
    """Samples K responses a prompt. One call is one chunk: the same seed and prompts give the same sets.

    ``pause``: what follows needs memory and no samples; the next call goes on. ``close``: the end, though a call after
    it starts anew.
    """

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]: ...

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample: ...

    def pause(self) -> None: ...

    def close(self) -> None: ...


Gives = Literal["order", "magnitude", "votes"]
"""Of a ranking: an order alone; with scores; with votes of two passes or more, which are magnitudes too."""


@runtime_checkable
class Ranker(Protocol):
    """Ranks sets, yielding one verdict each in order of completion, with the ``set_id`` of the set that it answers.

    One prompt may stand in a call with several lists of candidates. ``gives``: the finest thing the teacher can
    offer, for every list.
    """

    @property
    def gives(self) -> Gives: ...

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]: ...


class Answerer(Protocol):
    """Who has a reply of the black box's own to a prompt: a candidate by prompt id, for those that have one."""

    def answers(self, prompts: Sequence[Prompt], *, interaction: int) -> Mapping[str, Candidate]: ...


class PolicyTrainer(Protocol):
    """The white box: ranks by its own likelihood, and learns. Every method is called on every process."""

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]: ...

    def nll(self, pairs: Sequence[tuple[Prompt, Candidate]], *, start_model: bool = False) -> list[float]: ...

    def canary_gap(self, sample: CanarySample) -> float: ...

    def fit(self, examples: Sequence[RankingExample], *, start: Path | None, out: Path) -> TrainReport: ...

    def restore(self, checkpoint: Path | None) -> None: ...
