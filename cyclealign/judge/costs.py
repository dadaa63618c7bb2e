"""What a call may cost at most, what it did cost, and what a whole run may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cyclealign.config.endpoints import OPENAI_URL, host_of
from cyclealign.config.schema import BlackBoxConfig, Price
from cyclealign.judge.call import Call
from cyclealign.judge.prompting import estimate_message_tokens, estimate_tokens, presentations, render, response_format
from cyclealign.judge.template import RankTemplate
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError, canonical_json

LENGTH_OPTIONS = ("max_tokens", "max_completion_tokens")
LONGEST_ANSWER = 10_000_000  # tokens
# Most calls of a probe: with a schema, once more, and without one.
PROBES = 3
# Bytes that a chat template may add around one message, or around the whole: role names and control tokens.
MESSAGE_OVERHEAD = 16
# Tokens by ``estimate_tokens`` for one token of the policy: 4.4 letters a token, of 2.75 that the estimate allows.
JUDGE_TOKENS_PER_POLICY_TOKEN = 1.6


def answer_tokens(k: int) -> int:
    """Most tokens asked for: the answer needs about 4 a candidate; the rest is for a fence or a few words."""
    return 64 + 8 * k


def request_options(config: BlackBoxConfig, k: int) -> dict[str, Any]:
    """The request's fields besides model, messages and schema: our defaults, under the user's own (null removes one).

    OpenAI's newer models refuse ``max_tokens``, and many other servers know nothing else.
    """
    length = "max_completion_tokens" if host_of(config.base_url) == host_of(OPENAI_URL) else "max_tokens"
    defaults: dict[str, Any] = {"temperature": 0}
    if not any(name in config.request for name in LENGTH_OPTIONS):
        defaults[length] = answer_tokens(k)
    return {name: value for name, value in (defaults | config.request).items() if value is not None}


def output_bound(options: Mapping[str, Any]) -> int | None:
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
    """Cost in USD; 0 where no price is given."""
    if price is None:
        return 0.0
    return (input_tokens * price.input + output_tokens * price.output) / 1e6


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
    """Most calls, tokens and money (None: no price given) of ranking."""

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None


def worst_case(
    config: BlackBoxConfig,
    template: RankTemplate,
    *,
    demonstration_tokens: int,
    n_items: int,
    k: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
) -> WorstCase:
    """The most that ranking ``n_items`` sets of ``k`` candidates can take, for ``--dry-run``.

    Every pass is counted with its repair call, and the probe with all of its calls; attempts that the server refuses
    or drops are not. ``demonstration_tokens``: estimate of all demonstrations shown in one call. The two last are
    tokens of the policy; give the longest prompt of the data where it is known.
    """
    orders = len(presentations(k, config.passes, seed=0))
    empty = CandidateSet(Prompt(({"role": "user", "content": ""},)), tuple(Candidate(str(i), "") for i in range(k)))
    frame = estimate_message_tokens(render(template, (), empty, range(k), structured=True))
    schema = estimate_tokens(canonical_json(response_format(k)))
    data = round(JUDGE_TOKENS_PER_POLICY_TOKEN * (max_prompt_tokens + k * max_new_tokens))
    answer = output_bound(request_options(config, k)) or answer_tokens(k)
    first = frame + schema + demonstration_tokens + data
    repair = first + 2 * answer + 64  # the unusable reply and the words around it
    pairs = n_items * orders
    probes = PROBES if n_items else 0
    calls = 2 * pairs + probes
    input_tokens = pairs * (first + repair) + probes * (frame + schema)
    output_tokens = calls * answer
    cost = None if config.price is None else usd(config.price, input_tokens, output_tokens)
    return WorstCase(calls, input_tokens, output_tokens, cost)
