"""The vLLM servers that a config asks for: their commands, started, waited for, ended. None outlives this process."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cyclealign.config.endpoints import SERVER_KEY, is_loopback
from cyclealign.config.engine_keys import EngineArguments, check_engine
from cyclealign.config.schema import Config
from cyclealign.files.printable import printable, scrubbed
from cyclealign.generation.engine import child_environment, engine_options, on_cores, own_cores, ranks_of
from cyclealign.generation.serving import check_servable
from cyclealign.types import RunStopped, UserError

ADAPTERS = 2  # a version's and the previous one's, which may still be asked for
SECONDS_TO_START = 3600.0  # the weights of a large model come slowly
SECONDS_TO_END = 20.0  # a little more than the keeper gives
POLL_SECONDS = 0.3
LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says: how many servers (None: as many as the GPUs take, one on a CPU), where, how wide."""

    servers: int | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    data_parallel_size: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One server to be: its command, what its environment has beside ours, where it answers, its log."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    host: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"


class DiedAtStart(UserError):
    """A server ended before it answered; ``log``: where it says why."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was started."""

    plan: Plan
    keeper: subprocess.Popen[bytes]

    @property
    def code(self) -> int | None:
        """Its exit code; None while it lives."""
        return self.keeper.poll()


def plan_servers(config: Config, wish: Wish, *, logs: Path, gpus: Sequence[str]) -> list[Plan]:
    """What to start. ``gpus``: their names for CUDA_VISIBLE_DEVICES, none on a CPU.

    Where nothing is wished for, endpoints of the config on this machine are where they shall answer.

    Raises:
        UserError: what cannot be served, more servers than GPUs, a host that anyone reaches without a key.
    """
    from cyclealign.models.policy_files import resolve_model

    check_servable(config.policy, "server")
    generator = config.generator
    if wish.data_parallel_size is not None:
        engine = generator.engine | {"data_parallel_size": wish.data_parallel_size}
        generator = generator.model_copy(update={"engine": engine})
    _checked(generator.engine)
    if not is_loopback(wish.host) and SERVER_KEY not in os.environ:
        raise UserError(
            f"serve: --host {wish.host} is reached from elsewhere, and a server loads whatever adapter it is told to;"
            f" set {SERVER_KEY} here and where the run is"
        )
    width = ranks_of(generator.engine)
    addresses = _addresses(config, wish, most=len(gpus) // width if gpus else None)
    device: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
    options = engine_options(generator, config.policy, device=device, adapters=ADAPTERS)
    model = resolve_model(config.policy.model)
    made = []
    for number, (host, port) in enumerate(addresses):
        command = ("--model", model, "--host", host, "--port", str(port), *flags(options))
        own = gpus[number * width : (number + 1) * width]
        beside = _on_gpus(own, generator.engine) if gpus else on_cores(width, number, len(addresses), own_cores())
        made.append(Plan(command, beside, host, port, logs / f"{port}.log"))
    return made


def _checked(engine: EngineArguments) -> None:
    try:
        check_engine(engine)
    except ValueError as error:
        raise UserError(f"generator.engine.{error}") from error


def _addresses(config: Config, wish: Wish, *, most: int | None) -> list[tuple[str, int]]:
    """Host and port of each server; ``most``: as many as the GPUs take, None on a CPU."""
    given = [urlsplit(url) for url in config.generator.endpoints]
    named = [(url.hostname or "", url.port or 80) for url in given if is_loopback(url.hostname or "")]
    if wish.servers is None and wish.port is None and named and len(named) == len(given):
        found = named
    else:
        first = 8000 if wish.port is None else wish.port
        count = wish.servers or max(1, 1 if most is None else most)
        found = [(wish.host, first + number) for number in range(count)]
    across = config.generator.engine.get("distributed_executor_backend") == "ray"
    if most is not None and len(found) > most and not across:
        raise UserError(f"serve: {len(found)} servers, but the GPUs of this machine take {most}; give --servers {most}")
    for host, port in found:
        _check_free(host, port)
    return found


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"serve: cannot listen at {host}:{port} ({error}); give another --port") from error


def _on_gpus(own: Sequence[str], engine: EngineArguments) -> dict[str, str]:
    """Ray places workers itself."""
    return {} if engine.get("distributed_executor_backend") == "ray" else {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def flags(options: EngineArguments) -> Iterator[str]:
    """vLLM's engine arguments as its command line takes them."""
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        elif isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield from (flag, json.dumps(value) if isinstance(value, dict) else str(value))


@contextmanager
def started(plans: Sequence[Plan], waiting: Callable[[int, float], None]) -> Iterator[list[Server]]:
    """The servers, healthy; they end with the body. ``waiting``: told how many are not up, after how many seconds.

    Raises:
        DiedAtStart: one ended before it answered.
        RunStopped: one took too long.
    """
    servers: list[Server] = []
    try:
        for plan in plans:
            servers.append(start(plan))
        wait_until_healthy(servers, waiting)
        yield servers
    finally:
        end(servers)


def start(plan: Plan) -> Server:
    """Start one server below a keeper, its output to its log."""
    plan.log.parent.mkdir(parents=True, exist_ok=True)
    keeper = [sys.executable, "-m", "cyclealign.generation.keeper"]
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]  # the CPU build's own script does not start
    environment = (
        child_environment(dict(os.environ)) | dict(plan.environment) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    )
    with plan.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  this Python, without words of others
            [*keeper, *program, *plan.command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which ends them in order
        )
    return Server(plan, process)


def wait_until_healthy(servers: Sequence[Server], waiting: Callable[[int, float], None]) -> None:
    """Return when all answer. DiedAtStart where one ends first."""
    began = time.monotonic()
    missing = list(servers)
    while missing:
        for server in list(missing):
            if server.code is not None:
                log = server.plan.log
                ended = f"serve: the server for {server.plan.url} ended with code {server.code} while it started"
                raise DiedAtStart(f"{ended}; its log is {log}", log)
            if is_healthy(server.plan):
                missing.remove(server)
        seconds = time.monotonic() - began
        if missing and seconds > SECONDS_TO_START:
            raise RunStopped(
                f"serve: {missing[0].plan.url} does not answer after {seconds:.0f} s; see {missing[0].plan.log}"
            )
        if missing:
            waiting(len(missing), seconds)
            time.sleep(POLL_SECONDS)


def is_healthy(plan: Plan) -> bool:
    """Whether the server says so; never through a proxy."""
    connection = http.client.HTTPConnection(plan.host, plan.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def end(servers: Sequence[Server]) -> None:
    """End them, all at once, and wait until they are gone."""
    for server in servers:
        assert server.keeper.stdin is not None
        server.keeper.stdin.close()
    for server in servers:
        try:
            server.keeper.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            server.keeper.kill()
            server.keeper.wait()


def last_lines(log: Path) -> str:
    """The end of a log, printable and without keys."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return printable(scrubbed("\n".join(lines[-LAST_LINES:])))
