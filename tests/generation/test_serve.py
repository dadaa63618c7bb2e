"""`cyclealign serve`: what it starts, by a stand-in for vLLM; that a run outlives a server, and no server `serve`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import fake_package
from processes import ENVIRONMENT

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.generation.engine import BINDING, on_cores
from cyclealign.generation.launching import Plan, Wish, flags, plan_servers
from cyclealign.types import UserError

KEYS = ("generator.backend=vllm", "policy.lora.r=12")


def config(*overrides: str) -> Config:
    return load_config("quickstart", [*KEYS, *overrides])


def free_ports(count: int) -> list[int]:
    """So many in a row, as servers take them."""
    while True:
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                for more in range(1, count):
                    held.enter_context(socket.create_server(("127.0.0.1", first + more)))
                return list(range(first, first + count))


def planned(loaded: Config, wish: Wish, *gpus: str) -> list[Plan]:
    return plan_servers(loaded, wish, logs=Path("logs"), gpus=gpus)


def value(plan: Plan, flag: str) -> str:
    return plan.command[plan.command.index(flag) + 1]


# What is started ----------------------------------------------------------------------------------------------


def test_engine_arguments_are_flags() -> None:
    options = {"max_num_seqs": 3, "enforce_eager": False, "enable_lora": True, "block_size": None, "a_b": {"c": [1]}}
    expected = ["--max-num-seqs", "3", "--no-enforce-eager", "--enable-lora", "--a-b", '{"c": [1]}', "--d", "e", "f"]
    assert list(flags(options | {"d": ["e", "f"]})) == expected


def test_one_server_a_gpu_and_as_many_as_one_wants_on_a_cpu() -> None:
    first = free_ports(4)[0]
    four = planned(config(), Wish(port=first), "0", "1", "4", "7")
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in four] == ["0", "1", "4", "7"]
    assert [p.url for p in four] == [f"http://127.0.0.1:{first + i}/v1" for i in range(4)]
    wide = planned(config("generator.engine.tensor_parallel_size=2"), Wish(port=first), "0", "1", "4", "7")
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in wide] == ["0,1", "4,7"]
    assert {value(p, "--tensor-parallel-size") for p in wide} == {"2"}
    both = planned(config("generator.engine.tensor_parallel_size=2"), Wish(port=first, data_parallel_size=2), *"0147")
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in both] == ["0,1,4,7"]
    assert value(both[0], "--data-parallel-size") == "2"
    one, *none = planned(config(), Wish(port=first))
    assert not none
    assert not one.environment
    assert len(planned(config(), Wish(servers=3, port=first))) == 3
    assert value(one, "--max-lora-rank") == "16"
    assert "--enforce-eager" in one.command
    assert value(one, "--max-model-len") == str(config().policy.max_prompt_tokens + config().generator.max_new_tokens)
    eager = planned(config("generator.engine.enforce_eager=false"), Wish(port=first))[0].command
    assert "--no-enforce-eager" in eager
    assert "--enforce-eager" not in eager


def test_ranks_and_servers_on_a_cpu_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BINDING, raising=False)
    assert on_cores(1, 0, 1, [0, 1]) == {}
    assert [on_cores(1, i, 2, range(8)) for i in (0, 1)] == [{BINDING: "nobind", "OMP_NUM_THREADS": "4"}] * 2
    assert on_cores(2, 0, 1, [0, 1]) == {BINDING: "0|1"}
    assert [on_cores(2, i, 2, range(8))[BINDING] for i in (0, 1)] == ["0,4|1,5", "2,6|3,7"]
    assert on_cores(3, 0, 1, [4, 5]) == {BINDING: "4|5|4"}  # fewer than ranks: shared
    monkeypatch.setenv(BINDING, "0-3")
    assert on_cores(2, 0, 1, [0, 1]) == {}


def test_the_configs_own_endpoints_are_where_they_answer() -> None:
    ports = free_ports(2)
    named = ",".join(f"http://127.0.0.1:{port}/v1" for port in ports)
    loaded = config("generator.backend=server", f"generator.endpoints=[{named}]")
    assert ",".join(p.url for p in planned(loaded, Wish())) == named
    elsewhere = config("generator.backend=server", "generator.endpoints=[http://10.0.0.1:9/v1]")
    assert [p.port for p in planned(elsewhere, Wish(port=ports[0]))] == [ports[0]]


def test_what_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"policy\.lora: a server cannot be given full checkpoints"):
        planned(config("policy.lora=null"), Wish())
    with pytest.raises(UserError, match="3 servers, but the GPUs of this machine take 2; give --servers 2"):
        planned(config(), Wish(servers=3), "0", "1")
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0 is reached from elsewhere"):
        planned(config(), Wish(host="0.0.0.0"))  # noqa: S104
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="give another --port"):
        planned(config(), Wish(port=taken.getsockname()[1]))


# Started, and ended -------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(fake_package(tmp_path / "fake")), ENVIRONMENT["PYTHONPATH"]])
    return ENVIRONMENT | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def serve(folder: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cyclealign", "serve", "quickstart", *KEYS, f"output_dir={folder}", *more]
    # As from a terminal: what a script starts in the background is born deaf to SIGINT, and these tests with it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    finally:
        signal.signal(signal.SIGINT, before)


def family(root: int) -> dict[int, str]:
    """Living processes below one, with their command lines."""
    found: dict[int, str] = {}
    parents = {root}
    while parents:
        below = set()
        for parent in parents:
            for file in Path(f"/proc/{parent}/task").glob("*/children"):
                below |= {int(pid) for pid in file.read_text().split()}
        found |= {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in below}
        parents = below
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids: Any, seconds: float = 25) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(map(lives, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def running(tmp_path: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str, dict[int, str]]]:
    """Two servers, the line that they are announced by, and their processes."""
    first = free_ports(2)[0]
    process = serve(tmp_path, environment, "--servers", "2", "--port", str(first))
    assert process.stdout is not None
    line = next((said for said in process.stdout if said.startswith("generator.backend")), "it never came up")
    below = family(process.pid)
    try:
        urls = f"http://127.0.0.1:{first}/v1,http://127.0.0.1:{first + 1}/v1"
        assert line.strip() == f"generator.backend=server 'generator.endpoints=[{urls}]'"
        assert sum("api_server" in said and "keeper" not in said for said in below.values()) == 4  # with their engines
        yield process, line, below
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for pid in below:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
def test_servers_and_their_engines_end_with_it(
    running: tuple[subprocess.Popen[str], str, dict[int, str]], sign: signal.Signals, tmp_path: Path
) -> None:
    process, _, below = running
    process.send_signal(sign)
    output, _ = process.communicate(timeout=40)
    assert all_gone(below)
    assert process.returncode == (-sign if sign == signal.SIGKILL else 0)
    assert output.strip() == ("" if sign == signal.SIGKILL else "ended 2 servers")
    logs = sorted((tmp_path / "quickstart.serve").glob("*.log"))
    assert len(logs) == 2
    assert all('"--enable-lora"' in log.read_text() for log in logs)


def test_one_that_dies_takes_its_engine_along_and_is_named(
    running: tuple[subprocess.Popen[str], str, dict[int, str]],
) -> None:
    process, _, below = running
    assert process.stdout is not None
    keepers = [pid for pid, said in below.items() if "keeper" in said]
    for left, keeper in ((1, keepers[0]), (0, keepers[1])):
        mine = family(keeper)
        os.kill(min(mine), signal.SIGKILL)  # the server; its engine came after it
        line = process.stdout.readline()
        assert "ended with code 137; its log is" in line
        assert f"{left} still run" in line
        assert all_gone(mine)
    assert process.wait(20) == 1
    assert "error: serve: every server has ended" in process.stdout.read()


def test_one_that_dies_at_the_start_says_why(tmp_path: Path, environment: dict[str, str]) -> None:
    process = serve(tmp_path, environment | {"FAKE_VLLM_FAILS": "1"}, "--servers", "2", "--port", str(free_ports(2)[0]))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    *before, error = output.strip().splitlines()
    assert "ValueError: no room for the weights here" in before
    assert error.startswith("error: serve: the server for http://127.0.0.1:")
    assert "ended with code 7 while it started; its log is" in error
    assert "\x1b" not in output


def test_a_mistake_is_found_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "quickstart", *KEYS, "generator.engine.enforce_eager=1", f"output_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.strip() == "error: generator.engine.enforce_eager: expected true or false, got 1"
    assert not list(tmp_path.iterdir())


def test_what_it_prints_is_what_a_run_takes() -> None:
    text = "[http://127.0.0.1:8000/v1,http://127.0.0.1:8001/v1]"
    loaded = load_config("quickstart", ["generator.backend=server", f"generator.endpoints={text}"])
    assert json.dumps(loaded.generator.endpoints) == '["http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"]'
