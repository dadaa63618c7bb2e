"""`cyclealign serve` with vLLM itself, and a run that outlives either of its two servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ENVIRONMENT, arguments, finish, judge_server, records, start

from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_sets

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]
KEYS = ("generator.max_new_tokens=12", "generator.candidates=3")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_outlives_either_server(tmp_path: Path, killed: int) -> None:
    command = [sys.executable, "-m", "cyclealign", "serve", "quickstart", "generator.backend=vllm", *KEYS]
    command += [f"output_dir={tmp_path}", "--servers", "2", "--port", str(8300 + 10 * killed)]
    served = subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE)
    try:
        assert served.stdout is not None
        line = served.stdout.readline()
        assert line.startswith("generator.backend=server"), line
        with judge_server(tmp_path / "judge.log", delay=0.1) as judge:
            keys = line.replace("'", "").split()
            run = start("run", *arguments(tmp_path, judge, *keys, "generator.chunk=20", "cycle.max_interactions=2"))
            sampled = RunDir(tmp_path / "r").interaction(0).candidates
            until = time.monotonic() + 240
            while len(read_sets(sampled)) < 3 and time.monotonic() < until and run.poll() is None:
                time.sleep(0.02)
            os.kill(server_pids(served.pid)[killed], signal.SIGKILL)
            code, output = finish(run)
        assert code == 0, output
        rows = records(tmp_path / "r")
        assert len(rows["interactions/0001/candidates.jsonl"]) == len(rows["interactions/0001/black_box.jsonl"])
        assert len(rows["interactions/0000/candidates.jsonl"]) == 20
        assert "1 other takes over" in output
    finally:
        served.send_signal(signal.SIGTERM)
        served.communicate(timeout=60)
    assert served.returncode == 0


def server_pids(serve: int) -> list[int]:
    """The vLLM servers below it, by their ports."""
    keepers = [int(pid) for f in Path(f"/proc/{serve}/task").glob("*/children") for pid in f.read_text().split()]
    return [int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]) for pid in sorted(keepers)]
