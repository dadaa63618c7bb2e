"""A real vLLM server on loopback, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

SECONDS_TO_START = 400.0
# Verdicts of a small model would else be mostly line breaks: the grammar allows them anywhere.
STRUCTURED = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})


@contextmanager
def start_vllm_server(model_dir: Path | str, *, lora: bool = False, extra_args: Sequence[str] = ()) -> Iterator[str]:
    """Start ``python -m vllm.entrypoints.openai.api_server`` on a free port; gives its base URL (ending in /v1).

    ``lora``: adapters can be loaded while it runs. Later arguments win, so ``extra_args`` can override any.
    """
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    # The CPU build fails where a prompt that samples by seed is read in two steps.
    command += ["--max-num-batched-tokens", "16384", "--structured-outputs-config", STRUCTURED]
    command += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "16"] if lora else []
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = defaults | dict(os.environ) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *extra_args],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its engine is a process of its own, and ends with the group
        )
        try:
            try:
                _wait_until_healthy(process, port)
            except RuntimeError as error:
                log.seek(0)
                raise RuntimeError(f"{error}: {log.read()[-3000:]}") from None
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the vLLM server ended with code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the vLLM server did not come up in {SECONDS_TO_START:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(15)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
