"""Who watches a run: how it is named, what it is asked and paid for, and what the others see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from asking import NoDemonstrations
from fakes import prompts
from loopback import Body, Fault, Loopback, prefers, same_slot, shown

from cyclealign.config.loading import check_resume_changes, load_config
from cyclealign.config.witness import WitnessConfig
from cyclealign.cycle import doctor, starting
from cyclealign.cycle.dry_run import describe_worst_case
from cyclealign.cycle.witness import JudgingWitness, ScoringWitness, judging_witness, witness_spec
from cyclealign.evaluation.reply_pairs import against_start, ranker_gains
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_rankings
from cyclealign.judge.call import Call
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.reporting.figures import read_facts
from cyclealign.reporting.spend import spend_text
from cyclealign.reporting.status import read_status, status_lines
from cyclealign.types import (
    BudgetExhausted,
    Candidate,
    CandidateSet,
    RankContext,
    Ranking,
    RunStopped,
    Unranked,
    UserError,
)

ASKED = prompts(4, "held out")
CONTEXT = RankContext(run="r", interaction=2, seed=1, demonstrations=NoDemonstrations())
JUDGE = "{scorer: 'openai:watcher', base_url: 'http://127.0.0.1:1/v1'}"


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config("quickstart", overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# How it is named ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "rule", "said"),
    [
        ((), "best", "best (auto, with a witness): the interaction that sentence_similarity scores highest on the"),
        (("cycle.scorer=null",), "within_limits", "within_limits (auto, without a witness): the latest interaction"),
        (("cycle.scorer=null", f"cycle.witness={JUDGE}"), "best", "the interaction that openai:watcher scores highest"),
        (("drift.keep=within_limits",), "within_limits", "within_limits: the latest interaction within the drift"),
        (("drift.keep=best",), "best", "best: the interaction that sentence_similarity"),
        (("drift.keep=last", "cycle.scorer=null"), "last", "last: the last interaction"),
    ],
)
def test_what_is_kept_follows_from_who_watches(overrides: tuple[str, ...], rule: str, said: str) -> None:
    config = load_config("quickstart", overrides)
    assert config.kept_by == rule
    assert said in config.kept_by_text
    if not overrides:  # a dry run says it before anything is paid
        assert f"drift.keep: {config.kept_by_text}" in describe_worst_case(config)


@pytest.mark.parametrize("name", ["hh_rlhf_simpo_7b", "hh_rlhf_rrhf_7b", "hh_rlhf_pro_7b"])
def test_the_7b_configs_keep_the_latest_and_say_so(name: str) -> None:
    assert load_config(name).kept_by == "within_limits"


SAME = "is the run's own judge: a gain by it shows only that the policy pleases it"
BOX = "black_box={backend: openai, model: gpt-4o-mini}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("cycle.scorer=null", "drift.keep=best"),
            "drift.keep: best is what a witness scores highest, and there is none",
        ),
        ((f"cycle.witness={JUDGE}",), "cycle.scorer: the short form of cycle.witness, which is set too"),
        (("cycle.scorer=openai:gpt-4o-mini", BOX), f"cycle.scorer: openai:gpt-4o-mini {SAME}"),
        (("cycle.scorer=openai:openai/GPT-4o-mini", BOX), f"openai:openai/GPT-4o-mini {SAME}"),
        (("cycle.scorer=local",), f"cycle.scorer: local {SAME}"),
        (
            ("cycle.scorer=cross_encoder:models/./rm", "black_box={backend: reward_model, path: models/rm}"),
            f"cross_encoder:models/./rm {SAME}",
        ),
        (
            ("cycle.scorer=openai:b", "black_box={backend: openai, judges: [{model: a}, {model: b}]}"),
            f"openai:b {SAME}",
        ),
        (
            ("cycle.scorer=replay:x",),
            "cycle.scorer replay:x: expected scores of single replies, or a judge behind an API",
        ),
        (("cycle.scorer=null", "cycle.witness={scorer: taste}"), "cycle.witness.scorer: expected one of local"),
        (("cycle.scorer=null", "cycle.witness.price=auto"), "cycle.witness.scorer: required, but not set"),
        (
            ("cycle.scorer=null", "cycle.witness={scorer: overlap, budget_usd: 1}"),
            "cycle.witness.budget_usd: of a witness openai:MODEL; overlap calls nobody",
        ),
        (
            ("cycle.scorer=null", "cycle.witness={scorer: 'openai:w', budget_usd: 1}"),
            "cycle.witness.price: needed with budget_usd",
        ),
        (
            ("cycle.scorer=null", "cycle.witness={scorer: 'openai:w', api_key_env: HOME}"),
            "cycle.witness.api_key_env: must name an environment variable that ends in _API_KEY",
        ),
        (
            ("cycle.scorer=null", "cycle.witness={scorer: 'openai:w', base_url: 'ftp://x'}"),
            "cycle.witness.base_url: expected a URL",
        ),
        (("cycle.scorer=null", "cycle.witness={scorer: overlap, budget: 1}"), "unknown key cycle.witness.budget"),
    ],
)
def test_mistakes_are_one_line(overrides: tuple[str, ...], message: str) -> None:
    assert message in refused(*overrides)


def test_the_judge_may_watch_where_that_is_said() -> None:
    same = "cycle.witness={scorer: 'openai:gpt-4o-mini', allow_same: true}"
    config = load_config("quickstart", ["cycle.scorer=null", BOX, same])
    assert config.cycle.watched_by == WitnessConfig(scorer="openai:gpt-4o-mini", allow_same=True)


def test_a_judge_that_watches_has_both_orders_and_the_runs_own_words() -> None:
    more = ["cycle.scorer=null", f"cycle.witness={JUDGE}", "black_box.rubric=be kind", "black_box.outage_minutes=3"]
    spec = witness_spec(load_config("quickstart", more))
    assert spec is not None
    box = spec.box
    assert (spec.name, box.model, box.base_url, box.passes) == ("openai:watcher", "watcher", "http://127.0.0.1:1/v1", 2)
    assert (box.rubric, box.outage_minutes, box.api_key_env) == ("be kind", 3, "OPENAI_API_KEY")


def test_a_resume_may_change_its_budget_and_nothing_else() -> None:
    watched = ["cycle.scorer=null", "cycle.witness={scorer: 'openai:w', price: {input: 1, output: 1}, budget_usd: 1}"]
    old = load_config("quickstart", watched)
    check_resume_changes(old, load_config("quickstart", [*watched, "cycle.witness.budget_usd=2"]))
    check_resume_changes(old, load_config("quickstart", [*watched, "cycle.witness.price.input=2"]))
    for change in ("cycle.witness.scorer=openai:v", "cycle.witness.base_url=https://x.org/v1", "drift.keep=last"):
        with pytest.raises(UserError, match="resume cannot change"):
            check_resume_changes(old, load_config("quickstart", [*watched, change]))


def test_its_host_is_checked_as_the_judges_is() -> None:
    there = "cycle.witness={scorer: 'openai:w', base_url: 'https://w.example/v1', api_key_env: W_API_KEY}"
    config = load_config("quickstart", ["cycle.scorer=null", there, BOX])
    assert starting._hosts(config) == [(None, "OPENAI_API_KEY"), ("https://w.example/v1", "W_API_KEY")]


def test_a_dry_run_prices_it_apart() -> None:
    """96 openers, of which half choose: at each of 3 evaluations after the first 96 pairs in two orders, each with its
    repair, and one probe of three calls; of the judge's own calls, 64 pairs more at each."""
    priced = "cycle.witness={scorer: 'openai:w', price: {input: 1, output: 1}, budget_usd: 5}"
    alone = ["cycle.scorer=null", BOX, "black_box.price={input: 1, output: 1}"]
    lines = describe_worst_case(load_config("quickstart", [*alone, priced]))
    (line,) = (found for found in lines if found.startswith("witness:"))
    assert line.startswith(f"witness: openai:w, at most {96 * 3 * 2 * 2 + 3:,} calls")
    assert line.endswith("held to cycle.witness.budget_usd $5.00")
    without = describe_worst_case(load_config("quickstart", alone))
    assert not [found for found in without if found.startswith("witness:")]
    calls = [
        int(found.split()[-1].replace(",", "")) for said in (without, lines) for found in said if "paid calls" in found
    ]
    assert calls[1] - calls[0] == 64 * 3 * 2 + 3


