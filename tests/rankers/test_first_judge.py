"""A cheap judge before a dear one: who is asked about what, what is noted, and what a second start pays for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import CONTEXT, PRICE, QUICK, by_length, item
from fakes import config_in, make_cycle
from loopback import Body, Fault, Loopback, answer, prefers, shown

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import Config
from cyclealign.cycle.dry_run import run_worst_case
from cyclealign.cycle.starting import _hosts
from cyclealign.files.run_records import read_rankings
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.rankers.calibration import Compared
from cyclealign.rankers.first_judge import JudgeCascade, comparisons
from cyclealign.reporting.first_judge import first_judge_text
from cyclealign.reporting.page import render_report
from cyclealign.reporting.status import read_status, status_lines
from cyclealign.types import CandidateSet, Prompt, Ranking, UserError

LENGTH = prefers(len)
CALIBRATION = 60


def hard(text: str) -> bool:
    """One list in four, by its question."""
    return hashlib.sha256(text.encode()).digest()[0] % 4 == 0


def cheap(body: Body) -> str:
    """Reads the easy lists; names the slots as they stand in the hard ones, so that its two passes contradict."""
    question = next((line for line in body["messages"][-1]["content"].splitlines() if "question" in line), "")
    number = "".join(c for c in question if c.isdigit())
    return answer(body, range(len(shown(body)))) if number and hard(number) else LENGTH(body)


def wrong(body: Body) -> str:
    """As sure as can be, and never right."""
    return prefers(lambda text: -len(text))(body)


def section(dear: Loopback, first: Loopback, **cascade: Any) -> dict[str, Any]:
    more = {"first": {"model": "cheap", "base_url": first.url}, "min_agreement": 0.9, "calibration": CALIBRATION}
    own = {
        "model": "dear",
        "base_url": dear.url,
        "backend": "cascade",
        "price": PRICE.model_dump(),
        "max_concurrency": 4,
    }
    return own | {"cascade": more | {"audit": 1e-9} | cascade}


@contextmanager
def cascade(path: Path, dear: Loopback, first: Loopback, **changes: Any) -> Iterator[tuple[JudgeCascade, Any]]:
    box = BlackBoxConfig.model_validate(section(dear, first, **changes))
    template = load_template("rank")
    assert box.first is not None
    assert box.cascade is not None
    with Ledger(path) as ledger:
        judges = [BlackBoxRanker(b, template, ledger, retry=QUICK) for b in (*box.members, box.first)]
        notes = comparisons(ledger, box, template)
        yield JudgeCascade(judges[0], judges[1], box.cascade, notes), notes


def ranked(path: Path, dear: Loopback, first: Loopback, sets: Sequence[CandidateSet], **changes: Any) -> dict[str, Any]:
    with cascade(path, dear, first, **changes) as (ranker, _):
        return {v.prompt_id: v for v in ranker.rank(iter(sets), CONTEXT)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_the_dear_judge_is_asked_where_the_cheap_one_contradicts_itself(path: Path) -> None:
    sets = [item(n) for n in range(110)]
    with Loopback(judge=LENGTH) as dear, Loopback(judge=cheap) as first:
        found = ranked(path, dear, first, sets)
        asked = len(dear.requests), len(first.requests)
        with cascade(path, dear, first) as (_, notes):
            noted = notes.read()
    assert {i: v.order for i, v in found.items()} == {s.prompt.id: by_length(s) for s in sets}
    later = range(CALIBRATION, 110)
    escalated = [n for n in later if hard(str(n))]
    assert 5 <= len(escalated) <= 20
    for n, given in enumerate(sets):
        verdict = found[given.prompt.id]
        if n < CALIBRATION or hard(str(n)):
            assert verdict.cascade is None  # whole, and nothing to measure
        else:
            assert verdict.cascade.kept == ()
            assert verdict.judged == ()
            assert verdict.votes is None
    assert asked == (1 + CALIBRATION + len(escalated), 1 + 2 * 110)
    assert noted.keys() == {s.id for s in sets[:CALIBRATION]}
    assert Counter(noted.values())[Compared(1.0, 1.0)] == sum(not hard(str(n)) for n in range(CALIBRATION))
    assert {c.sure for c in noted.values() if c != Compared(1.0, 1.0)} == {0.5}


@pytest.mark.parametrize("done", [7, CALIBRATION, 75])
def test_a_second_start_pays_for_nothing_twice_and_decides_alike(path: Path, done: int) -> None:
    sets = [item(n) for n in range(90)]
    with Loopback(judge=LENGTH) as dear, Loopback(judge=cheap) as first:
        whole = ranked(path.with_name("whole.sqlite"), dear, first, sets)
        paid = len(dear.requests), len(first.requests)
        with cascade(path, dear, first) as (ranker, _):
            verdicts = ranker.rank(iter(sets), CONTEXT)
            kept = {v.prompt_id: v for v in (next(verdicts) for _ in range(done))}
            verdicts.close()  # type: ignore[attr-defined]
        left = [s for s in sets if s.prompt.id not in kept]
        found = kept | ranked(path, dear, first, left)
        again = len(dear.requests) - 2 * paid[0], len(first.requests) - 2 * paid[1]
    assert found == whole
    assert 0 <= again[0] <= 4 + 1  # in flight when it stopped
    assert 0 <= again[1] <= 2 * 4 + 1


def test_a_cheap_judge_whose_agreement_is_not_shown_is_not_asked_any_more(path: Path) -> None:
    sets = [item(n) for n in range(80)]
    with Loopback(judge=LENGTH) as dear, Loopback(judge=wrong) as first:
        found = ranked(path, dear, first, sets)
        assert len(first.requests) == 1 + 2 * CALIBRATION
        assert len(dear.requests) == 1 + 80
    assert all(v.order == by_length(s) for s in sets for v in [found[s.prompt.id]])


def test_a_list_that_both_ranked_before_a_process_died_is_not_answered_alone(path: Path) -> None:
    """It died after the comparison was noted, and before the verdict was written down: the dear judge's stands."""
    sets = [item(n) for n in range(CALIBRATION + 10)]
    with Loopback(judge=prefers(lambda text: -len(text))) as dear, Loopback(judge=LENGTH) as first:
        with cascade(path, dear, first) as (_, notes):
            for given in sets[:CALIBRATION]:
                notes.note(given.id, Compared(1.0, 1.0))
        found = ranked(path, dear, first, sets[CALIBRATION - 3 :])
        assert len(first.requests) == 1 + 2 * 10
    for n, given in enumerate(sets[CALIBRATION - 3 :]):
        verdict = found[given.prompt.id]
        assert verdict.order == (by_length(given)[::-1] if n < 3 else by_length(given))
        assert (verdict.cascade is None) == (n < 3)


