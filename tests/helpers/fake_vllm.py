"""A stand-in for vLLM's server: its flags, paths and adapters, with texts and log-probabilities made of hashes.

Standard library only, so that it is up at once. In a test: ``with FakeVllm() as server``. As ``python -m
vllm.entrypoints.openai.api_server``: put ``fake_package(folder)`` on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def fake_package(folder: Path) -> Path:
    """A package ``vllm`` that holds nothing but this server."""
    place = folder / "vllm" / "entrypoints" / "openai"
    place.mkdir(parents=True)
    for package in (place, place.parent, place.parent.parent):
        (package / "__init__.py").touch()
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); from fake_vllm import main; main()"
    (place / "api_server.py").write_text(program)
    return folder


def number(*parts: Any) -> int:
    return int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8], 16)


class FakeVllm(AbstractContextManager["FakeVllm"]):
    """``adapters``: what was loaded, by name. ``stale``: says that it loads adapters, and serves the first model on.

    ``completions``: bodies in order of arrival. ``delay``: seconds of each.
    """

    def __init__(self, *, port: int = 0, delay: float = 0.0, stale: bool = False) -> None:
        self.delay, self.stale = delay, stale
        self.adapters: dict[str, str] = {}
        self.completions: list[dict[str, Any]] = []
        self.gone = False
        fake = self

        class Handler(_Handler):
            server_of = fake

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> FakeVllm:
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.gone:
            self.die()

    def die(self) -> None:
        """As if killed: nobody listens, and what is under way gets no answer."""
        self.gone = True
        self.server.shutdown()
        self.server.server_close()

    def content(self, model: str) -> str:
        """What stands for the weights: of an adapter, the hash of its file."""
        return "" if self.stale else self.adapters.get(model, "")

    def choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        weights = self.content(body["model"])
        if body["temperature"] == 0:
            tokens = [5, 6, 7]
            logprobs = [-0.1 - number(weights, token) / 2**29 for token in tokens]
            found = {"token_ids": tokens, "text": "", "logprobs": {"token_logprobs": logprobs, "tokens": ["x"] * 3}}
            return [found | {"index": 0, "finish_reason": "length"}]
        return [
            {"index": i, "text": f"reply {number(body['prompt'], body['seed'] + i, weights)}", "finish_reason": "stop"}
            for i in range(body["n"])
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: FakeVllm

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        names = ["start", *self.server_of.adapters]
        models = {"object": "list", "data": [{"id": n, "object": "model", "owned_by": "vllm"} for n in names]}
        self._send(200, models if self.path.endswith("/models") else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake = self.server_of
        if self.path.endswith("/load_lora_adapter"):
            file = Path(body["lora_path"]) / "adapter_model.safetensors"
            fake.adapters[body["lora_name"]] = hashlib.sha256(file.read_bytes()).hexdigest()
            self._send(200, {})
        elif self.path.endswith("/unload_lora_adapter"):
            del fake.adapters[body["lora_name"]]
            self._send(200, {})
        elif body["model"] not in ("start", *fake.adapters):
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        else:
            fake.completions.append(body)
            time.sleep(fake.delay)
            self._send(200, {"id": "x", "object": "text_completion", "model": "m", "choices": fake.choices(body)})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        if self.server_of.gone:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Flags as vLLM's. FAKE_VLLM_FAILS: it ends at once. It has a child in its group, as vLLM has its engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    options, rest = parser.parse_known_args()
    print("arguments", json.dumps(rest), flush=True)
    print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], flush=True)
    if os.environ.get("FAKE_VLLM_FAILS"):
        print("ValueError: no room for the weights \x1b[31mhere", flush=True)
        sys.exit(7)
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    with FakeVllm(port=options.port, delay=float(os.environ.get("FAKE_VLLM_DELAY", "0"))) as server:
        server.thread.join()