# What it says ---------------------------------------------------------------------------------------------------


def sets(*texts: str | None) -> list[CandidateSet]:
    """A first reply to each prompt (None: none at all), and a second that nobody compares."""
    return [
        CandidateSet(p, (Candidate("0", text), Candidate("1", "second")) if text is not None else ())
        for p, text in zip(ASKED, texts, strict=False)
    ]


BEFORE = sets("middling", "middling", "same", None)
NOW = sets("longer than that", "short", "same", "something")


def by_id(found: Iterable[CandidateSet]) -> dict[str, CandidateSet]:
    return {s.prompt.id: s for s in found}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path)
    found.evaluation(2).mkdir(parents=True)
    return found


def watcher(server: Loopback, run: RunDir, **keys: object) -> JudgingWitness:
    config = WitnessConfig.model_validate({"scorer": "openai:watcher", "base_url": server.url, **keys})
    box = config.judge(load_config("quickstart").black_box)
    assert box is not None
    return judging_witness(config.scorer, box, run, load_template("rank"), most_failed=0.2)


def test_a_win_rate_in_both_orders_with_a_purpose_of_its_own(run: RunDir) -> None:
    with Loopback(judge=prefers(len)) as server:
        witness = watcher(server, run)
        assert witness.rewards(BEFORE, None, run.evaluation(0), CONTEXT) == {p.id: 0.5 for p in ASKED}
        assert len(server.requests) == 1  # the probe
        found = witness.rewards(NOW, by_id(BEFORE), run.evaluation(2), CONTEXT)
        assert list(found.values()) == [1.0, 0.0, 0.5, 1.0]  # the last two unasked: the same, and nothing before
        asked = [tuple(shown(body)) for body in server.requests[1:]]
        compared = [("longer than that", "middling"), ("short", "middling")]
        assert sorted(asked) == sorted(order for pair in compared for order in (pair, pair[::-1]))
        assert watcher(server, run).rewards(NOW, by_id(BEFORE), run.evaluation(2), CONTEXT) == found
        assert len(server.requests) == 5  # nothing twice
    verdicts = read_rankings(run.evaluation(2) / "witness.jsonl")
    assert [verdicts[p.id].tiers for p in ASKED[:2]] == [(("now",), ("start",)), (("start",), ("now",))]
    with Ledger(run.ledger, read_only=True) as ledger:
        assert {k: v.done for k, v in ledger.spend_by("purpose").items()} == {"witness": 5}
        assert (ledger.spend("witness").calls, ledger.spend("judge").calls) == (5, 0)