def test_a_list_on_which_a_call_of_the_cheap_judge_failed_takes_no_place_in_the_calibration(path: Path) -> None:
    sets = [item(n) for n in range(CALIBRATION + 15)]
    lost = Fault(status=500, body="{}")

    def broken(_: int, body: Body) -> Fault | None:
        return lost if any(f"question {n}?" in body["messages"][-1]["content"] for n in range(8)) else None

    with Loopback(judge=LENGTH) as dear, Loopback(judge=LENGTH, script=broken) as first:
        found = ranked(path, dear, first, sets)
        with cascade(path, dear, first) as (_, notes):
            noted = notes.read()
    assert noted.keys() == {s.id for s in sets[8 : CALIBRATION + 8]}
    assert set(noted.values()) == {Compared(1.0, 1.0)}
    assert all(found[s.prompt.id].order == by_length(s) for s in sets)
    assert [found[s.prompt.id].cascade is None for s in sets] == [True] * (CALIBRATION + 8) + [False] * 7


def test_with_keep_the_dear_judge_orders_the_best_of_the_cheap_one(path: Path) -> None:
    sets = [item(n, 4) for n in range(12)]
    with Loopback(judge=LENGTH) as dear, Loopback(judge=LENGTH) as first:
        found = ranked(path, dear, first, sets, keep=2, min_agreement=None)
        assert {len(shown(b)) for b in dear.requests[1:]} == {2}
    assert all(found[s.prompt.id].order == by_length(s) for s in sets)
    assert all(len(v.judged) == 2 for v in found.values())


def test_labelled_pairs_measure_the_dear_judge(path: Path) -> None:
    with Loopback(judge=LENGTH) as dear, Loopback(judge=wrong) as first, cascade(path, dear, first) as (ranker, _):
        found = list(ranker.rank(map(item, range(4)), replace(CONTEXT, purpose="eval")))
        assert not first.requests
    assert all(isinstance(v, Ranking) for v in found)


