"""Connections as real servers treat them: what was sent and what was not, in one line each; odd heads; proxies."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import socketserver
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest

from cyclealign.files.printable import ForeignFormatter
from cyclealign.judge.call import Call
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
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def request_of(connection: socket.socket) -> bytes:
    """A whole request with an empty body, or what there is of it."""
    got = b""
    while not got.endswith(b"}") and (piece := connection.recv(1 << 16)):
        got += piece
    return got


WAYS = pytest.mark.parametrize("by_sdk", [False, True], ids=["ready", "sdk"])
CALL = Call(endpoint="", model="m", messages=(), schema=None, options={}, purpose="rank")


async def asked(url: str, deadline: float, times: int = 1, *, by_sdk: bool = False) -> list[Answer | Failure]:
    """by_sdk: as requests about batches go."""
    options: dict[str, float] = {"timeout": deadline}
    async with connected(url, "a-key", 1 << 20) as client:
        return [
            await attempted(
                client.sdk.post("/chat/completions", body={}, cast_to=httpx2.Response, options=options),  # type: ignore[arg-type]
                deadline,
            )
            if by_sdk
            else await client.send(CALL, deadline)
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
@WAYS
def test_no_response(serve: Serve, scheme: str, detail: str, sent: bool, timed_out: bool, by_sdk: bool) -> None:
    with served(serve) as host:
        [found] = asyncio.run(asked(f"{scheme}://{host}/v1", 0.5, by_sdk=by_sdk))
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
@WAYS
def test_nobody_there(url: str, detail: str, by_sdk: bool) -> None:
    [found] = asyncio.run(asked(url, 20, by_sdk=by_sdk))
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


@WAYS
def test_an_odd_head_costs_no_reply_and_leaves_no_cookie(by_sdk: bool) -> None:
    heads: list[bytes] = []
    with odd(heads) as host:
        found = asyncio.run(asked(f"http://{host}/a%2Fb?version=1%2B2", 5, times=2, by_sdk=by_sdk))
    assert found == [Answer(200, "{}")] * 2
    for head in heads:
        assert head.startswith(b"POST /a%2Fb/chat/completions?version=1%2B2 HTTP/1.1\r\n")
        assert b"cookie" not in head.lower()


@pytest.mark.parametrize("passed_by", [False, True])
@WAYS
def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, passed_by: bool, by_sdk: bool) -> None:
    heads: list[bytes] = []
    with odd(heads) as host:
        monkeypatch.setenv("http_proxy", f"http://user:word@{host}")
        monkeypatch.setenv("no_proxy", "judge.invalid" if passed_by else "elsewhere")
        [found] = asyncio.run(asked("http://judge.invalid/v1", 5, by_sdk=by_sdk))
    assert isinstance(found, Failure) == passed_by
    assert [head.split(b"\r\n")[0] for head in heads] == [b"POST http://judge.invalid/v1/chat/completions HTTP/1.1"] * (
        not passed_by
    )
    assert all(b"proxy-authorization: basic " in head.lower() for head in heads)


def fields_of(head: bytes) -> dict[str, str]:
    lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def test_a_ready_call_has_the_headers_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organisation")
    heads: list[bytes] = []
    with odd(heads) as host:
        for by_sdk in (False, True):
            asyncio.run(asked(f"http://{host}/v1", 5, by_sdk=by_sdk))
    ready, sdk = map(fields_of, heads)
    assert ready["authorization"] == "Bearer a-key"
    assert "openai-organization" not in ready
    of_one_attempt = {"connection", "x-stainless-retry-count", "x-stainless-read-timeout", "content-length"}
    assert {k: v for k, v in sdk.items() if k not in of_one_attempt} == {
        k: v for k, v in ready.items() if k not in of_one_attempt
    }


@WAYS
def test_debug_logs_have_no_key(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, by_sdk: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    caplog.set_level(logging.DEBUG)
    serve, _ = answering(b"200 OK\r\nx-echo: a-key")
    with served(serve) as host:
        asyncio.run(asked(f"http://{host}/v1", 5, by_sdk=by_sdk))
    said = [ForeignFormatter("%(message)s").format(record) for record in caplog.records]
    assert any("HTTP Request: POST" in line for line in said) == by_sdk
    assert "a-key" not in "".join(said)


def answering(*heads: bytes, body: bytes = b"{}") -> tuple[Serve, list[bytes]]:
    """A server that answers with these heads in turn, the last one for ever; and the requests that it gets."""
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        while request := request_of(connection):
            requests.append(request)
            head = heads[min(len(requests), len(heads)) - 1]
            connection.sendall(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body))

    return serve, requests


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_moved_endpoint_gets_the_same_request(status: int) -> None:
    serve, requests = answering(b"%d Moved\r\nlocation: ../v2/chat?a=b%%2Fc" % status, b"200 OK")
    with served(serve) as host:
        [found] = asyncio.run(asked(f"http://{host}/v1", 5))
    assert found == Answer(200, "{}")
    first, second = requests
    assert second.startswith(b"POST /v1/v2/chat?a=b%2Fc HTTP/1.1\r\n")
    assert second.split(b"\r\n", 1)[1] == first.split(b"\r\n", 1)[1]


@pytest.mark.parametrize(
    ("location", "detail"),
    [
        (b"http://127.0.0.2:9/v1", "it redirects to another host, 127.0.0.2:9"),
        (b"//elsewhere.invalid/", "it redirects to another host, elsewhere.invalid"),
        (b"chat/completions", "it redirects without end"),
    ],
)
def test_where_a_redirect_must_not_lead(location: bytes, detail: str) -> None:
    serve, _ = answering(b"307 Moved\r\nlocation: " + location)
    with served(serve) as host:
        assert asyncio.run(asked(f"http://{host}/v1", 5)) == [Failure(detail=detail, status=307)]


@WAYS
@pytest.mark.parametrize(
    ("head", "body", "found"),
    [
        (b"200 OK", "\ufeff{é}".encode("utf-16"), Answer(200, "{é}")),
        (b"200 OK\r\ncontent-encoding: gzip", gzip.compress(b"{}"), Answer(200, "{}")),
        (b"200 OK\r\ncontent-encoding: deflate, identity", zlib.compress(b"{}"), Answer(200, "{}")),
        (
            b"200 OK\r\ncontent-encoding: br",
            b"{}",
            Failure(detail="its body is packed as br, expected gzip, deflate", status=200, unread=True),
        ),
        (
            b"200 OK",
            b"x" * ((1 << 20) + 1),
            Failure(detail="its body is longer than any reply (more than 1,048,576 bytes)", status=200, unread=True),
        ),
        (
            b"429 Slow\r\nretry-after: 7\r\ncontent-encoding: gzip",
            gzip.compress(b'{"error": {"message": "too many", "code": "rate"}}'),
            Failure(detail="HTTP 429: too many", status=429, code="rate", wait=7.0),
        ),
        (b"503 Not\tnow", b"", Failure(detail="HTTP 503: Not now", status=503)),
        (b"303 See\r\nlocation-of: /", b"no", Failure(detail="HTTP 303: no", status=303)),
        (b"500 Down", b"<h1>\n\x1b[31mdown", Failure(detail="HTTP 500: <h1> down", status=500)),
    ],
    ids=["utf-16", "gzip", "deflate", "br", "long", "packed refusal", "reason", "not moved", "page"],
)
def test_what_a_response_is_read_as(head: bytes, body: bytes, found: Answer | Failure, by_sdk: bool) -> None:
    serve, _ = answering(head, body=body)
    with served(serve) as host:
        assert asyncio.run(asked(f"http://{host}/v1", 5, by_sdk=by_sdk)) == [found]
