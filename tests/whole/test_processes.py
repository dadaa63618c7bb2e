"""The real program, end to end in its own processes, against a real server: kills, budgets, several processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from processes import (
    arguments,
    done_calls,
    finish,
    judge_server,
    ledger_content,
    records,
    requests_answered,
    run_with_kills,
    start,
)

from cyclealign.files.jsonl import read_jsonl
from cyclealign.judge.ledger import Ledger

pytestmark = pytest.mark.slow
SMALL = ("data.limit=12", "generator.chunk=4", "cycle.max_interactions=2")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kills", "more"), [(2, SMALL), pytest.param(20, (), marks=pytest.mark.long)])
def test_kills_change_nothing_and_repeat_only_what_was_in_flight(
    tmp_path: Path, kills: int, more: tuple[str, ...]
) -> None:
    kills_change_nothing(tmp_path, kills, *more, spread=0.4)
    code, output = finish(start("status", str(tmp_path / "whole" / "r")))
    assert code == 0, output
    assert "finished" in output


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_kills_change_nothing_where_vllm_generates(tmp_path: Path) -> None:
    kills_change_nothing(tmp_path, 20, "generator.backend=vllm", *SMALL, spread=2.0)


def kills_change_nothing(tmp_path: Path, wanted: int, *more: str, spread: float) -> None:
    """Runs killed `wanted` times in all are the run that was not: records, ledger, all calls but those in flight."""
    with judge_server(tmp_path / "log.jsonl", delay=0.3) as url:
        code, output = finish(start("run", *arguments(tmp_path / "whole", url, *more)))
        assert code == 0, output
        whole = tmp_path / "whole" / "r"
        calls = requests_answered(tmp_path / "log.jsonl")
        assert calls == done_calls(whole)
        kills = number = 0
        while kills < wanted:  # one run may be over before it was killed so often
            run, before = tmp_path / str(number) / "r", requests_answered(tmp_path / "log.jsonl")
            given = arguments(tmp_path / str(number), url, *more)
            flying = run_with_kills(given, run, kills=wanted - kills, seed=number, spread=spread)
            repeated = requests_answered(tmp_path / "log.jsonl") - before - calls
            assert records(run) == records(whole)
            assert ledger_content(run) == ledger_content(whole)
            assert 0 <= repeated <= sum(flying)
            assert flying
            kills, number = kills + len(flying), number + 1


def test_a_budget_stops_the_run_cleanly_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    price = ("black_box.price={input: 2.0, output: 8.0}", "cycle.max_interactions=1")
    with judge_server(tmp_path / "log.jsonl") as url:
        code, output = finish(start("run", *arguments(tmp_path, url, *price, "black_box.budget_usd=0.03")))
        run = tmp_path / "r"
        assert code == 1, output
        last = output.strip().splitlines()[-1]
        assert "budget" in last
        assert "resume" in last
        assert "Traceback" not in output
        ranked = [r["prompt_id"] for r in read_jsonl(run / "interactions" / "0000" / "black_box.jsonl")]
        assert 0 < len(ranked) < 20
        assert Ledger(run / "ledger.sqlite", read_only=True).spend().usd <= 0.03
        before = done_calls(run)
        code, output = finish(start("resume", str(run), "black_box.budget_usd=5"))
        assert code == 0, output
        after = [r["prompt_id"] for r in read_jsonl(run / "interactions" / "0000" / "black_box.jsonl")]
        assert after[: len(ranked)] == ranked
        assert len(set(after)) == 20
        assert json.loads((run / "best" / "kept.json").read_text())["trained"] == 1
        assert requests_answered(tmp_path / "log.jsonl") == done_calls(run) > before


@pytest.mark.timeout(900)
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    # On a CPU `accelerate launch` starts one process unless MPI is there; torchrun starts two anywhere.
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m")
    small = ("data.limit=12", "cycle.max_interactions=2")
    with judge_server(tmp_path / "log.jsonl") as url:
        code, output = finish(start("run", *arguments(tmp_path / "one", url, *small)))
        assert code == 0, output
        half = "training.per_device_train_batch_size=2"
        code, output = finish(start("run", *arguments(tmp_path / "two", url, *small, half), launcher=launcher))
        assert code == 0, output
    one, two = records(tmp_path / "one" / "r"), records(tmp_path / "two" / "r")
    for name in ("interactions/0000/candidates.jsonl", "interactions/0000/black_box.jsonl"):
        assert one[name] == two[name]
    for name in ("interactions/0000/train.jsonl", "interactions/0001/train.jsonl"):
        losses = [[row["loss"] for row in run[name]] for run in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert len(losses[0]) >= 2


def test_the_last_line_of_a_failed_run_names_the_server(tmp_path: Path) -> None:
    code, output = finish(start("run", *arguments(tmp_path, "http://127.0.0.1:9/v1")))
    assert code == 2
    last = output.strip().splitlines()[-1]
    assert re.search(r"error: .*127\.0\.0\.1:9", last)
    assert not list(tmp_path.glob("r/interactions/*"))
