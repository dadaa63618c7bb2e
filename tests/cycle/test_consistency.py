"""A run stops on a judge that reads nothing, before it trains, and goes on where that is wanted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import config_in, make_cycle, prompts
from loopback import JUDGES, Body, Judge, Loopback, answer, shown

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import Config
from cyclealign.cycle.consistency import JudgeWatch, advice, shown_again
from cyclealign.cycle.interaction import Interaction
from cyclealign.cycle.loop import Loop
from cyclealign.evaluation.consistency import consistency
from cyclealign.files.jsonl import read_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_rankings
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.rankers.consensus import aggregate
from cyclealign.reporting.status import judge_text
from cyclealign.types import Ranking, RunStopped, Unranked

ONE_CALL = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def box(**more: Any) -> BlackBoxConfig:
    return BlackBoxConfig.model_validate(ONE_CALL | more)


def interaction(tmp_path: Path, n: int, *, before: int = 0, index: int = 0) -> Interaction:
    return Interaction(index, 0, index, prompts(n, f"{index}"), RunDir(tmp_path).interaction(index), before)


def twice(prompt_id: str, tau: float) -> Ranking:
    """A verdict on two candidates, the same in the reverse order or not."""
    return replace(aggregate(prompt_id, ["ab"]), reverse=tuple("ab" if tau > 0 else "ba"))


def test_the_first_32_of_the_run_are_shown_again_and_then_a_share(tmp_path: Path) -> None:
    first, later = interaction(tmp_path, 20), interaction(tmp_path, 2000, before=20, index=1)
    assert shown_again(box(repeat=0), first, seed=0) == {p.id for p in first.active}
    assert shown_again(box(repeat=0), later, seed=0) == {p.id for p in later.active[:12]}
    drawn = shown_again(box(), later, seed=0) - {p.id for p in later.active[:12]}
    assert 60 <= len(drawn) <= 140  # 5% of 1,988, four deviations either way
    assert shown_again(box(), later, seed=1) != shown_again(box(), later, seed=0)
    assert shown_again(box(passes=3), later, seed=0) == {p.id for p in later.active[:12]}
    assert not shown_again(BlackBoxConfig(backend="local"), first, seed=0)


@pytest.mark.parametrize(("tau", "stops_at"), [(-1, 32), (0, 128), (1, None)])
def test_two_looks(tmp_path: Path, tau: int, stops_at: int | None) -> None:
    """Whatever the order in which verdicts come; lists without a verdict, or seen before, count as lists."""
    parts = [interaction(tmp_path, 50), interaction(tmp_path, 100, before=50, index=1)]
    watch, seen = JudgeWatch(box()), []

    def see() -> None:
        for it in parts:
            see_one(it)

    def see_one(it: Interaction) -> None:
        order = list(enumerate(it.active, it.before))
        random.Random(3).shuffle(order)
        for n, prompt in sorted(order, key=lambda one: one[0] // 32):
            seen.append(n)
            watch.saw(it, [twice(prompt.id, tau or (-1) ** n) if n % 5 else Unranked(prompt.id, "refusal")])

    if stops_at is None:
        see()
    else:
        with pytest.raises(RunStopped, match=rf"on the first {stops_at} lists: tau .*min_consistency=null"):
            see()
        assert sorted(seen) == list(range(stops_at))


def test_the_least_that_is_asked_for(tmp_path: Path) -> None:
    good = consistency([1.0, 1.0, 0.0] * 12)
    assert advice(good, 128, 0.0) is None
    assert "not surely above black_box.min_consistency=0.6" in (advice(good, 128, 0.6) or "")
    assert advice(good, 32, 0.6) is None
    assert advice(consistency([-1.0] * 32), 32, None) is None
    it = interaction(tmp_path, 32)
    JudgeWatch(box(min_consistency=None)).saw(it, [twice(p.id, -1) for p in it.active])
    JudgeWatch(BlackBoxConfig(backend="local")).saw(it, [twice(p.id, -1) for p in it.active])


def coin(body: Body) -> str:
    """Another order at each look."""
    slots = list(range(len(shown(body))))
    random.Random(str(body["messages"])).shuffle(slots)
    return answer(body, slots)


@contextmanager
def run_of(tmp_path: Path, judge: Judge, n: int, **more: Any) -> Iterator[tuple[Loop, Loopback]]:
    with Loopback(judge=judge) as server:
        sections = {"black_box": ONE_CALL | {"base_url": server.url} | more, "cycle": {"batch_size": n}}
        sections["cycle"]["max_interactions"] = 1
        config: Config = config_in(tmp_path, **sections)
        with Ledger(tmp_path / "t" / "ledger.sqlite") as ledger:
            cycle = make_cycle(config, n_prompts=n)
            ranker = BlackBoxRanker(config.black_box, load_template("rank"), ledger)
            cycle.parts = replace(cycle.parts, black_box=ranker)
            yield cycle, server


def test_a_judge_that_goes_by_the_slot_is_left_at_32_lists_before_anything_is_trained(tmp_path: Path) -> None:
    with run_of(tmp_path, JUDGES["slot"], 60, max_concurrency=1) as (cycle, server):
        with pytest.raises(RunStopped, match=r"first 32 lists: tau -1\.00 .*it answers by the slot"):
            cycle.run()
        paid = len(server.requests)
    assert 64 <= paid <= 70  # with the probe, and what was in flight
    assert not cycle.run_dir.interaction(0).trained
    assert "it answers by the slot" in judge_text(cycle.run_dir)
    with run_of(tmp_path, JUDGES["slot"], 60) as (cycle, server), pytest.raises(RunStopped, match="first 32 lists"):
        cycle.run()
    assert not server.requests  # a resume pays for nothing before it says so again


def test_a_run_goes_on_where_that_is_wanted_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    with Loopback(judge=JUDGES["slot"]) as server:
        for least in (0.0, None):
            more = {"base_url": server.url, "min_consistency": least, "max_concurrency": 2}
            with run_of(tmp_path, JUDGES["slot"], 40, **more) as (cycle, _):
                if least is None:
                    cycle.run()
                else:
                    with pytest.raises(RunStopped, match="answers by the slot"):
                        cycle.run()
        assert sum(server.counts().values()) - len(server.counts()) <= 2  # in flight when it stopped
    with Ledger(tmp_path / "t" / "ledger.sqlite", read_only=True) as ledger:
        spend = ledger.spend_by("purpose")
    assert cycle.run_dir.interaction(0).trained
    rows = list(read_jsonl(cycle.run_dir.interaction(0).black_box))
    assert spend["rank"].done == len(rows) == 40
    assert spend["again"].done == sum("reverse" in row for row in rows) >= 32


@pytest.mark.parametrize(("judge", "n", "stops"), [("coin", 140, True), ("hash", 140, False), ("coin", 100, False)])
def test_coins_are_found_out_at_128_lists_and_readers_go_on(tmp_path: Path, judge: str, n: int, stops: bool) -> None:
    with run_of(tmp_path, coin if judge == "coin" else JUDGES["hash"], n) as (cycle, _):
        if stops:
            with pytest.raises(RunStopped, match=r"first 128 lists: tau .*not told from a coin"):
                cycle.run()
        else:
            cycle.run()
            assert ("+1.00" in judge_text(cycle.run_dir)) == (judge == "hash")


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_second_look_is_no_vote(tmp_path: Path, passes: int) -> None:
    with run_of(tmp_path, JUDGES["hash"], 8, passes=passes) as (cycle, server):
        cycle.run()
        asked = Counter(len(shown(body)) for body in server.requests)
    rankings = read_rankings(cycle.run_dir.interaction(0).black_box)
    assert len(rankings) == 8
    for ranking in rankings.values():
        assert len(ranking.passes) == passes
        assert ranking.reverse == ranking.passes[0]
        assert (ranking.confidence is None) == (passes == 1)
    assert asked[4] == 8 * {1: 2, 2: 2, 3: 4}[passes]
