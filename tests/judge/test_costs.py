"""What a call and a run may cost at most."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.judge.answers import answer_format
from cyclealign.judge.asked import Asked
from cyclealign.judge.call import Call
from cyclealign.judge.costs import (
    WorstCase,
    answer_tokens,
    check_bounded,
    estimated_tokens,
    input_bound,
    output_bound,
    request_options,
    schema_tokens,
    typical_case,
    usd,
    worst_case,
)
from cyclealign.judge.prompting import (
    estimate_message_tokens,
    estimate_tokens,
    render,
    repair_messages,
)
from cyclealign.judge.template import load_template
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError, canonical_json


def config(**changes: Any) -> BlackBoxConfig:
    return BlackBoxConfig(**{"model": "judge", "base_url": "http://127.0.0.1:8000/v1"} | changes)


def test_the_price_is_in_usd_a_million_tokens() -> None:
    assert usd(Price(input=0.15, output=0.6), 1_000_000, 500_000) == pytest.approx(0.45)
    assert usd(None, 10**9, 10**9) == 0.0


@pytest.mark.parametrize(
    ("changes", "options", "bound"),
    [
        ({}, {"temperature": 0, "max_tokens": 88}, 88),
        ({"base_url": None}, {"temperature": 0, "max_completion_tokens": 88}, 88),
        ({"base_url": "https://api.openai.com/v1"}, {"temperature": 0, "max_completion_tokens": 88}, 88),
        ({"request": {"temperature": 0.7, "seed": 3}}, {"temperature": 0.7, "seed": 3, "max_tokens": 88}, 88),
        ({"request": {"temperature": None, "max_completion_tokens": 9}}, {"max_completion_tokens": 9}, 9),
        ({"request": {"max_tokens": None}}, {"temperature": 0}, None),
        # A server may go by either.
        (
            {"request": {"max_tokens": 5, "max_completion_tokens": 9}},
            {"temperature": 0, "max_tokens": 5, "max_completion_tokens": 9},
            9,
        ),
    ],
)
def test_options_and_their_bound(changes: dict[str, Any], options: dict[str, Any], bound: int | None) -> None:
    found = request_options(config(**changes), 3)
    assert found == options
    assert output_bound(found) == bound


def test_no_text_has_more_tokens_than_its_bound() -> None:
    text = "Grüße, 世界! " * 10
    call = Call(
        endpoint="e",
        model="m",
        messages=[{"role": "user", "content": text}],
        schema=answer_format(3, "schema"),
        options={},
        purpose="rank",
    )
    schema = len(canonical_json(answer_format(3, "schema")))
    assert input_bound(call) == len(text.encode()) + len("user") + 16 + schema + 16


@pytest.mark.parametrize("k", [2, 4, 6])
@pytest.mark.parametrize("passes", [1, 3])
def test_the_worst_case_covers_calls_of_full_length(k: int, passes: int) -> None:
    """Prompts and candidates as long as they may be, at 4 letters a token of the policy, all of them repaired."""
    template = load_template("rank")
    words = "abc " * 200  # 200 tokens of 4 letters
    prompt = Prompt(({"role": "user", "content": words},))
    item = CandidateSet(prompt, tuple(Candidate(str(i), words) for i in range(k)))
    messages = render(template, (), item, range(k), structured=True)
    schema = estimate_tokens(canonical_json(answer_format(k, "schema")))
    first = estimate_message_tokens(messages) + schema
    repair = estimate_message_tokens(repair_messages(messages, "abc " * answer_tokens(k), "it is wrong")) + schema
    found = worst_case(
        config(passes=passes, price=Price(input=1.0, output=2.0)),
        template,
        demonstration_tokens=0,
        n_items=7,
        k=k,
        max_prompt_tokens=200,
        max_new_tokens=200,
    )
    orders = min(passes, 2 if k == 2 else passes)
    assert found.calls == 7 * orders * 2 + 3
    assert 7 * orders * (first + repair) <= found.input_tokens <= 1.5 * 7 * orders * (first + repair)
    assert found.output_tokens == found.calls * answer_tokens(k)
    assert found.usd == pytest.approx((found.input_tokens + 2 * found.output_tokens) / 1e6)


def test_a_batch_costs_its_share_and_its_probes_the_whole_price() -> None:
    usual = {"demonstration_tokens": 500, "n_items": 7, "k": 3, "max_prompt_tokens": 200, "max_new_tokens": 200}
    price = Price(input=1.0, output=2.0, thinking=4.0, batch=0.25)
    online = worst_case(config(price=price), load_template("rank"), **usual)
    found = worst_case(config(price=price, batch=True), load_template("rank"), **usual)
    assert online.usd is not None
    assert found._replace(usd=None) == online._replace(usd=None)
    assert found.usd == pytest.approx(online.usd * (0.25 + 0.75 * 3 / online.calls), rel=1e-12)


def test_what_is_typical_is_a_part_of_the_most() -> None:
    box = config(passes=2, price=Price(input=1.0, output=2.0))
    usual = {"demonstration_tokens": 500, "n_items": 7, "k": 3}
    most = worst_case(box, load_template("rank"), **usual, max_prompt_tokens=200, max_new_tokens=200)
    typical = typical_case(box, load_template("rank"), **usual, prompt_tokens=80.0, new_tokens=100.0)
    assert (typical.calls, typical.output_tokens) == (14, 14 * 12)
    assert 0.1 * most.input_tokens < typical.input_tokens < 0.5 * most.input_tokens
    assert typical.usd == pytest.approx((typical.input_tokens + 2 * typical.output_tokens) / 1e6)
    more = typical_case(box, load_template("rank"), **usual, prompt_tokens=180.0, new_tokens=100.0)
    assert more.input_tokens - typical.input_tokens == pytest.approx(14 * 0.6 * 1.6 * 100, abs=1)


def test_the_worst_case_by_value() -> None:
    """A call and its repair for each set, and a probe of three."""
    frame = estimate_message_tokens(render(load_template("rank"), (), an_empty_set(3), range(3), structured=True))
    schema = estimate_tokens(canonical_json(answer_format(3, "schema")))
    found = worst_case(
        config(), load_template("rank"), demonstration_tokens=11, n_items=5, k=3, max_prompt_tokens=10, max_new_tokens=5
    )
    call = frame + schema + 11 + 40  # 1.6 tokens of the judge for each of 10 + 3 * 5
    assert found.calls == 5 * 2 + 3
    assert found.input_tokens == 5 * (call + call + 2 * answer_tokens(3) + 64) + 3 * (frame + schema)
    assert found.output_tokens == 13 * 88
    assert found.usd is None


def test_sets_shown_again_in_reverse_cost_their_calls_unless_that_is_a_pass() -> None:
    more = {"demonstration_tokens": 0, "n_items": 5, "k": 3, "max_prompt_tokens": 10, "max_new_tokens": 5}
    calls = [worst_case(config(passes=n), load_template("rank"), **more, again=4).calls for n in (1, 2, 3)]
    assert calls == [2 * (5 + 4) + 3, 2 * 10 + 3, 2 * (15 + 4) + 3]


def test_a_schema_goes_with_what_is_held_to_one() -> None:
    assert schema_tokens(3, Asked(answer="first_token")) == 0
    assert schema_tokens(3, Asked()) == estimate_tokens(canonical_json(answer_format(3, "schema")))


def an_empty_set(k: int) -> CandidateSet:
    return CandidateSet(Prompt(({"role": "user", "content": ""},)), tuple(Candidate(str(i), "") for i in range(k)))


def test_nothing_to_rank_costs_nothing() -> None:
    found = worst_case(
        config(), load_template("rank"), demonstration_tokens=9, n_items=0, k=3, max_prompt_tokens=9, max_new_tokens=9
    )
    assert found == WorstCase(0, 0, 0, None)


def test_a_limit_beyond_all_models_is_a_mistake() -> None:
    with pytest.raises(UserError, match="at most 10,000,000 tokens, got 1e\\+30"):
        check_bounded(BlackBoxConfig(model="judge", request={"max_tokens": 10**30}))
    check_bounded(BlackBoxConfig(model="judge", request={"max_tokens": 131_072}))
    check_bounded(BlackBoxConfig(model="judge", request={"max_tokens": 10_000_000}))


def test_a_budget_needs_a_limit_of_answers() -> None:
    unlimited = {"model": "judge", "request": {"max_tokens": None}, "price": Price(input=1.0, output=1.0)}
    check_bounded(BlackBoxConfig(**unlimited))
    with pytest.raises(UserError, match="the length of an answer must be limited"):
        check_bounded(BlackBoxConfig(**unlimited, budget_usd=1.0))


def test_what_a_request_is_counted_as_before_its_reply() -> None:
    call = Call(
        endpoint="e",
        model="m",
        messages=[{"role": "user", "content": "1" * 7}, {"role": "assistant", "content": "22"}],
        schema=None,
        options={"max_tokens": 100},
        purpose="rank",
    )
    assert estimated_tokens(call) == 7 + 4 + 2 + 4 + 100
    assert estimated_tokens(replace(call, options={})) == 7 + 4 + 2 + 4
    assert estimated_tokens(replace(call, options={"max_tokens": 0})) == 7 + 4 + 2 + 4  # no limit at all
    assert estimated_tokens(replace(call, options={"max_tokens": 1})) == 7 + 4 + 2 + 4 + 1
