"""Several judges: who is asked what, whose word counts, and what becomes of one that is broken."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import CONTEXT, PRICE, QUICK, Verdicts, by_length, item, rows
from fakes import config_in, make_cycle
from loopback import Body, Fault, Loopback, Script, prefers, same_slot

from cyclealign.cli.main import main
from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import judge_names
from cyclealign.config.loading import check_resume_changes, load_config
from cyclealign.config.schema import Config
from cyclealign.evaluation.consistency import reversal_tau
from cyclealign.files.records import decode
from cyclealign.files.run_records import VerdictRecord, read_rankings, verdict_record
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.consensus import aggregate
from cyclealign.rankers.jury import NEVER, JuryRanker
from cyclealign.rankers.presenting import orders_of_judge
from cyclealign.reporting.jury import judges_of
from cyclealign.reporting.page import render_report
from cyclealign.reporting.status import read_status, status_lines
from cyclealign.types import BudgetExhausted, Ranking, RunStopped, Unranked, UserError

UNKNOWN_KEY = Fault(status=401, body='{"error": {"message": "Incorrect API key provided"}}')
LENGTH, SHORT = prefers(len), prefers(lambda text: -len(text))


def always(fault: Fault) -> Script:
    return lambda *_: fault


def section(servers: Sequence[Loopback], **more: Any) -> dict[str, Any]:
    judges = [{"model": f"m{n}", "base_url": server.url} for n, server in enumerate(servers)]
    return {"judges": judges} | more


@contextmanager
def jury(ledger: Path, servers: Sequence[Loopback], **more: Any) -> Iterator[JuryRanker]:
    with Ledger(ledger) as opened:
        yield JuryRanker(BlackBoxConfig(**section(servers, **more)), load_template("rank"), opened, retry=QUICK)


def ranked(ledger: Path, servers: Sequence[Loopback], n: int = 6, **more: Any) -> Verdicts:
    with jury(ledger, servers, **more) as ranker:
        return {v.prompt_id: v for v in ranker.rank(map(item, range(n)), CONTEXT)}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@contextmanager
def served(*servers: Loopback) -> Iterator[tuple[Loopback, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(server) for server in servers)


# Votes -----------------------------------------------------------------------------------------------------------


def test_each_judge_has_its_passes_and_the_majority_is_the_verdict(ledger: Path) -> None:
    with served(Loopback(judge=LENGTH), Loopback(judge=SHORT), Loopback(judge=LENGTH)) as servers:
        found = ranked(ledger, servers)
        assert [len(s.requests) for s in servers] == [7, 7, 7]  # with a probe each
        assert {b["model"] for b in servers[1].requests} == {"m1"}
        assert ranked(ledger, servers) == found
        assert sum(len(s.requests) for s in servers) == 21  # nothing twice
    for given in map(item, range(6)):
        verdict = found[given.prompt.id]
        assert isinstance(verdict, Ranking)
        assert verdict.order == by_length(given)
        assert [v.judge for v in verdict.jury] == ["m0", "m1", "m2"]
        assert [v.passes[0] for v in verdict.jury] == [by_length(given), by_length(given)[::-1], by_length(given)]
        assert verdict == replace(aggregate(given.prompt.id, verdict.passes), jury=verdict.jury)
        first, second = (v.shown[0] for v in verdict.jury[:2])
        assert first == second[::-1]  # a taste for a slot that both have cancels
        assert decode(VerdictRecord, json.loads(json.dumps(verdict_record(verdict)))).verdict == verdict


@pytest.mark.parametrize(("passes", "share"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (6, (2, 2, 2))])
def test_pass_i_goes_to_judge_i_mod_n(ledger: Path, passes: int, share: tuple[int, ...]) -> None:
    with served(*(Loopback(judge=LENGTH) for _ in range(3))) as servers:
        found = ranked(ledger, servers, n=2, passes=passes)
        assert [len(s.requests) - 1 for s in servers] == [2 * n for n in share]
    for verdict in found.values():
        assert isinstance(verdict, Ranking)
        assert tuple(len(v.passes) for v in verdict.jury) == share
        assert len(verdict.passes) == passes


def test_orders_of_judges_by_value() -> None:
    drawn = [orders_of_judge(n, 4, 2, seed=5) for n in range(4)]
    for one, two in (drawn[:2], drawn[2:]):
        assert two == tuple(order[::-1] for order in one)
    assert drawn[0] != drawn[2]
    assert drawn[0][0] == drawn[0][1][::-1]  # two passes of one judge: an order and its reverse


def test_a_judge_that_contradicts_itself_is_seen_among_others_that_do_not(ledger: Path) -> None:
    context = replace(CONTEXT, shown_again=frozenset(item(n).prompt.id for n in range(4)))
    with served(Loopback(judge=LENGTH), Loopback(judge=same_slot)) as servers, jury(ledger, servers) as ranker:
        found = list(ranker.rank(map(item, range(4)), context))
        assert [len(s.requests) for s in servers] == [9, 9]
    for verdict in found:
        assert isinstance(verdict, Ranking)
        assert [v.passes[0] == v.reverse for v in verdict.jury] == [True, False]
        assert reversal_tau(verdict) == pytest.approx(0.0)  # the mean of 1 and -1


def test_names_of_judges() -> None:
    url = "https://a.example/v1"
    assert judge_names([(url, "x"), (None, "y")]) == ("x", "y")
    assert judge_names([(url, "x"), (None, "x"), (None, "y")]) == ("x at a.example", "x at api.openai.com", "y")
    two = judge_names([(url, "x"), ("https://a.example/v2", "x")])
    assert two == (f"x at {url}", "x at https://a.example/v2")


# Broken judges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["key", "junk", "nobody", "later"])
def test_a_jury_of_three_goes_on_without_one(ledger: Path, why: str, caplog: pytest.LogCaptureFixture) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "key": {"script": always(UNKNOWN_KEY)},
        "junk": {"judge": lambda _: "I would rather not say."},
        "nobody": {"script": always(Fault(drop=True))},
        "later": {"judge": LENGTH, "script": lambda number, _: UNKNOWN_KEY if number > 3 else None},
    }
    broken = Loopback(**kinds[why])
    n = NEVER + 8
    with served(Loopback(judge=LENGTH), broken, Loopback(judge=LENGTH)) as servers:
        found = ranked(ledger, servers, n=n, quorum=2, attempts=2, max_concurrency=1)
        asked = len(broken.requests)
    assert {i: v.order for i, v in found.items() if isinstance(v, Ranking)} == {
        s.prompt.id: by_length(s) for s in map(item, range(n))
    }
    without = [v for v in found.values() if isinstance(v, Ranking) and not v.jury[1].passes]
    assert len(without) >= n - 3
    assert all(v.jury[1].unranked in ("error", "unusable") and v.jury[1].detail for v in without)
    assert "judge m1 is not asked any more" in caplog.text
    assert asked <= 2 * (NEVER + 2) + 3  # not for every list, or in vain


def test_without_a_quorum_it_ends_in_one_line(ledger: Path) -> None:
    with served(Loopback(judge=LENGTH), Loopback(script=always(UNKNOWN_KEY))) as servers:
        with pytest.raises(UserError) as ended:
            ranked(ledger, servers)
        with jury(ledger, servers) as ranker, pytest.raises(UserError, match="1 of 2 can be asked"):
            ranker.preflight(3)
    said = str(ended.value)
    assert "\n" not in said
    assert said.startswith("black_box.judges: 1 of 2 can be asked, and black_box.quorum is 2: m1: black_box: http://")
    assert "Incorrect API key" in said


def test_preflight_goes_on_without_one(ledger: Path) -> None:
    with served(Loopback(judge=LENGTH), Loopback(script=always(UNKNOWN_KEY))) as servers:
        with jury(ledger, servers, quorum=1) as ranker:
            ranker.preflight(3)
            assert len(servers[1].requests) >= 1
            asked = len(servers[1].requests)
            assert all(isinstance(v, Ranking) for v in ranker.rank(map(item, range(3)), CONTEXT))
        assert len(servers[1].requests) == asked


def test_a_silent_judge_is_left_after_the_outage(ledger: Path) -> None:
    """It answers its probe, and then nobody is there any more."""

    def falls_silent(number: int, _: Body) -> Fault | None:
        return Fault(status=503, body="{}") if number > 0 else None

    with served(Loopback(judge=LENGTH), Loopback(judge=LENGTH, script=falls_silent)) as servers:
        found = ranked(ledger, servers, quorum=1, outage_minutes=0.3 / 60)
        assert all(isinstance(v, Ranking) for v in found.values())
        with pytest.raises(RunStopped, match=r"1 of 2 can be asked, .*: m1: .*no reply"):
            ranked(ledger, servers, n=8, outage_minutes=0.3 / 60)


def test_a_list_that_one_cannot_rank_has_no_verdict_below_the_quorum(ledger: Path) -> None:
    def refuses_one(body: Body) -> str:
        return "no" if "question 1?" in json.dumps(body["messages"]) else LENGTH(body)

    with served(Loopback(judge=LENGTH), Loopback(judge=refuses_one)) as servers:
        found = ranked(ledger, servers, n=3)
    left = found[item(1).prompt.id]
    assert isinstance(left, Unranked)
    assert left.reason == "unusable"
    assert left.detail.startswith("1 of 2 judges have a vote, and 2 are needed (m1: ")
    assert sum(isinstance(v, Ranking) for v in found.values()) == 2


# Money -----------------------------------------------------------------------------------------------------------


def test_one_budget_for_all_and_a_price_for_each(ledger: Path) -> None:
    def books(servers: Sequence[Loopback], usd: float) -> Verdicts:
        own = section(servers, price=PRICE.model_dump(), budget_usd=usd, max_concurrency=1)
        own["judges"][1]["price"] = {"input": 20.0, "output": 60.0}
        found: Verdicts = {}
        with Ledger(ledger) as opened:
            ranker = JuryRanker(BlackBoxConfig(**own), load_template("rank"), opened, retry=QUICK)
            with suppress(BudgetExhausted):
                for verdict in ranker.rank(map(item, range(30)), CONTEXT):
                    found[verdict.prompt_id] = verdict
        return found

    with served(Loopback(judge=LENGTH), Loopback(judge=LENGTH)) as servers:
        found = books(servers, 0.35)
        spent = dict(rows(ledger, "SELECT model, SUM(usd) FROM calls GROUP BY model"))
        assert 0 < sum(spent.values()) <= 0.35
        assert spent["m1"] > 1.5 * spent["m0"]
        assert all(isinstance(v, Ranking) or v.reason == "budget" for v in found.values())
        voted = [v for v in found.values() if isinstance(v, Ranking)]
        assert all(len(v.passes) == 2 for v in voted)  # whom the money reached last does not decide
        full = books(servers, 100.0)
        assert sum(isinstance(v, Ranking) for v in full.values()) == 30
    with Ledger(ledger, read_only=True) as opened:
        assert [model for _, model in opened.spend_by_judge()] == ["m0", "m1"]


# Commands --------------------------------------------------------------------------------------------------------


def words(servers: Sequence[Loopback], *more: str) -> list[str]:
    return ["--ranker", "openai", f"judges={json.dumps(section(servers)['judges'])}", *more]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sets.jsonl"
    lines = (
        {"messages": list(s.prompt.messages), "candidates": [c.text for c in s.candidates]} for s in map(item, range(5))
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_rank_has_every_verdict_of_the_two(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("out.jsonl")
    with served(Loopback(judge=LENGTH), Loopback(script=always(UNKNOWN_KEY)), Loopback(judge=LENGTH)) as servers:
        assert main(["rank", str(file), *words(servers, "quorum=2"), "--out", str(out)]) == 0
        assert "5 sets ranked, 0 not" in capsys.readouterr().err
        asked = [len(s.requests) for s in servers]
        assert main(["rank", str(file), *words(servers, "quorum=2"), "--out", str(out)]) == 0
        assert [len(s.requests) for s in servers] == asked
        assert main(["rank", str(file), *words(servers, "quorum=3"), "--out", f"{out}.2"]) == 2
    assert "m1: black_box:" in capsys.readouterr().err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [[bool(v["passes"]) for v in line["jury"]] for line in lines] == [[True, False, True]] * 5


def test_eval_ranker_measures_a_jury_and_prices_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(json.dumps({"prompt": f"q{n}?", "chosen": "long enough", "rejected": "no"}) + "\n" for n in range(6))
    )
    result = tmp_path / "result.json"
    with served(Loopback(judge=LENGTH), Loopback(judge=LENGTH), Loopback(judge=SHORT)) as servers:
        options = words(servers, "price={input: 1, output: 1}")
        assert main(["eval", "ranker", str(pairs), *options, "--dry-run"]) == 0
        assert "6 sets, 18 paid calls" in capsys.readouterr().out
        assert main(["eval", "ranker", str(pairs), *options, "--out", str(result)]) == 0
        assert sum(len(s.requests) for s in servers) == 18 + 3
    assert json.loads(result.read_text())["metrics"]["accuracy"]["value"] == 1.0


# A run -----------------------------------------------------------------------------------------------------------


def test_a_run_with_one_broken_has_all_verdicts_and_the_report_names_it(tmp_path: Path) -> None:
    with served(Loopback(judge=LENGTH), Loopback(script=always(UNKNOWN_KEY)), Loopback(judge=LENGTH)) as servers:
        box = section(servers, backend="openai", quorum=2, price=PRICE.model_dump())
        config = config_in(tmp_path, black_box=box, cycle={"max_interactions": 1, "batch_size": 8})
        with Ledger(tmp_path / "t" / "ledger.sqlite") as opened:
            cycle = make_cycle(config, n_prompts=8)
            ranker = JuryRanker(config.black_box, load_template("rank"), opened, retry=QUICK)
            cycle.parts = replace(cycle.parts, black_box=ranker)
            cycle.run()
    rankings = read_rankings(cycle.run_dir.interaction(0).black_box)
    assert len(rankings) == 8
    assert all([bool(v.passes) for v in r.jury] == [True, False, True] for r in rankings.values())
    one, broken, three = judges_of(cycle.run_dir)
    assert (one.votes, broken.votes, three.votes) == (8, 0, 8)
    assert one.tau is not None
    assert one.tau.value == pytest.approx(1.0)
    assert one.itself is not None
    assert (one.itself.value, one.itself.n) == (1.0, 8)  # a run's first lists are shown again
    assert one.spend.usd > 0 == broken.spend.usd
    assert broken.broken
    page = render_report(cycle.run_dir)
    assert "m1 is broken: no vote on any of 8 lists" in page
    said = status_lines(read_status(cycle.run_dir))
    assert any(line.startswith("judge m1: BROKEN") and "Incorrect API key" in line for line in said)


# The config ------------------------------------------------------------------------------------------------------

TWO = [{"model": "a", "base_url": "https://a.example/v1"}, {"model": "b"}]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"judges": TWO, "model": "m"}, "judges: in place of model and base_url"),
        ({"judges": TWO[:1]}, "judges: expected two or more"),
        ({"judges": [TWO[0], TWO[0]]}, "one model at one endpoint stands there twice"),
        (
            {"judges": [{"model": "a"}, {"model": "a", "base_url": "https://api.openai.com/v1/"}]},
            "one model at one endpoint stands there twice",
        ),
        ({"judges": TWO, "passes": 1}, "passes: expected at least one for each of the 2 judges, got 1"),
        ({"judges": TWO, "quorum": 3}, r"quorum: expected at most as many as judges \(2\), got 3"),
        ({"model": "m", "quorum": 1}, r"quorum: expected at most as many as judges \(0\)"),
        ({"judges": TWO, "backend": "local"}, "judges: of backend openai, got local"),
        ({"judges": TWO, "budget_usd": 1}, "price: needed with budget_usd"),
        (
            {"judges": TWO, "answer": "scores"},
            "judges: several judges vote with rankings; with answer: scores name one",
        ),
        ({"judges": TWO, "answers": True}, "answers: of several judges none is the one that writes"),
        ({"judges": TWO, "batch": True}, "batch: of one judge; with several remove it"),
        ({"judges": [TWO[0], {"model": "b", "api_key_env": "HOME"}]}, "must name an environment variable"),
        ({"judges": [{"model": "a", "base_url": "nowhere"}, TWO[1]]}, "expected a URL like"),
    ],
)
def test_what_cannot_be_a_jury(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BlackBoxConfig.model_validate(wrong)


def test_what_a_judge_does_not_say_is_as_in_the_section() -> None:
    judges = [TWO[0] | {"api_key_env": "A_API_KEY", "price": {"input": 1, "output": 2}}, TWO[1]]
    box = BlackBoxConfig.model_validate({"judges": judges, "price": "auto", "reasoning": "low", "budget_usd": 1})
    a, b = box.members
    assert (a.model, a.base_url, a.api_key_env, a.passes) == ("a", "https://a.example/v1", "A_API_KEY", 1)
    assert (b.base_url, b.api_key_env, b.price, b.reasoning) == (None, "OPENAI_API_KEY", "auto", "low")
    assert box.passes == 2
    assert box.gives == "votes"
    assert box.model_copy(update={"quorum": 1}).gives == "order"
    lone = BlackBoxConfig(model="m")
    assert lone.members == lone.everyone == (lone,)


def test_a_mistyped_key_of_a_judge_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ndata: {prompts: p}\nblack_box: {judges: [{model: a}, {modell: b}]}\n")
    with pytest.raises(
        UserError, match=r"unknown key black_box\.judges\.modell; did you mean black_box\.judges\.model"
    ):
        load_config(path)


def test_a_resume_may_change_what_a_judge_costs_and_nothing_else_of_it(tmp_path: Path) -> None:
    def config(judge: dict[str, Any]) -> Config:
        return config_in(tmp_path, black_box={"backend": "openai", "judges": [TWO[0], TWO[1] | judge]})

    check_resume_changes(config({}), config({"price": {"input": 1, "output": 1}}))
    with pytest.raises(UserError, match=r"resume cannot change black_box\.judges\.1\.base_url"):
        check_resume_changes(config({}), config({"base_url": "https://evil.example/v1"}))
