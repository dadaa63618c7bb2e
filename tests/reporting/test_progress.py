"""What a running cycle shows: paces, what is left, lines and bars, from the run's files."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from report_run import hand_made_run, state
from rich.console import Console

from cyclealign.cycle.team import Team
from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.records import read_records, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Place, Timing
from cyclealign.judge.call import Spend
from cyclealign.reporting import progress
from cyclealign.reporting.progress import Bars, Lines, Pace, progress_line, run_seconds_left, said, shown, units_done
from cyclealign.reporting.status import read_status


def running(folder: Path, *, ranked: int = 20) -> RunDir:
    """In interaction 2 of 6, with ``ranked`` of 30 prompts; 0.03 of 5 dollars spent."""
    run = hand_made_run(folder)
    run.config.write_text(
        "name: run\nblack_box: {backend: openai, budget_usd: 5}\ncycle: {batch_size: 15, max_interactions: 3}\n"
    )
    files = run.interaction(2)
    write_jsonl(files.black_box, list(read_jsonl(files.black_box))[:ranked])
    files.train_log.unlink()
    write_record(run.state_file, state("generate_and_rank", 2, prompts=30, at=time.time()))
    return run


def test_pace_counts_what_it_saw_happen() -> None:
    pace = Pace()
    pace.saw(100, 0.0)
    assert (pace.rate, pace.left(200)) == (None, None)
    pace.saw(110, 10.0)
    assert pace.rate == 1.0
    assert pace.left(200) == 90.0
    pace.saw(110, 20.0)
    assert pace.rate == 0.5


def test_pace_forgets_what_is_long_ago() -> None:
    pace = Pace()
    for second in range(200):
        pace.saw(second * 10 if second < 100 else 1000 + (second - 100), float(second))
    assert pace.rate == pytest.approx(1.0)


def test_pace_without_movement_is_unknown() -> None:
    pace = Pace()
    pace.saw(5, 0.0)
    pace.saw(5, 10.0)
    assert pace.rate is None


def test_status_tells_how_far_the_stage_is(tmp_path: Path) -> None:
    run = running(tmp_path)
    status = read_status(run)
    assert (status.done, status.total, status.planned, status.trained) == (20, 30, 6, 2)
    write_record(run.state_file, state("evaluate", 1))
    assert (read_status(run).done, read_status(run).total) == (40, 40)
    team = Team(run.state_file, judge="openai")
    team.share("train", lambda: None, Place(interaction=2))
    assert (read_status(run).done, read_status(run).total) == (None, None)
    team.progress(3, 8)
    assert (read_status(run).done, read_status(run).total, read_status(run).unit) == (3, 8, "steps")
    team.progress(4, 8)  # within the same second: not worth a write
    assert read_status(run).done == 3
    team.share("evaluate", lambda: None, Place(interaction=9))
    state_now = run.state()
    assert state_now is not None
    assert (state_now.done, state_now.prompts) == (None, None)


def test_time_left_is_bounded_by_the_interactions_to_come(tmp_path: Path) -> None:
    run = running(tmp_path)
    rows = [r for r in read_records(Timing, run.timings) if r.stage != "evaluate" or r.interaction > 0]
    assert run_seconds_left(run, read_status(run)) == pytest.approx(sum(r.seconds for r in rows) / 2 * 4)
    for interaction in run.interactions():
        interaction.train_log.unlink(missing_ok=True)
    assert run_seconds_left(run, read_status(run)) is None


def test_lines(tmp_path: Path) -> None:
    status = read_status(running(tmp_path))
    assert status.spend == Spend(calls=31, done=30, unfinished=1, input_tokens=15_000, output_tokens=240,
                                 usd=pytest.approx(0.03), reserved_usd=0.002)  # fmt: skip
    line = "interaction 2 · generate and rank · 20 of 30 ranked · 30 sampled · $0.0300 of $5.00 · 1 min 5 s"
    assert progress_line(status, Pace(), 65.0) == line
    pace = Pace()
    pace.saw(10, 0.0)
    pace.saw(20, 20.0)
    assert said(status, pace) == "20 of 30 ranked · 30 sampled · 0.5/s · 20 s left"
    assert units_done(status) == 25.0  # a list that is only sampled is half done
    assert units_done(replace(status, candidates=24)) == 22.0


def test_lines_of_a_stage_come_while_it_moves_and_not_too_often(tmp_path: Path) -> None:
    """Sampling moves them before the first verdict is there."""
    status, lines = replace(read_status(running(tmp_path)), spend=None), Lines()

    def at(second: float, sampled: int, ranked: int) -> str | None:
        line = lines.update(replace(status, done=ranked, candidates=sampled), 1000.0 + second)
        return line and line.split(" · ", 2)[2].rpartition(" · ")[0]

    assert at(0, 0, 0) == "0 of 30 ranked"
    assert at(29, 8, 0) is None
    assert at(31, 10, 0) == "0 of 30 ranked · 10 sampled · 0.2/s · 2 min 35 s left"
    assert at(50, 20, 10) is None
    assert at(62, 20, 10) == "10 of 30 ranked · 20 sampled · 0.2/s · 1 min 2 s left"
    assert at(100, 20, 10) is None  # nothing moved
    assert at(101, 20, 11) is not None
    evaluated = replace(status, stage="evaluate", interaction=3, done=5, total=40, unit="sampled")
    line = lines.update(evaluated, 1102.0)
    assert line is not None
    assert line.startswith("interaction 3 · evaluate · 5 of 40 sampled · ")
    assert lines.update(replace(evaluated, done=10, unit="scored"), 1103.0) is None
    line = lines.update(replace(evaluated, done=30, unit="scored"), 1143.0)
    assert line is not None
    assert line.startswith("interaction 3 · evaluate · 30 of 40 scored · 0.5/s · 20 s left · ")


def test_bars_show_stage_rate_money_and_time_left(tmp_path: Path) -> None:
    run = running(tmp_path, ranked=10)
    bars = Bars(run)
    out = io.StringIO()
    bars.progress.live.console = Console(file=out, width=140, force_terminal=True)
    bars.update(read_status(run))
    write_jsonl(run.interaction(2).black_box, list(read_jsonl(run.interaction(1).black_box))[:25])
    time.sleep(0.05)
    bars.update(read_status(run))
    bars.progress.console.print(bars.progress.get_renderable())
    said_so = out.getvalue()
    assert "interaction 3 of at most 6" in said_so
    assert "$0.0300 of $5.00 · at most" in said_so
    assert "25 of 30 ranked · 30 sampled" in said_so
    assert "s left" in said_so
    write_record(run.state_file, state("train", 2, done=1, of=4))
    bars.update(read_status(run))
    bars.progress.console.print(bars.progress.get_renderable())
    assert "generate and rank 2: 0 s" in out.getvalue()
    assert "1 of 4 steps" in out.getvalue()


def test_away_from_a_terminal_there_is_one_line_a_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    run = running(tmp_path)
    with shown(run):
        time.sleep(0.3)
        write_record(run.state_file, state("train", 2))
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" · ")[0] for line in lines] == [
        "interaction 2 · generate and rank · 20 of 30 ranked · 30 sampled · $0.0300 of $5.00",
        "interaction 2 · train · $0.0300 of $5.00",
    ]
