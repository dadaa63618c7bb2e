"""`cyclealign serve`: the vLLM servers of a config, until they are told to end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cyclealign.files.printable import say
from cyclealign.types import RunStopped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclealign.generation.launching import Plan, Server

TELL_SECONDS = 30.0


def serve(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged config")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="generator.engine.tensor_parallel_size=2 …")
    ] = None,
    servers: Annotated[
        int | None, typer.Option(min=1, help="How many (default: one a GPU, one on a CPU)", show_default=False)
    ] = None,
    data_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="Engines behind one server, balanced by vLLM", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="Where they listen; other machines need VLLM_API_KEY")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first one's port, 8000", show_default=False)
    ] = None,
    logs: Annotated[Path | None, typer.Option(help="Directory (default RUN.serve)", show_default=False)] = None,
) -> None:
    """Start the vLLM servers that a config asks for; print their endpoints; end them with this command."""
    from cyclealign.config.loading import load_config
    from cyclealign.generation.launching import DiedAtStart, Wish, last_lines, plan_servers, started

    loaded = load_config(config, overrides or [])
    wish = Wish(servers, host, port, data_parallel_size)
    folder = logs or loaded.output_dir / f"{loaded.name}.serve"
    plans = plan_servers(loaded, wish, logs=folder, gpus=_gpus())
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _interrupt)
    try:
        with started(plans, _Waiting(folder)) as running:
            say(_as_overrides(plans))
            sys.stdout.flush()
            _watch(running)
    except DiedAtStart as error:
        print(f"--- {error.log}\n{last_lines(error.log)}\n---", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(f"ended {len(plans)} server{'s' * (len(plans) > 1)}", file=sys.stderr)


def _as_overrides(plans: Sequence[Plan]) -> str:
    """What ``cyclealign run CONFIG`` and ``resume`` take; quoted, for shells to which brackets mean something."""
    return f"generator.backend=server 'generator.endpoints=[{','.join(plan.url for plan in plans)}]'"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _watch(running: Sequence[Server]) -> None:
    """Until one is told to end, or until none lives; one that dies is named."""
    dead: set[str] = set()
    while len(dead) < len(running):
        for server in running:
            if server.code is not None and server.plan.url not in dead:
                dead.add(server.plan.url)
                print(
                    f"{server.plan.url} ended with code {server.code}; its log is {server.plan.log};"
                    f" {len(running) - len(dead)} still run",
                    file=sys.stderr,
                    flush=True,
                )
        time.sleep(0.5)
    raise RunStopped("serve: every server has ended")


class _Waiting:
    """A line every half a minute while servers come up."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._next = 0.0

    def __call__(self, missing: int, seconds: float) -> None:
        if seconds >= self._next:
            self._next = seconds + TELL_SECONDS
            print(f"waiting for {missing} server(s), {seconds:.0f} s; logs: {self._logs}", file=sys.stderr, flush=True)


def _gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
