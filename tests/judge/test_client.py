"""Connections as real servers treat them: what was sent and what was not, in one line each; odd heads; proxies."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest

from cyclealign.judge.client import Answer, attempted, connected
from cyclealign.judge.failures import Failure

Serve = Callable[[socket.socket], None]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n"
ODD = b"HTTP/1.1 200 D\xe9j\xe0\r\nset-cookie: a b@=\x1b[31mred; Path=/\r\nset-cookie: id=7\r\nx: %s\r\n" % (
    b"a" * 20_000
)


@contextmanager
def served(serve: Serve) -> Iterator[str]:
    """Host and port of a server that leaves each connection to ``serve``, and closes it then."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def request_of(connection: socket.socket) -> bytes:
    """A whole request with an empty body, or what there is of it."""
    got = b""
    while not got.endswith(b"\r\n\r\n{}") and (piece := connection.recv(1 << 16)):
        got += piece
    return got


async def asked(url: str, deadline: float, times: int = 1) -> list[Answer | Failure]:
    async with connected(url, "a-key", 1 << 20) as client:
        options: dict[str, float] = {"timeout": deadline}
        return [
            await attempted(
                client.sdk.post("/chat/completions", body={}, cast_to=httpx2.Response, options=options),  # type: ignore[arg-type]
                deadline,
            )
            for _ in range(times)
        ]


def closed(connection: socket.socket) -> None:
    request_of(connection)


def silent(connection: socket.socket) -> None:
    request_of(connection)
    connection.recv(1)  # until it is given up


def says(what: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(what)

    return serve


def no_tls(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize(
    ("serve", "scheme", "detail", "sent", "timed_out"),
    [
        (closed, "http", "connection failed: the server closed the connection", True, False),
        (silent, "http", "no reply within 0.5 s", True, True),
        (says(HEAD + b"\r\n{"), "http", "connection failed: Response payload is not completed", True, False),
        (says(HEAD), "http", "connection failed: the server closed the connection", True, False),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), "http", "connection failed: Bad status line", True, False),
        (no_tls, "https", "connection failed: [SSL: WRONG_VERSION_NUMBER]", False, False),
    ],
)
def test_no_response(serve: Serve, scheme: str, detail: str, sent: bool, timed_out: bool) -> None:
    with served(serve) as host:
        [found] = asyncio.run(asked(f"{scheme}://{host}/v1", 0.5))
    assert isinstance(found, Failure)
    assert found.detail.startswith(detail)
    assert "\n" not in found.detail
    assert (found.sent, found.timed_out, found.status) == (sent, timed_out, None)


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://127.0.0.1:1/v1", "[Errno 111] Connect call failed ('127.0.0.1', 1)"),
        ("http://no-such-host.invalid/v1", "Name or service not known"),
    ],
)
def test_nobody_there(url: str, detail: str) -> None:
    [found] = asyncio.run(asked(url, 20))
    assert isinstance(found, Failure)
    assert found.detail.startswith("connection failed: ")
    assert detail in found.detail
    assert (found.sent, found.timed_out) == (False, False)


@contextmanager
def odd(heads: list[bytes]) -> Iterator[str]:
    """A server whose heads are odd, with those of the requests that it gets."""

    def serve(connection: socket.socket) -> None:
        while head := request_of(connection):
            heads.append(head)
            connection.sendall(ODD + b"content-length: 2\r\n\r\n{}")

    with served(serve) as host:
        yield host


def test_an_odd_head_costs_no_reply_and_leaves_no_cookie() -> None:
    heads: list[bytes] = []
    with odd(heads) as host:
        found = asyncio.run(asked(f"http://{host}/a%2Fb?version=1%2B2", 5, times=2))
    assert found == [Answer(200, "{}")] * 2
    for head in heads:
        assert head.startswith(b"POST /a%2Fb/chat/completions?version=1%2B2 HTTP/1.1\r\n")
        assert b"cookie" not in head.lower()


@pytest.mark.parametrize("passed_by", [False, True])
def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, passed_by: bool) -> None:
    heads: list[bytes] = []
    with odd(heads) as host:
        monkeypatch.setenv("http_proxy", f"http://user:word@{host}")
        monkeypatch.setenv("no_proxy", "judge.invalid" if passed_by else "elsewhere")
        [found] = asyncio.run(asked("http://judge.invalid/v1", 5))
    assert isinstance(found, Failure) == passed_by
    assert [head.split(b"\r\n")[0] for head in heads] == [b"POST http://judge.invalid/v1/chat/completions HTTP/1.1"] * (
        not passed_by
    )
    assert all(b"proxy-authorization: basic " in head.lower() for head in heads)
