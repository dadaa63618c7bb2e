"""Alarms by value: each kind with its figure and limit, and nothing where all is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_run import hand_made_run, metrics, prompts, summary

from cyclealign.cli.main import main
from cyclealign.files.atomic import write_atomic
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Metrics, Summary
from cyclealign.reporting.alarms import Alarm, alarm_lines, alarms, drift_alarms
from cyclealign.reporting.figures import read_facts
from cyclealign.reporting.page import render_report

ASKED = prompts(4, "held out")
START = metrics(0, {p.id: 1.0 for p in ASKED}, ASKED)  # 12 words, distinct-2 0.8, NLL 2.0


def found(run: RunDir) -> tuple[Alarm, ...]:
    return alarms(run, read_facts(run))


@pytest.mark.parametrize(
    ("changes", "name", "figure", "limit"),
    [
        ({"mean_words": 18.6}, "length", 1.55, 1.5),
        ({"mean_words": 6.0}, "length", 0.5, 1 / 1.5),
        ({"nll_start": 2.5}, "kl", 0.25, 0.2),
        ({"nll_start": 1.5}, "kl", -0.25, -0.2),
        ({"distinct2": 0.6}, "repetition", 0.75, 0.8),
    ],
)
def test_drift_by_value(changes: dict[str, Any], name: str, figure: float, limit: float) -> None:
    (alarm,) = drift_alarms(START, replace(START, **changes), 3)
    assert alarm.name == name
    assert alarm.figure == pytest.approx(figure)
    assert alarm.limit == pytest.approx(limit)
    assert "after 3 interactions" in alarm.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mean_words": 17.9},
        {"mean_words": 8.1},
        {"nll_start": 2.39},
        {"nll_start": 1.61},
        {"nll_start": None},
        {"distinct2": 0.65},
        {"distinct2": 0.9},
        {"replies": 0, "mean_words": 0.0, "distinct2": 0.0},
    ],
)
def test_within_the_limits_is_no_alarm(changes: dict[str, Any]) -> None:
    assert list(drift_alarms(START, replace(START, **changes), 1)) == []
    assert list(drift_alarms(replace(START, replies=0), replace(START, mean_words=99.0), 1)) == []


def with_agreement(run: RunDir, *values: float) -> None:
    for n, value in enumerate(values):
        write_record(run.interaction(n).summary, replace(summary(n, 30), agreement_corrected=value))


def with_rewards(run: RunDir, shift: float) -> None:
    """The last evaluation's rewards: the start's, with a shift and a small spread."""
    start = read_record(Metrics, run.evaluation(0) / "metrics.json")
    file = run.evaluation(3) / "metrics.json"
    rewards = {i: v + shift + 0.01 * (n % 3) for n, (i, v) in enumerate(start.rewards.items())}
    write_record(file, replace(read_record(Metrics, file), reward_by_prompt=rewards))


def test_agreement_that_rises_while_the_witness_falls(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path / "r")
    assert not found(run)
    with_rewards(run, -0.5)
    with_agreement(run, 0.30, 0.35, 0.34)
    assert not found(run)  # it rose by 0.04
    with_agreement(run, 0.30, 0.35, 0.36)
    (alarm,) = found(run)
    assert (alarm.name, alarm.limit) == ("witness", 0.0)
    assert alarm.figure == pytest.approx(-0.49, abs=0.003)
    assert "rose by 0.060, while the scorer of the evaluations fell by 0.4" in alarm.sentence
    with_rewards(run, 0.0)  # it rose
    assert not found(run)
    with_rewards(run, -0.011)  # too small a fall to tell
    assert not found(run)
    with_rewards(run, -0.5)
    with_agreement(run, 0.36, 0.35, 0.30)
    assert not found(run)
    with_agreement(run, 0.30, 0.35, 0.36)
    last = read_record(Summary, run.interaction(2).summary)
    write_record(run.interaction(2).summary, replace(last, ranked=0))  # nothing was ranked: no agreement to speak of
    assert not found(run)


@pytest.mark.parametrize(
    ("box", "scorer", "same"),
    [
        ("{backend: reward_model, path: org/rm}", "reward_model:org/rm", True),
        ("{backend: cross_encoder, path: org/rm}", "reward_model:org/rm", True),
        ("{backend: overlap}", "overlap", True),
        ("{backend: cascade, cascade: {judge: reward_model}, path: org/rm}", "reward_model:org/rm", True),
        ("{backend: reward_model, path: org/rm}", "reward_model:org/other", False),
        ("{backend: openai, model: gpt}", "sentence_similarity", False),
        ("{backend: overlap}", "null", False),
    ],
)
def test_a_judge_that_is_its_own_witness(tmp_path: Path, box: str, scorer: str, same: bool) -> None:
    run = RunDir(tmp_path)
    write_atomic(run.config, f"name: a\nblack_box: {box}\ncycle: {{scorer: '{scorer}'}}\n".replace("'null'", "null"))
    assert [a.name for a in found(run)] == ["judge_is_scorer"] * same


def test_alarms_are_said_in_status_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = hand_made_run(tmp_path / "r")
    assert main(["status", str(run.path)]) == 0
    assert "alarm" not in capsys.readouterr().out
    file = run.evaluation(3) / "metrics.json"
    write_record(file, replace(read_record(Metrics, file), mean_words=36.0))
    sentence = "replies are 3.00 times as long as the start model's after 3 interactions (alarm beyond 1.50)"
    (line,) = alarm_lines(run)
    assert line.startswith(f"alarm: {sentence}")
    for command in ("status", "report"):
        assert main([command, str(run.path)]) == 0
        assert line in capsys.readouterr().out
    assert "Alarm: replies are 3.00 times as long" in render_report(run)
