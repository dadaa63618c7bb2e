"""A small real HTTP server on loopback that speaks the OpenAI chat protocol, with a judge and faults of one's choice.

It imports nothing of the package, so that it is a second opinion of the protocol. Also a program:
``python tests/helpers/loopback.py --port 0 --judge length|slot|hash [--delay SECONDS] [--log FILE]`` prints its
port on the first line; its verdicts depend on the content alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Body = dict[str, Any]
Judge = Callable[[Body], str]
Firsts = Callable[[Body], Sequence[tuple[str, float]]]  # tokens with their log-probabilities
CANDIDATE = re.compile(r"\[(\d+|[A-P])\]\s*<(response|r)>\s*(.*?)\s*</\2>", re.DOTALL)
ESCAPED = re.compile(r"(?<=[<\[])\\")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the server does instead of an ordinary answer. ``drop``: closes the connection without one.

    data: the body as bytes. wire: all that is sent, status line included, whole or in parts that may never end.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    drop: bool = False
    delay: float = 0.0
    text: str | None = None
    message: Mapping[str, Any] = field(default_factory=dict)
    finish: str | None = "stop"
    data: bytes | None = None
    wire: bytes | Iterable[bytes] | None = None
    usage: Any = None

    @property
    def whole(self) -> bool:
        """Whether it says all that is to be sent."""
        return self.drop or self.status != 200 or any(sent is not None for sent in (self.body, self.data, self.wire))


# Gets the number of the request (from 0) and its body; None: an ordinary answer.
Script = Callable[[int, Body], Fault | None]


def faults(*first: Fault | None) -> Script:
    """The first requests fare so, all others well."""
    return lambda number, _: first[number] if number < len(first) else None


def after_probe(*first: Fault | None) -> Script:
    """The same for the requests after the probe."""
    return lambda number, _: first[number - 1] if 0 < number <= len(first) else None


def shown(body: Body) -> list[str]:
    """The candidates' texts, slot by slot, of the item that a ranking request is about."""
    for message in reversed(body["messages"]):
        found = CANDIDATE.findall(message["content"])
        if message["role"] == "user" and found:
            return [ESCAPED.sub("", text) for _, _, text in found]
    raise ValueError("no candidates in this request")


def prefers(key: Callable[[str], Any]) -> Judge:
    """Ranks by ``key`` of the text, higher is better, ties by the text itself: blind to the slots."""

    def judge(body: Body) -> str:
        texts = shown(body)
        order = sorted(range(len(texts)), key=lambda slot: (key(texts[slot]), texts[slot]), reverse=True)
        return answer(body, order)

    return judge


def same_slot(body: Body) -> str:
    """Always the same slots, whatever stands in them."""
    return answer(body, range(len(shown(body))))


def answer(body: Body, slots: Iterable[int]) -> str:
    """An order in the form that the request asks for: what its schema allows, else a line of text."""
    numbers = [slot + 1 for slot in slots]
    if "response_format" not in body:
        return " > ".join(f"[{n}]" for n in numbers)
    ranking = body["response_format"]["json_schema"]["schema"]["properties"]["ranking"]
    return json.dumps({"ranking": ">".join(map(str, numbers)) if ranking["type"] == "string" else numbers})


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


JUDGES: Mapping[str, Judge] = {"length": prefers(len), "slot": same_slot, "hash": prefers(text_hash)}


def _no_faults(number: int, body: Body) -> None:  # noqa: ARG001
    return None


