"""What a run can take at most: calls, tokens and money, without a call and without a directory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import Config
from cyclealign.cycle.consistency import FIRST, is_drawn
from cyclealign.cycle.prompts import run_prompts, try_template
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.evaluation.reply_pairs import RANKER_PAIRS
from cyclealign.judge.costs import (
    JUDGE_TOKENS_PER_POLICY_TOKEN,
    TYPICAL,
    WorstCase,
    in_all,
    most_usd,
    output_bound,
    request_options,
    typical_case,
    usd,
    worst_case,
)
from cyclealign.judge.prices import price_of
from cyclealign.judge.prompting import estimate_message_tokens, estimate_tokens, prompt_tokens
from cyclealign.judge.template import check_places, load_template
from cyclealign.types import CandidateSet, Prompt


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What a dry run knows of all training prompts. Tokens are a judge's, as they are estimated.

    longest: tokens of the longest, as a judge is shown it. shown: of all. own: of all by their own words alone.
    drawn: lists that are drawn to be shown to the judge again.
    """

    prompts: int
    longest: int
    shown: int
    own: int
    drawn: int


def _tokens_of(config: Config, prompts: Iterable[Prompt]) -> _Tokens:
    """In one reading: prompts wait in a file."""
    box, rounds = config.black_box, config.cycle.max_interactions if config.black_box.repeated else 0
    count = longest = shown = own = drawn = 0
    for prompt in prompts:
        tokens = prompt_tokens(prompt)
        count, longest = count + 1, max(longest, tokens)
        shown, own = shown + tokens, own + estimate_message_tokens(prompt.messages)
        drawn += sum(is_drawn(box, n, prompt.id, seed=config.seed) for n in range(rounds))
    return _Tokens(count, longest, shown, own, drawn)


def run_worst_case(
    config: Config,
    prompts: Sequence[Prompt],
    labelled: Sequence[CandidateSet],
    held_out: Sequence[Prompt] = (),
    read: _Tokens | None = None,
) -> WorstCase:
    """The most that the black box of a run can take; nothing but time where it is not an API.

    Every prompt stays unsettled through all interactions, every pass needs its repair, and every evaluation asks
    about all labelled pairs; where a witness watches, also about new replies to some of the prompts that are held out,
    beside the start model's. The witness's own calls are no part of it.

    Args:
        read: of the prompts, where they have been read already.
    """
    if config.black_box.judge != "openai":
        return WorstCase(0, 0, 0, 0.0)
    read = read or _tokens_of(config, prompts)
    cases = [_answers(config, read)]
    template = load_template(config.black_box.template)
    check_places(template, chain(prompts, (s.prompt for s in labelled)), config.black_box.rubric or "")
    cases.append(
        worst_case(
            config.black_box,
            template,
            demonstration_tokens=config.demonstrations.token_budget,
            n_items=len(prompts) * config.cycle.max_interactions,
            k=config.list_size,
            max_prompt_tokens=_policy_tokens([read.longest]),
            max_new_tokens=config.generator.max_new_tokens,
            again=_lists_shown_again(config, read),
        )
    )
    if labelled:
        cases.append(
            worst_case(
                config.black_box,
                template,
                demonstration_tokens=config.demonstrations.token_budget,
                n_items=len(labelled) * evaluations(config, len(prompts)),
                k=2,
                max_prompt_tokens=_policy_tokens(prompt_tokens(s.prompt) for s in labelled),
                max_new_tokens=_policy_tokens(estimate_tokens(c.text) for s in labelled for c in s.candidates),
            )
        )
    if config.cycle.watched_by is not None and held_out:
        shown = config.demonstrations.token_budget
        cases.append(_against_start(config, config.black_box, held_out[:RANKER_PAIRS], len(prompts), shown))
    return in_all(cases)


def _against_start(
    config: Config, box: BlackBoxConfig, held_out: Sequence[Prompt], prompts: int, demonstration_tokens: int
) -> WorstCase:
    """The most that a judge takes to compare replies with the start model's, at all evaluations but the first."""
    return worst_case(
        box,
        load_template(box.template),
        demonstration_tokens=demonstration_tokens,
        n_items=len(held_out) * max(evaluations(config, prompts) - 1, 0),
        k=2,
        max_prompt_tokens=_policy_tokens(map(prompt_tokens, held_out)),
        max_new_tokens=config.generator.max_new_tokens,
    )


