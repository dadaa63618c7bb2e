"""The loop, with fakes: what it writes, what it trains on, what stops it, and that a kill changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeGenerator, FakeRanker, FakeTrainer, Fuse, Killed, config_in, make_cycle, prompts
from report_run import metrics

from cyclealign.config.schema import DriftConfig
from cyclealign.cycle.drift import drift_broken
from cyclealign.cycle.loop import Loop
from cyclealign.evaluation.replies import kept_of_drawn
from cyclealign.files.jsonl import Appender, read_json, read_jsonl
from cyclealign.files.run_records import read_rankings, read_sets
from cyclealign.judge.prompting import presentations
from cyclealign.rankers.agreement import agree
from cyclealign.rankers.consensus import aggregate
from cyclealign.types import (
    BudgetExhausted,
    Candidate,
    CandidateSet,
    RankContext,
    Ranking,
    RunStopped,
    Unranked,
    UnrankedReason,
    derive_seed,
)


def verdict_files(run: Path) -> dict[str, Any]:
    """Everything that a killed and resumed run must share with the uninterrupted one."""
    found: dict[str, Any] = {}
    for path in sorted(run.glob("interactions/*/*.jsonl")):
        records = list(read_jsonl(path))
        if path.name in ("candidates.jsonl", "black_box.jsonl"):
            records.sort(key=lambda r: r["prompt_id"])
        found[str(path.relative_to(run))] = records
    for path in sorted(run.glob("evaluations/*/metrics.json")) + sorted(run.glob("interactions/*/adapter/weights")):
        found[str(path.relative_to(run))] = path.read_text()
    found["kept"] = read_json(run / "best" / "kept.json")
    return found


def test_every_stage_leaves_its_records(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path))
    run = cycle.run()
    interactions = sorted((run / "interactions").iterdir())
    assert len(interactions) == 6  # two batches of five prompts, three interactions each; random orders do not settle
    first = cycle.run_dir.interaction(0)
    sets, black, white = read_sets(first.candidates), read_rankings(first.black_box), read_rankings(first.white_box)
    assert set(sets) == set(black) == set(white) == {p.id for p in prompts(5)}
    for record in read_jsonl(first.agreement):
        expected = agree(black[record["prompt_id"]], white[record["prompt_id"]])
        assert (tuple(record["ids"]), record["length"], record["corrected"]) == (
            expected.ids,
            expected.length,
            expected.corrected,
        )
    assert cycle.run_dir.state().stage == "finished"
    assert (run / "best" / "adapter" / "weights").exists() == (read_json(run / "best" / "kept.json")["trained"] > 0)


def test_trains_on_the_black_box_ranking_with_its_utilities(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path, cycle={"max_interactions": 1}))
    cycle.run()
    trainer = cycle.parts.white_box
    assert isinstance(trainer, FakeTrainer)
    assert [e.prompt_id for e in trainer.fitted] == [p.id for p in prompts(10)]
    black = read_rankings(cycle.run_dir.interaction(0).black_box)
    sets = read_sets(cycle.run_dir.interaction(0).candidates)
    example = trainer.fitted[0]
    ranking = black[example.prompt_id]
    assert ranking.scores is not None
    by_text = {sets[example.prompt_id].text(i): s for i, s in ranking.scores.items()}
    assert dict(zip(example.responses, example.teacher, strict=True)) == by_text


def test_target_agreement_trains_on_the_common_part_only(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path, cycle={"max_interactions": 1, "target": "agreement"}))
    cycle.run()
    trainer = cycle.parts.white_box
    assert isinstance(trainer, FakeTrainer)
    agreed = {r["prompt_id"]: r["ids"] for i in (0, 1) for r in read_jsonl(cycle.run_dir.interaction(i).agreement)}
    assert trainer.fitted
    for example in trainer.fitted:
        assert len(example.responses) == len(agreed[example.prompt_id]) >= 2


def test_settled_prompts_are_left_out_and_the_batch_ends_early(tmp_path: Path) -> None:
    # With two candidates half of the prompts settle in each interaction by chance.
    cycle = make_cycle(config_in(tmp_path, generator={"candidates": 2}, cycle={"max_interactions": 20}), n_prompts=8)
    run = cycle.run()
    active: set[str] | None = None
    for path in sorted((run / "interactions").iterdir()):
        summary = read_json(path / "summary.json")
        asked = {r["prompt_id"] for r in read_jsonl(path / "black_box.jsonl")}
        if summary["round"] > 0:
            assert asked == active
        active = asked - {r["prompt_id"] for r in read_jsonl(path / "agreement.jsonl") if r["settled"]}
    assert active == set()


def test_each_interaction_samples_from_a_new_version_name(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path), n_prompts=5)
    cycle.run()
    generator = cycle.parts.generator
    assert isinstance(generator, FakeGenerator)
    assert set(generator.versions) == {"t-start", "t-v0001", "t-v0002", "t-v0003"}


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 11, 13, 17, 22, 27, 33, 40, 48, 57, 67, 80, 100, 120, 140])
def test_a_killed_run_resumes_to_the_same_run(tmp_path: Path, steps: int) -> None:
    whole = verdict_files(make_cycle(config_in(tmp_path / "whole")).run())
    config = config_in(tmp_path / "killed")
    asked: list[str] = []
    kills = 0
    while True:
        cycle = make_cycle(config, fuse=Fuse(steps + 20 * kills if kills < 4 else None))
        assert isinstance(cycle.parts.black_box, FakeRanker)
        try:
            run = cycle.run()
        except Killed:
            kills += 1
            continue
        finally:
            asked += cycle.parts.black_box.asked
        break
    assert verdict_files(run) == whole
    repeated = len(asked) - len(set(asked))
    assert kills >= 1 or steps >= 100
    assert repeated <= kills  # this ranker has one call in flight


def test_a_torn_last_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}]
    with Appender(path) as file:
        file.add({"a": 4})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_too_many_unranked_stops_the_run_and_says_why(tmp_path: Path) -> None:
    bad = frozenset(p.id for p in prompts(10)[:2])
    cycle = make_cycle(config_in(tmp_path), unranked=bad)
    with pytest.raises(RunStopped, match=r"2 of 5 prompts could not be ranked.*max_unranked=0.2.*no permutation"):
        cycle.run()


def test_calls_that_failed_are_made_again_on_resume_and_no_others(tmp_path: Path) -> None:
    config, bad = config_in(tmp_path, cycle={"max_interactions": 1}), frozenset(p.id for p in prompts(10)[1:3])
    broken = make_cycle(config, unranked=bad)
    assert isinstance(broken.parts.black_box, FakeRanker)
    broken.parts.black_box.reason = "error"
    with pytest.raises(RunStopped, match="a resume makes the calls again that failed"):
        broken.run()
    again = make_cycle(config)
    again.run()
    assert isinstance(again.parts.black_box, FakeRanker)
    first, second = broken.parts.black_box.asked, again.parts.black_box.asked
    assert set(first) & set(second) == {f"0/{i}" for i in bad}
    assert set(read_rankings(again.run_dir.interaction(0).black_box)) == {p.id for p in prompts(5)}


def test_a_budget_that_ends_before_failed_calls_are_made_again_leaves_the_stage_open(tmp_path: Path) -> None:
    config, bad = config_in(tmp_path, cycle={"max_interactions": 1}), frozenset(p.id for p in prompts(10)[1:3])
    reasons: list[tuple[UnrankedReason, type[Exception]]] = [("error", RunStopped), ("budget", BudgetExhausted)]
    for reason, stop in reasons:
        cycle = make_cycle(config, unranked=bad)
        assert isinstance(cycle.parts.black_box, FakeRanker)
        cycle.parts.black_box.reason = reason
        with pytest.raises(stop, match="2 of 5 prompts"):
            cycle.run()
    assert not cycle.run_dir.interaction(0).white_box.exists()
    make_cycle(config).run()
    assert set(read_rankings(cycle.run_dir.interaction(0).black_box)) == {p.id for p in prompts(5)}


def test_unusable_replies_stand_and_stop_a_resumed_run_before_it_asks(tmp_path: Path) -> None:
    bad = frozenset(p.id for p in prompts(10)[3:5])  # the last verdicts of the batch
    for _ in range(2):
        cycle = make_cycle(config_in(tmp_path), unranked=bad)
        with pytest.raises(RunStopped, match="2 of 5"):
            cycle.run()
    assert isinstance(cycle.parts.black_box, FakeRanker)
    assert cycle.parts.black_box.asked == []


@pytest.mark.parametrize(("every", "measured"), [(2, [0, 2, 3]), (7, [0, 3]), (1, [0, 1, 2, 3])])
def test_what_was_trained_last_is_always_measured(tmp_path: Path, every: int, measured: list[int]) -> None:
    cycle = make_cycle(config_in(tmp_path, cycle={"eval_every": every}), n_prompts=5)
    cycle.run()
    assert sorted(cycle.run_dir.evaluations()) == measured
    assert all(read_json(cycle.run_dir.evaluation(n) / "canary.json")["gap"] == 0.0 for n in measured)


def test_collapse_breaks_the_limits_and_shows_in_what_was_drawn() -> None:
    held_out = prompts(2)
    start = metrics(0, {p.id: 0.5 for p in held_out}, list(held_out))
    empty = replace(start, replies=0, nll_start=None)
    assert drift_broken(DriftConfig(), {0: start, 1: empty}, 1) == "all replies are empty"
    assert drift_broken(DriftConfig(), {0: start, 1: start}, 1) is None
    prompt = prompts(1)[0]
    sets = [CandidateSet(prompt, (Candidate("0", "a"), Candidate("1", "b")), 2), CandidateSet(prompt, (), 6)]
    assert kept_of_drawn(sets) == 0.25


def test_few_unranked_are_left_out_of_training(tmp_path: Path) -> None:
    bad = frozenset([prompts(10)[0].id])
    cycle = make_cycle(config_in(tmp_path, cycle={"max_interactions": 1}), unranked=bad)
    cycle.run()
    assert isinstance(cycle.parts.white_box, FakeTrainer)
    assert [e.prompt_id for e in cycle.parts.white_box.fitted] == [p.id for p in prompts(10)[1:]]
    assert read_json(cycle.run_dir.interaction(0).summary)["unranked"] == {"unusable": 1}


def test_a_generator_that_serves_other_weights_stops_the_run_before_ranking(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path), gap=0.5)
    with pytest.raises(RunStopped, match=r"0\.500 nats a token.*nothing that it says is paid for"):
        cycle.run()
    assert isinstance(cycle.parts.black_box, FakeRanker)
    assert cycle.parts.black_box.asked == []


class SlotJudge(FakeRanker):
    """Answers the same slots whatever stands in them: its verdict is the presentation order, drawn anew each pass."""

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            seed = derive_seed(context.seed, item.prompt.id)
            orders = presentations(len(item.candidates), 3, seed=seed)
            yield aggregate(item.prompt.id, [[item.ids[i] for i in order] for order in orders])


def test_a_judge_that_answers_by_position_is_seen_as_chance_and_gated(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path, cycle={"batch_size": 200, "max_interactions": 1}), n_prompts=200)
    cycle = Loop(cycle.config, cycle.run_dir, replace(cycle.parts, black_box=SlotJudge(Fuse(None))), cycle.team)
    cycle.run()
    seen = read_json(cycle.run_dir.interaction(0).summary)
    assert abs(seen["pass_tau"]) < 0.1
    assert abs(seen["agreement_corrected"]) < 0.1
    assert seen["accepted"] == seen["pool"] == 0


class ContentJudge(FakeRanker):
    """Prefers the same response under every presentation order."""

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            best_first = sorted(item.ids, key=item.text)
            yield aggregate(item.prompt.id, [best_first] * 3)


def test_a_judge_that_answers_by_content_passes_the_same_gate(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path, cycle={"batch_size": 200, "max_interactions": 1}), n_prompts=200)
    cycle = Loop(cycle.config, cycle.run_dir, replace(cycle.parts, black_box=ContentJudge(Fuse(None))), cycle.team)
    cycle.run()
    seen = read_json(cycle.run_dir.interaction(0).summary)
    assert seen["pass_tau"] == 1.0
    assert seen["accepted"] > 0
