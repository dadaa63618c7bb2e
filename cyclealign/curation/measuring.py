"""A paid judge on labelled pairs, each pair with the demonstrations of one's choice; every call on one ledger.

All measurements of one seed present a pair's replies in the same orders, whichever demonstrations they show: what
differs between two of them is the demonstrations alone, and differences are paired.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cyclealign.config.endpoints import OPENAI_URL
from cyclealign.config.loading import parsed_section
from cyclealign.config.schema import BlackBoxConfig
from cyclealign.evaluation.intervals import Z95, wilson
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.files.prompts import load_prompts
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import (
    BudgetExhausted,
    CandidateSet,
    Demonstration,
    Prompt,
    RankContext,
    Ranker,
    Ranking,
    Unranked,
    UnrankedReason,
    UserError,
    sha256_hex,
)

DEFAULT_LEDGER = Path("runs/demos.ledger.sqlite")


class Question(NamedTuple):
    """One labelled pair, and what is shown before it."""

    pair: CandidateSet
    demonstrations: tuple[Demonstration, ...]


class Outcome(NamedTuple):
    """1 where the labelled reply came first, 0.5 for a tie, 0 else; None without a verdict, with why."""

    score: float | None
    unranked: UnrankedReason | None = None


@dataclass(frozen=True)
class _Shown:
    """The demonstrations of each prompt, as the ranker asks for them."""

    by_prompt: Mapping[str, tuple[Demonstration, ...]]

    def select(self, prompt: Prompt) -> tuple[Demonstration, ...]:
        return self.by_prompt[prompt.id]


@dataclass(frozen=True)
class Judge:
    """A ranker that is asked about labelled pairs; ``run`` and ``seed`` settle the presentation orders."""

    ranker: Ranker
    seed: int
    run: str = "demos"

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """The outcomes, in the order of ``questions``. A pair never sees a demonstration of its own prompt.

        Raises:
            UserError: no call can succeed.
            BudgetExhausted: the budget in USD does not cover all; what was paid for is on the ledger.
        """
        found: dict[int, Outcome] = {}
        for wave in _waves(questions):
            shown = {questions[n].pair.prompt.id: _without_own(questions[n]) for n in wave}
            places = {questions[n].pair.prompt.id: n for n in wave}
            context = RankContext(
                run=self.run, interaction=0, seed=self.seed, demonstrations=_Shown(shown), purpose="eval"
            )
            for verdict in self.ranker.rank((questions[n].pair for n in wave), context):
                found[places[verdict.prompt_id]] = outcome(verdict)
        if len(found) < len(questions):
            raise BudgetExhausted(f"{len(questions) - len(found)} pairs were not asked about")
        return [found[n] for n in range(len(questions))]


def outcome(verdict: Ranking | Unranked) -> Outcome:
    if isinstance(verdict, Unranked):
        return Outcome(None, verdict.reason)
    return Outcome(0.5 if len(verdict.tiers) == 1 else float(verdict.order[0] == "chosen"))


def _waves(questions: Sequence[Question]) -> list[list[int]]:
    """Places of the questions, no prompt twice in a wave: a ranker's verdicts are joined by prompt."""
    seen: dict[str, int] = defaultdict(int)
    waves: list[list[int]] = []
    for n, question in enumerate(questions):
        wave = seen[question.pair.prompt.id]
        seen[question.pair.prompt.id] += 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(n)
    return waves


def _without_own(question: Question) -> tuple[Demonstration, ...]:
    own = question.pair.prompt.id
    return tuple(d for d in question.demonstrations if d.prompt.id != own)


# Figures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accuracy:
    """Over the pairs that got a verdict; the interval is Wilson's, 95%. ``asked`` counts all."""

    value: float | None
    low: float
    high: float
    ranked: int
    asked: int
    unranked: Mapping[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        interval = {"accuracy": self.value, "low": self.low, "high": self.high}
        return interval | {"ranked": self.ranked, "asked": self.asked, "unranked": dict(self.unranked)}


def accuracy_of(outcomes: Sequence[Outcome]) -> Accuracy:
    """Mean score of the ranked pairs. Where ties give half points, the interval runs from that of the floor to that of
    the ceiling."""
    scores = [o.score for o in outcomes if o.score is not None]
    reasons: list[str] = [o.unranked for o in outcomes if o.unranked is not None]
    unranked = {r: reasons.count(r) for r in sorted(set(reasons))}
    if not scores:
        return Accuracy(None, 0.0, 1.0, 0, len(outcomes), unranked)
    total = sum(scores)
    n = len(scores)
    low, high = wilson(math.floor(total) / n, n)[0], wilson(math.ceil(total) / n, n)[1]
    return Accuracy(total / len(scores), low, high, len(scores), len(outcomes), unranked)


@dataclass(frozen=True)
class Difference:
    """First accuracy minus second, over the pairs that both ranked; 95%."""

    value: float
    low: float
    high: float
    pairs: int

    def record(self) -> dict[str, float | int]:
        return {"difference": self.value, "low": self.low, "high": self.high, "pairs": self.pairs}


def paired_difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> Difference | None:
    """With the adjusted Wald interval for matched pairs (Agresti and Min 2005, Statistics in Medicine 24:729).

    It adds half a pair to each of the four cells, so that it has a width where no pair differs. None where no pair got
    a verdict from both.
    """
    both = zip(first, second, strict=True)
    gaps = [a.score - b.score for a, b in both if a.score is not None and b.score is not None]
    if not gaps:
        return None
    n = len(gaps) + 2
    mean = sum(gaps) / n  # the added pairs sum to 0
    variance = (sum(g * g for g in gaps) + 1) / n - mean * mean
    half = Z95 * math.sqrt(variance / n)
    return Difference(sum(gaps) / len(gaps), max(-1.0, mean - half), min(1.0, mean + half), len(gaps))


# Set-up -------------------------------------------------------------------------------------------------------


def black_box_section(ranker: str, options: Sequence[str]) -> BlackBoxConfig:
    """``openai:MODEL`` and ``key=value`` of the black_box section. UserError for rankers that see no demonstrations."""
    kind, _, model = ranker.partition(":")
    if kind != "openai" or not model:
        raise UserError(f"--ranker: expected openai:MODEL (other rankers see no demonstrations), got {ranker!r}")
    return parsed_section(BlackBoxConfig, "black_box", {"backend": "openai", "model": model}, options)


def labelled(spec: str, limit: int | None) -> list[CandidateSet]:
    """Labelled pairs of a data file or hub id (``chosen`` and ``rejected``), at most ``limit``, in file order.

    Raises UserError where there are none.
    """
    found = labelled_pairs(load_prompts(spec), limit)
    if not found:
        raise UserError(f"{spec}: holds no labelled pair; expected rows with chosen and rejected replies")
    return found


def provenance(
    box: BlackBoxConfig, template: RankTemplate, spec: str, pairs: Sequence[CandidateSet], seed: int
) -> dict[str, Any]:
    """What a figure must say of itself: judge, template, data and seed."""
    asked = {"source": spec, "count": len(pairs), "sha256": sha256_hex([p.prompt.id for p in pairs])}
    judge = {"model": box.model, "endpoint": box.base_url or OPENAI_URL, "passes": box.passes}
    words = {"name": template.name, "version": template.version}
    return {"judge": judge, "template": words, "pairs": asked, "seed": seed}


def judge(box: BlackBoxConfig, ledger: Ledger, *, seed: int, template: RankTemplate | None = None) -> Judge:
    """The judge behind an API. UserError where the key is missing."""
    return Judge(BlackBoxRanker(box, template or load_template(box.template), ledger), seed)
