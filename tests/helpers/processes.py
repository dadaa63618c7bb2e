"""Runs of the real program in processes of their own: started, killed, resumed, compared."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from loopback import Loopback

from cyclealign.files.jsonl import read_jsonl

HELPERS = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HELPERS.parents[1]), str(HELPERS)]),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # another number of threads may round differently
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


WARM = (sys.executable, "-S", "-E", str(HELPERS / "warm.py"))


@contextmanager
def judge_server(log: Path, *, judge: str = "hash", delay: float = 0.0) -> Iterator[str]:
    """A real HTTP server on loopback that ranks deterministically; gives its base URL."""
    command = [sys.executable, str(HELPERS / "loopback.py"), "--judge", judge, "--delay", str(delay), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.kill()


def start(
    *arguments: str,
    launcher: Sequence[str] = (),
    anew: bool = False,
    more: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[str]:
    """``cyclealign ARGUMENTS``, or a script and its arguments, in a process group of its own, both outputs in one pipe.

    anew: by a Python that imports everything itself, with a hash seed of its own. more: of the environment. folder:
    where it runs.
    """
    anew = anew or bool(launcher)
    program = () if arguments[0].endswith(".py") else (*(launcher or ("-m",)), "cyclealign")
    command = [sys.executable, *program, *arguments] if anew else [*WARM, warm_socket(), "run", *arguments]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT | dict(more or {}),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def start_ranks(count: int, *arguments: str, machines: int = 1) -> list[subprocess.Popen[str]]:
    """What ``start`` starts as processes of one group, as torchrun would, on several machines too; the last first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    local = count // machines
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(local)}
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n % local), "GROUP_RANK": str(n // local)} for n in range(count)]
    return [start(*arguments, more=group | rank) for rank in reversed(ranks)]


def finish_ranks(count: int, *arguments: str, machines: int = 1) -> tuple[int, str]:
    """``start_ranks`` to their end: the first one's status that is not 0, and all outputs, the first process's last."""
    with ThreadPoolExecutor(count) as pool:
        ended = list(pool.map(finish, start_ranks(count, *arguments, machines=machines)))
    return next((code for code, _ in ended if code), 0), "".join(output for _, output in ended)


@cache
def warm_socket() -> str:
    """Of the process that forks others; one for all workers of a run of the tests, and it ends with that run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir(), f"cyclealign-warm-{run}")
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        socket = folder / "socket"
        if not socket.exists():
            whole_run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            serve = [sys.executable, WARM[-1], str(socket), "serve", str(whole_run)]
            server = subprocess.Popen(serve, env=ENVIRONMENT)
            while not socket.exists():
                assert server.poll() is None
                time.sleep(0.02)
            server.returncode = 0  # nobody here waits for it
    return str(socket)


def finish(process: subprocess.Popen[str], *, timeout: float = 600) -> tuple[int, str]:
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def kill(process: subprocess.Popen[str]) -> None:
    """What ``start`` started, with all of its group; it is gone afterwards."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def done_calls(run: Path) -> int:
    """Replies on the run's ledger."""
    try:
        with sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10) as db:
            return int(db.execute("SELECT COUNT(*) FROM calls WHERE state = 'done'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def in_flight(run: Path) -> int:
    """Calls that were sent and have no reply on record."""
    with sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10) as db:
        return int(db.execute("SELECT COUNT(*) FROM calls WHERE state = 'started' AND reply IS NULL").fetchone()[0])


def ledger_content(run: Path) -> set[tuple[Any, ...]]:
    """Every reply that was paid for: what was asked, for whom, and the answer."""
    columns = "key, model, purpose, interaction, prompt_id, pass, reply"
    with sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10) as db:
        return set(db.execute(f"SELECT {columns} FROM calls WHERE state = 'done'"))


def records(run: Path) -> dict[str, Any]:
    """Candidates, rankings, agreements, demonstrations and losses of all interactions."""
    names = ("candidates", "black_box", "white_box", "agreement", "demonstrations", "train")
    found: dict[str, Any] = {}
    for path in sorted(p for n in names for p in run.glob(f"interactions/*/{n}.jsonl")):
        rows = list(read_jsonl(path))
        if path.stem in ("candidates", "black_box"):  # in order of completion
            rows.sort(key=lambda r: r["prompt_id"])
        found[str(path.relative_to(run))] = rows
    return found


def run_with_kills(arguments: Sequence[str], run: Path, *, kills: int, seed: int, spread: float) -> list[int]:
    """Start a run, SIGKILL its whole process group at random moments after its first reply, resume; to the end.

    Returns the number of calls in flight at each kill; fewer than ``kills`` where the run ended before.
    """
    chance = random.Random(seed)
    flying: list[int] = []
    process = start("run", *arguments)
    while len(flying) < kills:
        before = done_calls(run)
        while process.poll() is None and done_calls(run) <= before:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, spread))
        if process.poll() is not None:
            break
        kill(process)
        flying.append(in_flight(run) - sum(flying))
        process = start("resume", str(run))
    code, output = finish(process)
    assert code == 0, output
    return flying


def requests_answered(log: Path) -> int:
    """Requests that the server saw arrive."""
    return sum(json.loads(line)["event"] == "arrived" for line in log.read_text().splitlines())


def arguments(folder: Path, url: str, *more: str) -> list[str]:
    """The quickstart's models and openers, ranked by a server; small."""
    return [
        "quickstart",
        "name=r",
        f"output_dir={folder}",
        "data.limit=20",
        "data.eval_prompts=null",
        "cycle.scorer=null",
        "generator.candidates=3",
        "generator.max_new_tokens=12",
        "generator.chunk=8",
        "black_box.backend=openai",
        "black_box.model=judge",
        f"black_box.base_url={url}",
        "black_box.max_concurrency=3",
        "cycle.max_interactions=3",
        "training.per_device_train_batch_size=4",
        *more,
    ]


def kill_after(process: subprocess.Popen[str], requests: int, server: Loopback) -> None:
    """Kill a process once the server has had so many requests, or after a minute."""
    until = time.monotonic() + 60
    while len(server.requests) < requests and time.monotonic() < until:
        time.sleep(0.01)
    kill(process)


def killed_itself(program: str, folder: Path, *arguments: str) -> bool:
    """Whether a program, run to its end, ended by SIGKILL; any other end but a good one is an error."""
    file = folder / "killed.py"
    file.write_text(program, encoding="utf-8")
    code, output = finish(start(str(file), *arguments))
    assert code in (0, -signal.SIGKILL, 128 + signal.SIGKILL), output
    return code != 0
