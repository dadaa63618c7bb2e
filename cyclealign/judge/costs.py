"""What a call may cost at most, what it did cost, and what a whole run may cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.judge.answers import REASON_WORDS, answer_format
from cyclealign.judge.asked import PLAIN, Asked, asked_of
from cyclealign.judge.call import Call, Options, content_options
from cyclealign.judge.prices import dearest, price_of
from cyclealign.judge.prompting import estimate_message_tokens, estimate_tokens, presentations, render
from cyclealign.judge.providers import reasoning_fields
from cyclealign.judge.template import RankTemplate
from cyclealign.judge.usage import Usage
from cyclealign.judge.wire import LENGTH_OPTIONS, SEEDS, WireForm, first_form
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError, canonical_json

LONGEST_ANSWER = 10_000_000  # tokens
# Most calls of a probe that are billed; a model that thinks although nothing was said of it may take three more.
PROBES = 3
# Bytes that a chat template may add around one message, or around the whole: role names and control tokens.
MESSAGE_OVERHEAD = 16
# Tokens by ``estimate_tokens`` for one token of the policy: 4.4 letters a token, of 2.75 that the estimate allows.
JUDGE_TOKENS_PER_POLICY_TOKEN = 1.6
# Of ``estimate_tokens``, what a tokenizer of today needs on average; tokens of an answer for each candidate.
TYPICAL, ANSWER_TOKENS = 0.6, 4
REASON_TOKENS = 8 * REASON_WORDS  # room for a reason that is longer than it was asked to be
TOP_LOGPROBS = 20  # the most that most servers give


def answer_tokens(k: int, asked: Asked = PLAIN) -> int:
    """Most tokens asked for: the answer needs about 4 a candidate; the rest is for a fence or a few words, and for a
    reason where there is one. One where the first is all that is read."""
    if asked.answer == "first_token":
        return 1
    return 64 + 8 * k + (REASON_TOKENS if asked.explain else 0)


def usual_answer(k: int, asked: Asked) -> int:
    """Tokens that an answer takes on average."""
    if asked.answer == "first_token":
        return 1
    return ANSWER_TOKENS * k * (2 if asked.answer == "scores" else 1) + (2 * REASON_WORDS if asked.explain else 0)


def request_options(
    config: BlackBoxConfig, k: int, form: WireForm | None = None, *, tokens: int | None = None
) -> dict[str, Any]:
    """The request's fields besides model, messages and schema: our defaults, under the user's own (null removes one).

    form: as far as it is known; by default as the provider is asked first. tokens: of the answer, by default what a
    verdict on ``k`` candidates needs. UserError where the provider has no such
    level of reasoning.
    """
    form = form or first_form(config)
    fields: dict[str, Any] = {"temperature": 0} if form.temperature and "temperature" not in form.refused else {}
    if config.answer == "first_token" and tokens is None:
        fields |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if not any(name in config.request for name in LENGTH_OPTIONS) and (name := form.named(form.length)):
        fields[name] = form.limit(tokens or answer_tokens(k, asked_of(config)))
    for name, value in config.request.items():
        fields.pop(name, None)
        renamed = form.named(form.seed if name == "seed" else name) if name in (*LENGTH_OPTIONS, *SEEDS) else name
        if value is not None and renamed:
            fields[renamed] = value
    return fields | dict(reasoning_fields(config))


def asked_options(config: BlackBoxConfig) -> dict[str, Any]:
    """Of the options, what is asked for, whatever a provider calls it: a part of a call's identity."""
    reasoning = {} if config.reasoning is None else {"reasoning": config.reasoning}
    return content_options(config.request) | reasoning | asked_of(config).identity


def output_bound(options: Options) -> int | None:
    """Most tokens that a server may answer with, or None where the request does not say."""
    limits = [options[name] for name in LENGTH_OPTIONS if type(options.get(name)) is int and options[name] > 0]
    return max(limits, default=None)


def input_bound(call: Call) -> int:
    """Tokens that the request cannot exceed: one a byte, which holds for every byte-level or byte-fallback tokenizer.

    Far more than it takes; but a reservation is given back with the reply, and a budget that is called hard
    must not rest on an estimate.
    """
    content = sum(len(m["content"].encode()) + len(m["role"]) + MESSAGE_OVERHEAD for m in call.messages)
    schema = len(canonical_json(call.schema).encode()) if call.schema else 0
    return content + schema + MESSAGE_OVERHEAD


def estimated_tokens(call: Call) -> int:
    """Tokens to count against a rate before the reply says how many it were."""
    return estimate_message_tokens(call.messages) + (output_bound(call.options) or 0)


def usd(price: Price | None, input_tokens: float, output_tokens: float) -> float:
    """Cost in USD of tokens of no particular kind; 0 where no price is given."""
    return 0.0 if price is None else (input_tokens * price.input + output_tokens * price.output) / 1e6


def usage_usd(price: Price | None, usage: Usage) -> float:
    """Cost in USD of what a server counts, each kind of token at its price; 0 where no price is given."""
    if price is None:
        return 0.0
    given, made, thinking = usage.input_tokens or 0, usage.output_tokens or 0, usage.thinking or 0
    return (
        (given - usage.cached - usage.written) * price.input
        + usage.cached * _or(price.cached_input, price.input)
        + usage.written * _or(price.cache_write, price.input)
        + (made - thinking) * price.output
        + thinking * _or(price.thinking, price.output)
    ) / 1e6