def test_a_judge_that_goes_by_the_slot_finds_no_winner(run: RunDir) -> None:
    with Loopback(judge=same_slot) as server:
        found = watcher(server, run).rewards(NOW, by_id(BEFORE), run.evaluation(2), CONTEXT)
    assert list(found.values()) == [0.5, 0.5, 0.5, 1.0]


def watch(witness: JudgingWitness, folder: Path, times: int) -> None:
    """So many evaluations, each of other replies."""
    for n in range(times):
        other = [replace(s, candidates=(Candidate("0", f"{n} {s.prompt.id}"),)) for s in NOW]
        assert len(witness.rewards(other, by_id(BEFORE), folder, CONTEXT)) == 4


def test_its_budget_is_its_own(run: RunDir) -> None:
    """The judge has spent a fortune; the witness ends where its own money does, and goes on with more."""
    with Ledger(run.ledger) as ledger:
        call = Call(endpoint="e", model="m", messages=({"role": "user", "content": "x"},), schema=None, options={},
                    purpose="rank")  # fmt: skip
        row = ledger.start(call, reserved_usd=100.0, limit=200.0)
        assert row is not None
        ledger.done(row, reply="x", input_tokens=1, output_tokens=1, usd=90.0, http_status=200, latency_s=0.1)
    price = {"input": 100.0, "output": 100.0}
    with Loopback(judge=prefers(len)) as server:
        witness = watcher(server, run, price=price, budget_usd=1.0)
        with pytest.raises(BudgetExhausted, match=r"cycle\.witness\.budget_usd=1\.0 does not cover") as caught:
            watch(witness, run.evaluation(2), 9)
        assert caught.value.key == "cycle.witness.budget_usd"
        with Ledger(run.ledger, read_only=True) as ledger:
            assert ledger.spend("witness").usd <= 1.0
            assert ledger.spend("judge").usd == 90.0
            again = Call(
                endpoint="e", model="m", messages=call.messages, schema=None, options={"seed": 1}, purpose="rank"
            )
        with Ledger(run.ledger) as ledger:
            assert ledger.start(again, reserved_usd=10.5, limit=100.0) is None
            assert ledger.start(again, reserved_usd=9.5, limit=100.0) is not None  # what the witness took is not its
        richer = watcher(server, run, price=price, budget_usd=50.0)
        watch(richer, run.evaluation(2), 9)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (lambda *_: Fault(status=401, body="{}"), UserError, r"^cycle\.witness: http.*refuses calls of model"),
        (
            lambda n, _: Fault(text="no order") if n else None,
            RunStopped,
            r"^cycle\.witness: 2 of 2 pairs have no verdict, more than black_box\.max_unranked=0\.2",
        ),
    ],
)
def test_what_goes_wrong_is_said_in_its_words(
    run: RunDir, script: Callable[[int, Body], Fault | None], kind: type[Exception], message: str
) -> None:
    with Loopback(judge=prefers(len), script=script) as server, pytest.raises(kind, match=message):
        watcher(server, run).rewards(NOW, by_id(BEFORE), run.evaluation(2), CONTEXT)


