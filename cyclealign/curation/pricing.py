"""What a measurement can cost at most, from its very messages, without a call."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.curation.asking import Question
from cyclealign.judge.asked import PLAIN, Asked, asked_of
from cyclealign.judge.costs import (
    PROBES,
    WorstCase,
    answer_tokens,
    in_all,
    most_usd,
    output_bound,
    request_options,
    schema_tokens,
)
from cyclealign.judge.prompting import demonstration_tokens, estimate_message_tokens, presentations, render
from cyclealign.judge.template import RankTemplate
from cyclealign.types import CandidateSet, Demonstration


def question_tokens(question: Question, template: RankTemplate, asked: Asked = PLAIN) -> int:
    """Estimate of what one call about a pair sends."""
    shown = [d for d in question.demonstrations if d.prompt.id != question.pair.prompt.id]
    messages = render(template, shown, question.pair, (0, 1), structured=True, asked=asked)
    return estimate_message_tokens(messages) + schema_tokens(2, asked)


def most_for(questions: Sequence[Question], box: BlackBoxConfig, template: RankTemplate) -> WorstCase:
    """Every pass of every question with its repair, and the probe; what the ledger has already is not taken off."""
    if box.judges:
        return in_all(most_for(questions, judge, template) for judge in box.members)
    passes = len(presentations(2, box.passes, seed=0))
    first = passes * sum(question_tokens(q, template, asked_of(box)) for q in questions)
    repaired = passes * len(questions)
    return _priced(box, calls=2 * repaired + PROBES, tokens_in=2 * first + repaired * _repair_words(box))


def most_within(
    calls: int, largest: Question, box: BlackBoxConfig, template: RankTemplate, *, more: int = 0
) -> WorstCase:
    """``calls`` calls, each as large as ``largest`` with the words of a repair and ``more`` tokens, by the dearest
    judge."""
    if box.judges:
        cases = [most_within(calls, largest, judge, template, more=more) for judge in box.members]
        return max(cases, key=lambda most: math.inf if most.usd is None else most.usd)
    each = question_tokens(largest, template, asked_of(box)) + _repair_words(box) + more
    return _priced(box, calls=calls, tokens_in=calls * each)


def _repair_words(box: BlackBoxConfig) -> int:
    """The unusable reply, and what a repair call says of it."""
    return 2 * _answer(box) + 64


def _answer(box: BlackBoxConfig) -> int:
    return output_bound(request_options(box, 2)) or answer_tokens(2, asked_of(box))


def _priced(box: BlackBoxConfig, *, calls: int, tokens_in: int) -> WorstCase:
    tokens_out = calls * _answer(box)
    return WorstCase(calls, tokens_in, tokens_out, most_usd(box, calls, tokens_in, tokens_out))


def describe(most: WorstCase, box: BlackBoxConfig) -> list[str]:
    """Lines for ``--dry-run``."""
    money = "unknown (give price, e.g. price.input=0.15 price.output=0.6)" if most.usd is None else f"${most.usd:,.4f}"
    held = f", held to budget_usd ${box.budget_usd:,.2f}" if box.budget_usd is not None else ""
    return [
        f"paid calls: at most {most.calls:,}; what the ledger has already is free",
        f"tokens: at most {most.input_tokens:,} in, {most.output_tokens:,} out",
        f"money: at most {money}{held}",
    ]


def largest(
    pool: Sequence[Demonstration], size: int, pairs: Sequence[CandidateSet], template: RankTemplate
) -> Question:
    """The longest question that a search can ask: the ``size`` longest demonstrations before the longest pair."""
    by_cost = sorted(pool, key=lambda d: -demonstration_tokens(template, d))
    longest = max(pairs, key=lambda p: question_tokens(Question(p, ()), template))
    return Question(longest, tuple(d for d in by_cost if d.prompt.id != longest.prompt.id)[:size])