def _witness_lines(config: Config, prompts: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[str]:
    """What the witness takes, apart from the judge; nothing where there is none."""
    witness = config.cycle.watched_by
    judge = None if witness is None else witness.judge(config.black_box)
    if witness is None or judge is None:
        return [] if witness is None else [f"witness: {witness.scorer}, which is not paid"]
    most = _against_start(config, judge, held_out, len(prompts), 0)
    return [
        f"witness: {witness.scorer}, at most {most.calls:,} calls, {most.input_tokens:,} tokens in,"
        f" {most.output_tokens:,} out; {_money(most, judge, 'cycle.witness')}"
    ]


def _money(most: WorstCase, box: BlackBoxConfig, section: str) -> str:
    money = f"unknown (set {section}.price, or price: auto)" if most.usd is None else f"${most.usd:,.2f}"
    held = "" if box.budget_usd is None else f", held to {section}.budget_usd ${box.budget_usd:,.2f}"
    return f"money: at most {money}{held}"


def _answers(config: Config, read: _Tokens, *, typical: bool = False) -> WorstCase:
    """The black box's own replies: each prompt once, whatever its interactions; of half the length, if ``typical``."""
    box = config.black_box.model_copy(update={"batch": False})  # it writes online
    if box.answers is not True:
        return WorstCase(0, 0, 0, 0.0 if price_of(box, 0) is not None else None)
    most = output_bound(request_options(box, 2, tokens=config.generator.max_new_tokens))
    longest = config.generator.max_new_tokens if most is None else most
    calls, given, made = read.prompts, read.own, read.prompts * longest
    if typical:
        given, made = round(TYPICAL * given), calls * (config.generator.max_new_tokens // 2)
        price = price_of(box, given / max(calls, 1))
        return WorstCase(calls, given, made, None if price is None else usd(price, given, made))
    return WorstCase(calls, given, made, most_usd(box, calls, given, made))


def _lists_shown_again(config: Config, read: _Tokens) -> int:
    """Most lists that the judge is also shown in reverse."""
    return min(FIRST + read.drawn, read.prompts * config.cycle.max_interactions)


def evaluations(config: Config, prompts: int) -> int:
    """Most evaluations of a run: the start model, and every ``eval_every``-th of all interactions and the last."""
    if config.cycle.eval_every == 0:
        return 0
    interactions = math.ceil(prompts / config.cycle.batch_size) * config.cycle.max_interactions
    return 1 + math.ceil(interactions / config.cycle.eval_every)


def describe_worst_case(config: Config) -> list[str]:
    """Lines for ``cyclealign run --dry-run``. UserError as a run would raise it for its data and template."""
    prompts, held_out = run_prompts(config.data, answers=config.black_box.answer_column)
    read = _tokens_of(config, prompts) if config.black_box.judge == "openai" else None
    most = run_worst_case(config, prompts, labelled_pairs(held_out), held_out, read)
    watching = _witness_lines(config, prompts, held_out)
    lines = [
        f"prompts: {len(prompts)} to train on, {len(held_out)} to evaluate on",
        try_template(config, prompts, held_out),
        f"interactions: at most {math.ceil(len(prompts) / config.cycle.batch_size) * config.cycle.max_interactions}",
        f"drift.keep: {config.kept_by_text}",
    ]
    if read is None:
        return [*lines, f"paid calls: none (black_box.backend {config.black_box.backend})", *watching]
    return [
        *lines,
        f"paid calls: at most {most.calls:,}",
        f"tokens: at most {most.input_tokens:,} in, {most.output_tokens:,} out",
        _money(most, config.black_box, "black_box"),
        f"typical: {_typical(config, read)}",
        *watching,
    ]


def _typical(config: Config, read: _Tokens) -> str:
    """Beside the most: every prompt through all interactions, of average length, with candidates of half the length
    that they may have; no repair, no labelled pairs, and no thinking, which only the judge knows."""
    tokens = read.shown / JUDGE_TOKENS_PER_POLICY_TOKEN
    ranking = typical_case(
        config.black_box,
        load_template(config.black_box.template),
        demonstration_tokens=config.demonstrations.token_budget,
        n_items=read.prompts * config.cycle.max_interactions,
        k=config.list_size,
        prompt_tokens=tokens / max(read.prompts, 1),
        new_tokens=config.generator.max_new_tokens / 2,
    )
    found = in_all((ranking, _answers(config, read, typical=True)))
    cost = "" if found.usd is None else f", ${found.usd:,.2f}"
    return (
        f"{found.calls:,} calls, {found.input_tokens:,} tokens in, {found.output_tokens:,} out{cost}; no repairs,"
        " nothing settled early; what the judge thinks comes on top"
    )


def _policy_tokens(estimates: Iterable[int]) -> int:
    """The longest, in the policy's tokens, in which ``worst_case`` counts."""
    return math.ceil(max(estimates, default=0) / JUDGE_TOKENS_PER_POLICY_TOKEN)