def test_some_are_sent_all_the_same(path: Path) -> None:
    sets = [item(n) for n in range(120)]
    with Loopback(judge=LENGTH) as dear, Loopback(judge=cheap) as first:
        found = ranked(path, dear, first, sets, audit=0.5)
    later = [found[s.prompt.id] for n, s in enumerate(sets) if n >= CALIBRATION and not hard(str(n))]
    audited = [v for v in later if v.cascade.audited]
    assert len(later) / 4 < len(audited) < 3 * len(later) / 4
    assert all(v.judged == v.order for v in audited)


def test_a_run_of_two_judges(tmp_path: Path) -> None:
    with Loopback(judge=LENGTH) as dear, Loopback(judge=LENGTH) as first:
        box = section(dear, first, calibration=50)
        config = config_in(tmp_path, black_box=box, cycle={"max_interactions": 1, "batch_size": 70})
        template = load_template("rank")
        with Ledger(tmp_path / "t" / "ledger.sqlite") as ledger:
            cycle = make_cycle(config, n_prompts=70)
            assert config.black_box.first is not None
            assert config.black_box.cascade is not None
            one, two = (BlackBoxRanker(b, template, ledger) for b in (config.black_box, config.black_box.first))
            ranker = JudgeCascade(one, two, config.black_box.cascade, comparisons(ledger, config.black_box, template))
            cycle.parts = replace(cycle.parts, black_box=ranker)
            cycle.run()
            assert set(ledger.spend_by_judge()) == {(dear.url, "dear"), (first.url, "cheap")}
    rankings = read_rankings(cycle.run_dir.interaction(0).black_box)
    assert len(rankings) == 70
    assert sum(not r.judged for r in rankings.values()) == 20
    assert json.loads(cycle.run_dir.interaction(0).summary.read_text())["cascade"]["alone"] == 20
    said = (
        "of 50 lists that both judges ranked they order 100.0% of pairs alike; the first answers alone where it is 50%"
        " sure (50 of them, 100.0% of pairs alike), at least 90% of pairs there with error at most 10%; it has answered"
        " 20 of 70 ranked lists alone (29%)"
    )
    assert first_judge_text(cycle.run_dir) == said
    assert said in render_report(cycle.run_dir)
    assert f"first judge: {said}" in status_lines(read_status(cycle.run_dir))


def test_both_judges_are_priced_and_trusted(tmp_path: Path) -> None:
    first = {"model": "cheap", "base_url": "https://cheap.example/v1", "api_key_env": "CHEAP_API_KEY"}
    box: dict[str, Any] = {"backend": "cascade", "model": "dear", "base_url": "https://dear.example/v1"}
    box |= {"price": {"input": 10, "output": 30}, "cascade": {"first": first, "min_agreement": 0.9}}

    def config(section: dict[str, Any]) -> Config:
        return config_in(tmp_path, black_box=section, cycle={"eval_every": 0})

    both = config(box)
    assert _hosts(both) == [
        ("https://dear.example/v1", "OPENAI_API_KEY"),
        ("https://cheap.example/v1", "CHEAP_API_KEY"),
    ]
    prompts = [Prompt(({"role": "user", "content": f"{n}"},)) for n in range(10)]
    most = run_worst_case(both, prompts, ())
    alone = run_worst_case(
        config({k: v for k, v in box.items() if k != "cascade"} | {"backend": "openai"}), prompts, ()
    )
    assert most.calls > alone.calls
    assert most.usd is not None
    assert alone.usd is not None
    assert most.usd > alone.usd
    for wrong_one, said in (
        ({"judge": "replay", "first": first, "keep": 2}, "a judge stands before one of backend openai, got replay"),
        ({"first": first | {"passes": 1}, "keep": 2}, "passes"),
        ({"first": first}, "keep: without it and without min_agreement nothing is spared"),
        ({"first": "cheap", "keep": 2}, "first"),
        ({"first": {"model": "dear", "base_url": "https://dear.example/v1/"}, "keep": 2}, "first: the judge itself"),
    ):
        with pytest.raises((ValueError, UserError), match=said):
            config(box | {"path": "x", "cascade": wrong_one})
