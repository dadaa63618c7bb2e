"""The black box's own reply among the candidates: paid for once, marked, counted; on a real server, over kills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Fuse, Killed, config_in, make_cycle
from loopback import CANDIDATE, Body, Fault, Loopback, prefers

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.cycle.agreeing import training_examples
from cyclealign.cycle.answers import GivenAnswers, RecordedAnswers, with_answer
from cyclealign.cycle.dry_run import describe_worst_case, run_worst_case
from cyclealign.cycle.interaction import Interaction
from cyclealign.cycle.loop import Loop
from cyclealign.files.jsonl import read_jsonl
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Summary
from cyclealign.files.run_records import AnswerRecord, read_rankings, read_sets
from cyclealign.judge.chat import read_reply
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.rankers.own_reply import OwnReplies, read_answer
from cyclealign.reporting.answers import answers_text
from cyclealign.types import OWN_REPLY, BudgetExhausted, Candidate, CandidateSet, Prompt, UserError


def is_ranking(body: Body) -> bool:
    return any(CANDIDATE.search(m["content"]) for m in body["messages"])


def says(body: Body) -> str:
    """Longer than any candidate, so that a judge of length puts it first."""
    if is_ranking(body):
        return prefers(len)(body)
    return f"  An own reply to: {body['messages'][-1]['content']} \n\nHuman: and on"


def box(server: Loopback, **more: Any) -> dict[str, Any]:
    own = {"backend": "openai", "model": "judge", "base_url": server.url, "answers": True, "repeat": 0.0}
    return own | {"min_consistency": None, "price": {"input": 1.0, "output": 2.0}} | more


@contextmanager
def cycle(config: Config, steps: int | None = None, n_prompts: int = 10) -> Iterator[Loop]:
    made = make_cycle(config, fuse=Fuse(steps), n_prompts=n_prompts, eval_prompts=0)
    with Ledger(made.run_dir.ledger) as ledger:
        judge = BlackBoxRanker(config.black_box, load_template("rank"), ledger)
        asked = OwnReplies(config.black_box, ledger, tokens=config.generator.max_new_tokens)
        answerer = RecordedAnswers(made.run_dir.answers, asked)
        made.parts = replace(made.parts, black_box=judge, answerer=answerer)
        yield made


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_beside_a_batch_replies_are_asked_for_one_by_one_at_their_full_price(tmp_path: Path) -> None:
    prompts = [Prompt(({"role": "user", "content": f"question {n}"},)) for n in range(3)]
    with Loopback(says) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        config = BlackBoxConfig(**box(server, batch=True))
        found = list(OwnReplies(config, ledger, tokens=32).ask(prompts, interaction=0))
        assert sorted(r.text for r in found if r.text) == [f"An own reply to: question {n}" for n in range(3)]
        spent = ledger.spend()
    assert spent.done == len(server.requests) == 3
    assert spent.usd == pytest.approx((spent.input_tokens * 1.0 + spent.output_tokens * 2.0) / 1e6)


def test_a_run_asks_for_each_reply_once_and_pays_nothing_twice_over_kills(tmp_path: Path) -> None:
    with Loopback(judge=says) as server:
        config = config_in(tmp_path, black_box=box(server), cycle={"max_interactions": 2})
        for steps in (0, 2, 6, 14, 23, None):
            with cycle(config, steps) as made:
                if steps is not None:
                    with pytest.raises(Killed):
                        made.run()
                else:
                    made.run()
        own = [b for b in server.requests if not is_ranking(b)]
        assert len(own) == 10  # of ten prompts, over four interactions
        assert all(b.get("max_tokens") == config.generator.max_new_tokens for b in own)
    run = RunDir(tmp_path / "t")
    with Ledger(run.ledger, read_only=True) as ledger:
        spend = ledger.spend_by("purpose")
    assert (spend["answer"].calls, spend["answer"].done, spend["rank"].done) == (10, 10, 20)
    assert spend["answer"].usd > 0
    assert len(list(read_jsonl(run.answers))) == 10


def test_it_is_one_candidate_more_marked_ranked_by_both_and_trained_on(tmp_path: Path) -> None:
    with Loopback(judge=says) as server:
        config = config_in(tmp_path, black_box=box(server), cycle={"max_interactions": 1})
        with cycle(config, n_prompts=5) as made:
            made.run()
    run = made.run_dir
    it = run.interaction(0)
    sets, black, white = read_sets(it.candidates), read_rankings(it.black_box), read_rankings(it.white_box)
    for prompt_id, item in sets.items():
        assert item.ids == ("0", "1", "2", "3", OWN_REPLY)
        assert item.text(OWN_REPLY) == f"An own reply to: {item.prompt.messages[-1]['content']}"
        assert black[prompt_id].order[0] == OWN_REPLY
        assert OWN_REPLY in white[prompt_id].order
    found = read_record(Summary, it.summary).answers
    assert found is not None
    assert (found.ranked, found.first, found.by_chance) == (5, 5.0, 1.0)
    assert answers_text(run) == "first in 100.0% of 5 lists (56.6% to 100.0%), 20.0% by chance"
    active = tuple(s.prompt for s in sets.values())
    for example in training_examples(Interaction(0, 0, 0, active, it), "black_box"):
        assert len(example.responses) == 5
        assert example.responses[max(range(5), key=example.teacher.__getitem__)].startswith("An own reply")


def test_what_is_sampled_is_the_same_with_and_without(tmp_path: Path) -> None:
    with Loopback(judge=says) as server:
        sampled = []
        for name, answers in (("with", True), ("without", False)):
            config = config_in(tmp_path / name, black_box=box(server, answers=answers), cycle={"max_interactions": 1})
            with cycle(config, n_prompts=3) as made:
                if not answers:
                    made.parts = replace(made.parts, answerer=None)
                made.run()
            sets = read_sets(made.run_dir.interaction(0).candidates)
            sampled.append({i: [c for c in s.candidates if c.id != OWN_REPLY] for i, s in sets.items()})
    assert sampled[0] == sampled[1]


def test_a_spent_budget_stops_before_sampling_and_a_refusal_stands(tmp_path: Path) -> None:
    def refuses(number: int, body: Body) -> Fault | None:  # noqa: ARG001
        asked = body["messages"][-1]["content"]
        return Fault(text="", finish="content_filter") if not is_ranking(body) and "number 1?" in asked else None

    with Loopback(judge=says, script=refuses) as server:
        poor = config_in(tmp_path, black_box=box(server, budget_usd=0.0), cycle={"max_interactions": 1})
        with cycle(poor, n_prompts=3) as made, pytest.raises(BudgetExhausted, match="3 of 3 prompts of interaction 0"):
            made.run()
        assert not server.requests
        config = config_in(tmp_path, black_box=box(server), cycle={"max_interactions": 1})
        with cycle(config, n_prompts=3) as made:
            made.run()
    sets = read_sets(made.run_dir.interaction(0).candidates)
    assert sorted(len(s.candidates) for s in sets.values()) == [4, 5, 5]
    (refused,) = [r for r in read_jsonl(made.run_dir.answers) if "unanswered" in r]
    assert refused["unanswered"] == "refusal"


@pytest.mark.parametrize(
    ("text", "finish", "record"),
    [
        ("<think>hm</think> Yes. ", "stop", {"text": "Yes.", "finish": "stop"}),
        ("A long", "length", {"text": "A long", "finish": "length"}),
        ("  ", "stop", {"unanswered": "unusable", "detail": "it is empty"}),
        ("<think>and so on", "length", {"unanswered": "unusable", "detail": "it is empty"}),
        ("Half", "odd", {"unanswered": "unusable", "detail": "it did not end by itself (finish_reason odd)"}),
    ],
)
def test_what_a_reply_comes_to(text: str, finish: str, record: dict[str, Any]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    assert read_answer("p", read_reply(json.dumps({"choices": [choice]}))) == AnswerRecord(prompt_id="p", **record)


def test_a_reply_that_the_policy_has_given_too_joins_nothing() -> None:
    item = CandidateSet(Prompt(({"role": "user", "content": "q"},)), (Candidate("0", "a"), Candidate("1", "b")), 2)
    own = {item.prompt.id: Candidate(OWN_REPLY, "b")}
    assert with_answer(item, own) is item
    assert with_answer(item, {}) is item
    other = with_answer(item, {item.prompt.id: Candidate(OWN_REPLY, "c", "length")})
    assert (other.ids, other.drawn) == (("0", "1", OWN_REPLY), 2)


def test_a_column_of_the_data_holds_them(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "gpt": " said "}, {"prompt": "b", "gpt": None}, {"prompt": "c"}, {"prompt": "d", "gpt": ""}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = load_prompts(str(file), answers="gpt")
    assert [p.answer for p in found] == ["said", None, None, None]
    assert GivenAnswers().answers(found, interaction=0) == {found[0].id: Candidate(OWN_REPLY, "said")}
    with pytest.raises(UserError, match=r"black_box\.answers: no prompt of .* has a reply in a column 'gpd'"):
        load_prompts(str(file), answers="gpd")
    run = RunDir(tmp_path / "r")
    run.create("name: r\n", found)
    run.unlock()
    assert [p.answer for p in run.train_prompts()] == ["said", None, None, None]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["black_box.answers=true"], "black_box.answers: backend local writes no replies; name the column"),
        (["black_box.answers=''"], "black_box.answers: expected true, false or the name of a column"),
        (["black_box.answers=3"], "black_box.answers: expected"),
        (["black_box.answers=gpt", "generator.candidates=16"], "generator.candidates: expected at most 15 beside"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config("quickstart", overrides)
    assert message in str(raised.value)


def test_a_dry_run_prices_them() -> None:
    openai = ["black_box={backend: openai, model: m, price: {input: 1, output: 2}}", "data.limit=20"]
    without = load_config("quickstart", openai)
    asked = load_config("quickstart", [*openai, "black_box.answers=true"])
    given = load_config("quickstart", [*openai, "black_box.answers=gpt"])
    prompts = load_prompts("builtin:openers-train", limit=20)
    fewer, more, column = (run_worst_case(c, prompts, []) for c in (without, asked, given))
    assert (more.calls - fewer.calls, column.calls) == (20, fewer.calls)
    assert more.output_tokens - column.output_tokens == 20 * asked.generator.max_new_tokens
    assert column.input_tokens > fewer.input_tokens  # one candidate more in every list
    assert more.usd is not None
    assert column.usd is not None
    assert more.usd > column.usd
    calls = [int(line.split()[1].replace(",", "")) for line in describe_worst_case(asked) if "typical" in line]
    assert calls == [20 * asked.cycle.max_interactions + 20]