@dataclass
class Loopback(AbstractContextManager["Loopback"]):
    """The server. ``requests``: all bodies in order of arrival; ``most_at_once``: its high-water mark.

    structured: enforces a schema; False: ignores it; ``refused``: answers it with HTTP 400. firsts: what could have
    been the first token, for requests that ask for log-probabilities; None: it gives none.
    """

    judge: Judge = JUDGES["hash"]
    script: Script = _no_faults
    delay: float = 0.0
    structured: bool | str = True
    firsts: Firsts | None = None
    log: Path | None = None
    port: int = 0
    host: str = "127.0.0.1"
    requests: list[Body] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        loopback = self

        class Handler(self.handler()):  # type: ignore[misc]
            server_of = loopback

        kind = _Server6 if ":" in self.host else _Server
        self.server = kind((self.host, self.port), Handler)
        self.port = self.server.server_address[1]

    def handler(self) -> type[_Handler]:
        """What answers a connection."""
        return _Handler

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    def __enter__(self) -> Loopback:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def counts(self) -> dict[str, int]:
        """How often each request body came, by its hash."""
        found: dict[str, int] = {}
        for body in self.requests:
            key = text_hash(json.dumps(body, sort_keys=True))
            found[key] = found.get(key, 0) + 1
        return found

    def arrive(self, body: Body, headers: Mapping[str, str]) -> int:
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.note("arrived", body)
            return len(self.requests) - 1

    def leave(self, body: Body) -> None:
        with self.lock:
            self.at_once -= 1
            self.note("answered", body)

    def note(self, event: str, body: Body) -> None:
        if self.log is not None:
            key = text_hash(json.dumps(body, sort_keys=True))
            with self.log.open("a") as file:
                file.write(json.dumps({"event": event, "request": key, "at": time.time()}) + "\n")

    def response(self, number: int, body: Body) -> Fault:
        """What to do with a request, its text included."""
        fault = self.script(number, body)
        if fault is not None and fault.whole:
            return fault
        if "response_format" in body and self.structured == "refused":
            error = {"error": {"message": "response_format is not supported", "code": None}}
            return Fault(status=400, body=json.dumps(error))
        seen = body if self.structured is True else {k: v for k, v in body.items() if k != "response_format"}
        given = fault or Fault()
        text = self.judge(seen) if given.text is None else given.text
        top = list(self.firsts(body))[: body["top_logprobs"]] if self.firsts and body.get("logprobs") else None
        told = completion(body, text, given.message, given.finish, given.usage, top)
        return Fault(delay=given.delay, body=told)


def completion(
    body: Body,
    text: str,
    message: Mapping[str, Any],
    finish: str | None,
    odd: Any = None,
    top: Sequence[tuple[str, float]] | None = None,
) -> str:
    """A chat completion; tokens are words, the same on every machine. top: the likeliest first tokens."""
    words = sum(len(m["content"].split()) for m in body["messages"])
    usage = {"prompt_tokens": words, "completion_tokens": len(text.split()) + 2} | (odd or {})
    content = {"role": "assistant", "content": text} | dict(message)
    choice = {"index": 0, "message": content, "finish_reason": finish}
    if top is not None:
        given = [{"token": token, "logprob": number, "bytes": list(token.encode())} for token, number in top]
        choice["logprobs"] = {"content": [given[0] | {"top_logprobs": given}], "refusal": None}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what many tests are about; nothing to print."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    server_of: Loopback

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "judge", "object": "model"}]}
        self._send(Fault(body=json.dumps(models) if self.path.endswith("/models") else "{}"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        loopback = self.server_of
        loopback.paths.append(self.path)
        if not self.path.partition("?")[0].endswith("/chat/completions"):
            self._send(Fault(status=404, body='{"error": {"message": "no such path"}}'))
            return
        number = loopback.arrive(body, dict(self.headers.items()))
        try:
            given = loopback.response(number, body)
            time.sleep(loopback.delay + given.delay)
        finally:
            loopback.leave(body)
        self._send(given)

    def _send(self, given: Fault) -> None:
        if given.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if given.wire is not None:
            for part in [given.wire] if isinstance(given.wire, bytes) else given.wire:
                self.wfile.write(part)
            self.close_connection = True
            return
        data = (given.body or "").encode() if given.data is None else given.data
        self.send_response(given.status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **given.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--judge", choices=sorted(JUDGES), default="hash")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--log", type=Path, help="append a JSON line when a request arrives and when it is answered")
    options = parser.parse_args(arguments)
    loopback = Loopback(judge=JUDGES[options.judge], delay=options.delay, log=options.log, port=options.port)
    print(loopback.port, flush=True)
    loopback.server.serve_forever()


if __name__ == "__main__":
    main()
