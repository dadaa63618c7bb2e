"""A paid judge on labelled pairs, each with the demonstrations of one's choice; what a figure says of itself.

All measurements of one seed present a pair's replies in the same orders, whichever demonstrations they show: what
differs between two of them is the demonstrations alone, and differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import OPENAI_URL
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.evaluation.labelled_pairs import labelled_credit, labelled_pairs
from cyclealign.evaluation.statistics import Figure
from cyclealign.files.prompts import load_prompts
from cyclealign.files.run_records import Verdict
from cyclealign.judge.asked import asked_of
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import RankTemplate
from cyclealign.rankers.by_name import open_ranker, ranker_spec, spec_of
from cyclealign.rankers.joining import joined
from cyclealign.types import (
    BudgetExhausted,
    CandidateSet,
    Demonstration,
    RankContext,
    Ranker,
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
    """``labelled_credit`` of the verdict: 1 where the labelled reply came first; None without one, with why."""

    score: float | None
    unranked: UnrankedReason | None = None


@dataclass(frozen=True)
class LabelledJudge:
    """A ranker that is asked about labelled pairs; ``run`` and ``seed`` settle the presentation orders."""

    ranker: Ranker
    seed: int
    run: str = "demos"

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """What the verdicts are worth, in the order of ``questions``; raises as ``verdicts``."""
        return [outcome(verdict) for verdict in self.verdicts(questions)]

    def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdicts, in the order of ``questions``. A pair never sees a demonstration of its own prompt.

        Raises:
            UserError: no call can succeed.
            BudgetExhausted: the budget in USD does not cover all; what was paid for is on the ledger.
        """
        none = DemonstrationPool.start(DemonstrationsConfig())  # every set brings its own
        context = RankContext(run=self.run, interaction=0, seed=self.seed, demonstrations=none, purpose="eval")
        sets = [replace(q.pair, demonstrations=_without_own(q)) for q in questions]
        found = dict(joined(self.ranker, sets, context))
        if len(found) < len(questions):
            raise BudgetExhausted(f"{len(questions) - len(found)} pairs were not asked about")
        return [found[n] for n in range(len(questions))]


def outcome(verdict: Verdict) -> Outcome:
    if isinstance(verdict, Unranked):
        return Outcome(None, verdict.reason)
    return Outcome(labelled_credit(verdict))


def _without_own(question: Question) -> tuple[Demonstration, ...]:
    own = question.pair.prompt.id
    return tuple(d for d in question.demonstrations if d.prompt.id != own)


# Set-up -------------------------------------------------------------------------------------------------------


def black_box_section(ranker: str, options: Sequence[str]) -> BlackBoxConfig:
    """Of ``--ranker`` and its options. UserError as ``ranker_spec``, and for who is shown no demonstrations."""
    return ranker_spec(ranker, options, need="demonstrations").box


def labelled(spec: str, limit: int | None) -> list[CandidateSet]:
    """Labelled pairs of a data file or hub id (``chosen`` and ``rejected``), at most ``limit``, in file order.

    Raises UserError where there are none.
    """
    found = labelled_pairs(load_prompts(spec), limit)
    if not found:
        raise UserError(f"{spec}: holds no labelled pair; expected rows with chosen and rejected replies")
    return found


def dealt(pairs: Sequence[CandidateSet], parts: int) -> list[list[CandidateSet]]:
    """The pairs in so many parts, in turn: each once, and all of a prompt in one part, so that what is chosen on one is
    measured on prompts that the choice never saw."""
    once = {p.id: p for p in pairs}.values()
    part = {prompt: n % parts for n, prompt in enumerate(dict.fromkeys(p.prompt.id for p in once))}
    return [[p for p in once if part[p.prompt.id] == n] for n in range(parts)]


def provenance(
    box: BlackBoxConfig, template: RankTemplate, spec: str, pairs: Sequence[CandidateSet]
) -> dict[str, Figure]:
    """What a figure must say of itself: judge, template and data."""
    asked: dict[str, Figure] = {"source": spec, "count": len(pairs), "sha256": sha256_hex([p.prompt.id for p in pairs])}
    judge: dict[str, Figure] = {"model": box.judge_name, "passes": box.passes}
    judge["endpoint"] = ", ".join(member.base_url or OPENAI_URL for member in box.members)
    judge |= ({} if box.reasoning is None else {"reasoning": box.reasoning}) | asked_of(box).identity
    words = {"name": template.name, "version": template.version}
    return {"judge": judge, "template": words, "pairs": asked}


def judge(box: BlackBoxConfig, ledger: Ledger, *, seed: int, template: RankTemplate | None = None) -> LabelledJudge:
    """The judge behind an API. UserError where the key is missing."""
    return LabelledJudge(open_ranker(spec_of(box), lambda: ledger, template=template), seed)