def _or(own: float | None, other: float) -> float:
    return other if own is None else own


def check_bounded(config: BlackBoxConfig) -> None:
    """UserError where a budget is set but nothing limits how long an answer may get, or a limit is none."""
    bound = output_bound(request_options(config, 2))
    if bound is not None and bound > LONGEST_ANSWER:  # its price would be more than the ledger can hold
        raise UserError(f"black_box.request: expected a limit of at most {LONGEST_ANSWER:,} tokens, got {bound:.4g}")
    if config.budget_usd is not None and bound is None:
        raise UserError(
            "black_box.request: with budget_usd the length of an answer must be limited; give max_tokens or"
            " max_completion_tokens a number, or leave both out"
        )


class WorstCase(NamedTuple):
    """Most calls, tokens and money (None: no price given) of ranking; of ``typical_case``, what is to be expected."""

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None


def in_all(cases: Iterable[WorstCase]) -> WorstCase:
    """Their sum; no money where one of them has no price."""
    calls, given, made, money = zip(*cases, strict=True)
    paid = [usd for usd in money if usd is not None]
    return WorstCase(sum(calls), sum(given), sum(made), sum(paid) if len(paid) == len(money) else None)


def worst_case(
    config: BlackBoxConfig,
    template: RankTemplate,
    *,
    demonstration_tokens: int,
    n_items: int,
    k: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
    again: int = 0,
) -> WorstCase:
    """The most that ranking ``n_items`` sets of ``k`` candidates can take, for ``--dry-run``.

    Every pass is counted with its repair call, and the probe with all of its calls; attempts that the server refuses
    or drops are not. ``demonstration_tokens``: estimate of all demonstrations shown in one call. The two last are
    tokens of the policy; give the longest prompt of the data where it is known. ``again``: sets that are also shown
    in reverse where that is no pass of its own. Of several judges their sum. UserError as ``request_options`` and
    ``tariff_of``.
    """
    data = round(JUDGE_TOKENS_PER_POLICY_TOKEN * (max_prompt_tokens + k * max_new_tokens))

    def most(judge: BlackBoxConfig) -> WorstCase:
        orders = len(presentations(k, judge.passes, seed=0))
        asked = asked_of(judge)
        frame = _frame_tokens(template, k, asked)
        answer = output_bound(request_options(judge, k)) or answer_tokens(k, asked)
        first = frame + demonstration_tokens + data
        repair = first + 2 * answer + 64  # the unusable reply and the words around it
        pairs = n_items * orders + (0 if orders == 2 else again)
        probes = PROBES if n_items else 0
        calls = 2 * pairs + probes
        input_tokens = pairs * (first + repair) + probes * frame
        output_tokens = calls * answer
        return WorstCase(calls, input_tokens, output_tokens, most_usd(judge, calls, input_tokens, output_tokens))

    return in_all(map(most, config.everyone or (config,)))


def typical_case(
    config: BlackBoxConfig,
    template: RankTemplate,
    *,
    demonstration_tokens: int,
    n_items: int,
    k: int,
    prompt_tokens: float,
    new_tokens: float,
) -> WorstCase:
    """What ranking takes where no reply needs its repair, and nothing is thought: the arguments of ``worst_case``, with
    prompts and candidates of their usual length. UserError as there."""
    data = JUDGE_TOKENS_PER_POLICY_TOKEN * (prompt_tokens + k * new_tokens)

    def usual(judge: BlackBoxConfig) -> WorstCase:
        calls = n_items * len(presentations(k, judge.passes, seed=0))
        asked = asked_of(judge)
        given = round(calls * TYPICAL * (_frame_tokens(template, k, asked) + demonstration_tokens + data))
        made = calls * usual_answer(k, asked)
        price = price_of(judge, given / max(calls, 1))
        return WorstCase(calls, given, made, None if price is None else usd(price, given, made))

    return in_all(map(usual, config.everyone or (config,)))


def schema_tokens(k: int, asked: Asked) -> int:
    """Estimate of the schema that goes with a call."""
    return 0 if asked.answer == "first_token" else estimate_tokens(canonical_json(answer_format(k, "schema", asked)))


def _frame_tokens(template: RankTemplate, k: int, asked: Asked) -> int:
    """Estimate of a call around its data, its schema included."""
    empty = CandidateSet(Prompt(({"role": "user", "content": ""},)), tuple(Candidate(str(i), "") for i in range(k)))
    frame = estimate_message_tokens(render(template, (), empty, range(k), structured=True, asked=asked))
    return frame + schema_tokens(k, asked)


def most_usd(config: BlackBoxConfig, calls: int, input_tokens: float, output_tokens: float) -> float | None:
    """Most that so many calls cost together, probes at the price of calls that go out one by one, in USD; None where no
    price is given. UserError as ``tariff_of``."""
    price = price_of(config, input_tokens / max(calls, 1))
    if price is None:
        return None
    cost = usd(dearest(price), input_tokens, output_tokens)
    if not config.batch or calls == 0:
        return cost
    online = price_of(config.model_copy(update={"batch": False}), input_tokens / calls)
    probes = min(PROBES / calls, 1.0)
    return cost + probes * (usd(dearest(online), input_tokens, output_tokens) - cost) if online else cost