def test_a_host_that_is_not_there_is_its_own_key(run: RunDir) -> None:
    config = WitnessConfig(scorer="openai:w", base_url="http://127.0.0.1:9/v1")
    box = config.judge(load_config("quickstart").black_box)
    assert box is not None
    with pytest.raises(UserError, match=r"^cycle\.witness: .*check cycle\.witness\.base_url"):
        judging_witness("openai:w", box, run, load_template("rank"), most_failed=0.2)


class Lengths:
    def score(self, pairs: Iterable[tuple[object, str]]) -> list[float]:
        return [float(len(reply)) for _, reply in pairs]


def test_a_scorer_gives_each_prompt_the_mean_of_its_replies(run: RunDir) -> None:
    found = ScoringWitness("length", Lengths()).rewards(BEFORE, None, run.path, CONTEXT)  # type: ignore[arg-type]
    assert found == {ASKED[0].id: 7.0, ASKED[1].id: 7.0, ASKED[2].id: 5.0}


# The ranker's own gain ------------------------------------------------------------------------------------------


class Orders:
    """Longer first, as an order alone; of the prompts in ``silent`` nothing."""

    gives = "order"

    def __init__(self, *silent: str) -> None:
        self.silent = silent

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        assert context.purpose == "eval"
        for item in sets:
            if item.prompt.id in self.silent:
                yield Unranked(item.prompt.id, "error", "", set_id=item.id)
                continue
            order = sorted(item.candidates, key=lambda c: len(c.text), reverse=True)
            yield Ranking.from_order(item.prompt.id, [c.id for c in order])


class Scores(Orders):
    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            yield Ranking.from_scores(item.prompt.id, {c.id: float(len(c.text)) for c in item.candidates})


def test_gains_by_value() -> None:
    pairs, asking = against_start(NOW, by_id(BEFORE)), replace(CONTEXT, purpose="eval")
    ids = [p.id for p in ASKED]
    assert ranker_gains(pairs, Orders(), asking) == {ids[0]: 1.0, ids[1]: -1.0, ids[2]: 0.0}  # the last had no reply
    assert ranker_gains(pairs, Scores(), asking) == {ids[0]: 8.0, ids[1]: -3.0, ids[2]: 0.0}
    assert ranker_gains(pairs, Orders(ids[0]), asking) == {ids[1]: -1.0, ids[2]: 0.0}
    assert ranker_gains([], Orders(), asking) == {}


# What others see ------------------------------------------------------------------------------------------------


def test_its_bill_stands_apart(run: RunDir) -> None:
    priced = "cycle: {witness: {scorer: 'openai:w', price: {input: 1, output: 1}, budget_usd: 5}}"
    run.config.write_text(f"name: r\n{priced}\nblack_box: {{backend: openai, model: m, price: auto}}\n")
    for account, purpose, usd in (("judge", "rank", 0.25), ("witness", "rank", 0.5)):
        with Ledger(run.ledger, account=account) as ledger:  # type: ignore[arg-type]
            call = Call(endpoint="e", model=account, messages=({"role": "user", "content": "x"},), schema=None,
                        options={}, purpose=purpose)  # type: ignore[arg-type]  # fmt: skip
            row = ledger.start(call, reserved_usd=1.0)
            assert row is not None
            ledger.done(row, reply="x", input_tokens=9, output_tokens=4, usd=usd, http_status=200, latency_s=0.1)
    assert "witness: $0.5000 of $5.00, 1 calls (0 failed)" in status_lines(read_status(run))
    text = spend_text(run, read_facts(run))
    assert text.startswith("0.2500 USD, 1 calls")
    assert "; the witness 0.5000 USD of 5, 1 calls (0 failed)" in text


def test_doctor_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("W_API_KEY", raising=False)
    there = "cycle.witness={scorer: 'openai:w', base_url: 'https://w.example/v1', api_key_env: W_API_KEY}"
    config = load_config("quickstart", ["cycle.scorer=null", there])
    assert doctor._witness(config).detail.startswith("openai:w; drift.keep: best (auto, with a witness)")
    assert [f.detail for f in doctor._keys(config) if f.state == "broken"] == [
        "$W_API_KEY is not set; w.example needs it"
    ]
    assert [f.about for f in doctor._judge(config)] == ["witness"]
