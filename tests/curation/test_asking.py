"""Figures by hand, calls counted and capped, prices that hold, and a planted judge measured over a real server."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Fault, Loopback, Script
from planted_judge import PlantedJudge, planted_pairs, planted_pool

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.curation.accuracy import Accuracy, Paid, accuracy_of, gain, gains
from cyclealign.curation.asking import LabelledJudge, Outcome, Question, black_box_section, judge, labelled
from cyclealign.curation.metering import Lap, MeteredLedger
from cyclealign.curation.pricing import describe, most_for
from cyclealign.curation.worth import arms_of, evaluate, lines
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.evaluation.statistics import Estimate, paired_difference, share
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.types import UserError

POOL = planted_pool(5)
PAIRS = labelled_pairs(planted_pairs(40), None)
TEMPLATE = load_template("rank")


@contextmanager
def asking(
    path: Path,
    planted: PlantedJudge,
    *,
    most_calls: int | None = None,
    script: Script | None = None,
    seed: int = 1,
    **box: object,
) -> Iterator[tuple[LabelledJudge, MeteredLedger, Loopback, BlackBoxConfig]]:
    with Loopback(judge=planted, **({"script": script} if script else {})) as server:
        options = {"price": Price(input=10.0, output=30.0)} | box
        config = BlackBoxConfig(model="judge", base_url=server.url, **options)
        with MeteredLedger(path / "l.sqlite", most_calls=most_calls) as ledger:
            yield judge(config, ledger, seed=seed), ledger, server, config


# Figures --------------------------------------------------------------------------------------------------------


def outcomes(*scores: float | None) -> list[Outcome]:
    return [Outcome(s, "unusable" if s is None else None) for s in scores]


def test_accuracy_with_wilson_interval() -> None:
    found = accuracy_of(outcomes(*[1.0] * 8, 0.0, 0.0, None))
    assert (found.asked, found.unranked) == (11, {"unusable": 1})
    assert found.estimate == Estimate(0.8, pytest.approx(0.4902, abs=5e-5), pytest.approx(0.9433, abs=5e-5), 10)
    assert accuracy_of(outcomes(*[1.0] * 8, 0.5, 0.0)).estimate == share(8.5, 10)
    assert accuracy_of(outcomes(None)) == Accuracy(estimate=None, asked=1, unranked={"unusable": 1})


def test_paired_difference_by_hand() -> None:
    """Agresti and Min: (c - b)/(n + 2) with half a pair added to each cell."""
    found = gain(outcomes(1, 0, 0, 1, 1, 1), outcomes(1, 1, 1, 0, 1, None))
    assert found is not None
    b, c, n = 1 + 0.5, 2 + 0.5, 5 + 2
    middle = (c - b) / n
    half = 1.959963984540054 * math.sqrt(((b + c) - (c - b) ** 2 / n) / n**2)
    assert (found.value, found.n) == (pytest.approx(1 / 5), 5)
    assert (found.low, found.high) == (pytest.approx(middle - half), pytest.approx(middle + half))
    same = gain(outcomes(1, 0), outcomes(1, 0))
    assert same is not None
    assert same.value == 0
    assert same.interval == pytest.approx((-0.48999, 0.48999), abs=1e-5)  # two pairs do not show that nothing differs
    assert gain(outcomes(None), outcomes(1)) is None


# Asking ---------------------------------------------------------------------------------------------------------


def test_every_question_shows_its_own_demonstrations(tmp_path: Path) -> None:
    """Also where one pair is asked about with several sets at once."""
    subsets = [(), (0,), (1, 3), (0, 1, 2, 3, 4)]
    planted = PlantedJudge({0: 50.0, 1: -50.0, 3: 0.0}, base=0.0)
    questions = [Question(p, tuple(POOL[i] for i in s)) for p in PAIRS[:3] for s in subsets]
    with asking(tmp_path, planted) as (asked, ledger, server, _):
        found = asked.ask(questions)
        assert ledger.spend_by("purpose")["eval"].done == 12
    scores = [o.score for o in found]
    assert scores[1::4] == [1.0] * 3
    assert scores[2::4] == [0.0] * 3
    seen = sorted(sum("plant" in m["content"] for m in r["messages"]) for r in server.requests[1:])
    assert seen == sorted([0, 1, 2, 5] * 3)


def test_a_pair_never_sees_its_own_prompt(tmp_path: Path) -> None:
    own = replace(POOL[0], prompt=PAIRS[0].prompt)
    with asking(tmp_path, PlantedJudge({})) as (asked, _, server, _):
        asked.ask([Question(PAIRS[0], (own, POOL[1])), Question(PAIRS[1], (own, POOL[1]))])
    assert sorted(len(r["messages"]) for r in server.requests[1:]) == [4, 6]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: black_box_section("local", ()), "gives an order and scores; use openai:MODEL"),
        (lambda: black_box_section("openai:", ()), "expected openai:MODEL"),
        (lambda: black_box_section("openai:m", ["pases=2"]), "did you mean"),
        (lambda: labelled("builtin:openers-eval", 5), "holds no labelled pair"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


# The meter ------------------------------------------------------------------------------------------------------


def test_replies_on_the_ledger_cost_nothing_and_are_counted(tmp_path: Path) -> None:
    questions = [Question(p, POOL[:1]) for p in PAIRS[:6]]
    with asking(tmp_path, PlantedJudge({})) as (asked, ledger, server, config):
        first, lap = asked.ask(questions), ledger.reset()
        with MeteredLedger(ledger.path, most_calls=9) as again:
            assert judge(config, again, seed=1).ask(questions) == first
            assert (again.used, again.left, again.reset()) == (6, 0, lap)
            assert again.reset() == Lap()
            assert judge(config, again, seed=1).ask(questions[:1]) == first[:1]
            assert again.reset().calls == 1
            assert again.used == 6
        assert len(server.requests) == 7


@pytest.mark.parametrize("most", [2, 3, 8, 20])
@pytest.mark.parametrize("passes", [1, 2])
def test_no_call_beyond_the_limit_is_sent(tmp_path: Path, most: int, passes: int) -> None:
    """Whatever the server does: repairs and retries are within it."""

    def script(number: int, _: object) -> Fault | None:
        return (None, Fault(text="no idea"), Fault(status=500, body="{}"))[number % 3]

    questions = [Question(p, POOL[:1]) for p in PAIRS[:12]]
    with asking(tmp_path, PlantedJudge({}), most_calls=most, script=script, passes=passes) as (
        asked,
        ledger,
        server,
        _,
    ):
        found = asked.ask(questions)
        assert ledger.used <= most - 2
    assert len(server.requests) <= most
    assert sum(o.unranked == "budget" for o in found) >= 1


# Evaluating -----------------------------------------------------------------------------------------------------


def a_pool(n_static: int, n_dynamic: int) -> DemonstrationPool:
    pool = DemonstrationPool.start(DemonstrationsConfig(), static=POOL[:n_static], template=TEMPLATE)
    dynamic = POOL[n_static : n_static + n_dynamic]
    return replace(pool, dynamic=tuple(replace(d, source="0") for d in dynamic))


def test_arms_show_what_a_run_would() -> None:
    arms = arms_of(a_pool(2, 2), leave_one_out=True)
    names = ["none", "static", "static+dynamic", *(f"without {d.id}" for d in POOL[:4])]
    assert [a.name for a in arms] == names
    shown = [
        [POOL.index(next(p for p in POOL if p.id == d.id)) for d in a.questions(PAIRS[:1])[0].demonstrations]
        for a in arms
    ]
    assert shown == [[], [0, 1], [0, 1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert [a.name for a in arms_of(a_pool(0, 0), leave_one_out=True)] == ["none"]


def test_evaluate_finds_what_each_demonstration_is_worth(tmp_path: Path) -> None:
    """Values so large that every answer is certain: without the first all is wrong, the others are worth nothing."""
    planted = PlantedJudge({0: 200.0, 1: 0.0, 2: 0.0}, base=-100.0)
    with asking(tmp_path, planted) as (asked, ledger, server, config):
        arms = arms_of(a_pool(2, 1), leave_one_out=True)
        result = evaluate(arms, PAIRS, asked, ledger)
        most = most_for([q for a in arms for q in a.questions(PAIRS)], config, TEMPLATE)
        assert ledger.spend().calls <= most.calls
        assert ledger.spend().usd <= (most.usd or 0.0)
        again = evaluate(arms, PAIRS, asked, ledger)
    none, static, _ = result.arms
    assert [(a.name, a.accuracy.estimate) for a in result.arms] == [
        *(("none", share(0, 40)), ("static", share(40, 40)), ("static+dynamic", share(40, 40)))
    ]
    values = {i: v and v.value for i, v in result.values.items()}
    assert values == {POOL[0].id: 1.0, POOL[1].id: 0.0, POOL[2].id: 0.0}
    assert gains(result.arms)["static - none"] == paired_difference([0.0] * 40, [1.0] * 40)
    # Leaving out the one dynamic demonstration asks what arm static asked: not paid twice, but counted as its cost.
    assert len(server.requests) == 1 + 5 * len(PAIRS)
    assert result.paid.calls == 1 + 5 * len(PAIRS)
    assert result.left_out[POOL[2].id].cost == static.cost
    assert none.cost.calls == len(PAIRS)
    assert again == replace(result, paid=Paid(0, 0.0))
    text = "\n".join(lines(result, {POOL[0].id: "plant 0"}))
    assert "none            0.0% (0.0% to 8.8%) of 40 pairs; 40 calls" in text
    assert f"{POOL[0].id}  +100.0%" in text
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert set(ledger.spend_by("purpose")) == {"eval", "probe"}


def test_pairs_without_a_verdict_are_counted_and_left_out(tmp_path: Path) -> None:
    def script(_: int, body: dict[str, object]) -> Fault | None:
        text = str(body["messages"])
        return Fault(text="no idea") if "question 3:" in text and "plant" not in text else None

    with asking(tmp_path, PlantedJudge({0: 100.0}), script=script) as (asked, ledger, _, _):
        result = evaluate(arms_of(a_pool(1, 0), leave_one_out=False), PAIRS[:10], asked, ledger)
    none = result.arms[0].accuracy
    assert (none.estimate and none.estimate.n, none.asked, none.unranked) == (9, 10, {"unusable": 1})
    gap = gains(result.arms)["static - none"]
    assert gap is not None
    assert gap.n == 9
    assert result.left_out == {}


def test_the_price_is_described() -> None:
    box = BlackBoxConfig(model="m", price=Price(input=1.0, output=1.0), budget_usd=2.0)
    found = describe(most_for([Question(PAIRS[0], ())] * 3, box, TEMPLATE), box)
    assert found[0].startswith("paid calls: at most 9;")
    assert "held to budget_usd $2.00" in found[2]
    free = BlackBoxConfig(model="m")
    assert "unknown" in describe(most_for([], free, TEMPLATE), free)[2]
