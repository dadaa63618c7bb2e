"""What becomes of a connection that gives no response: which requests were sent, and why, in one line each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from cyclealign.judge.client import Answer, attempted, connected
from cyclealign.judge.failures import Failure

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n"


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1)
    writer.close()


def says(what: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(what)
        await writer.drain()
        writer.close()

    return serve


async def asked(url: str, deadline: float) -> Answer | Failure:
    async with connected(url, "a-key", 1 << 20) as client:
        request = client.sdk.post("/chat/completions", body={}, cast_to=httpx2.Response, options={"timeout": deadline})
        return await attempted(request, deadline)


async def served(serve: Callable[[asyncio.StreamWriter], Awaitable[None]], scheme: str) -> Answer | Failure:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if scheme == "http":  # what is left unread would reset the connection
            await reader.readuntil(b"\r\n\r\n{}")
        else:
            await reader.read(1 << 16)
        await serve(writer)
        done.set()

    done = asyncio.Event()
    async with await asyncio.start_server(one, "127.0.0.1", 0) as server:
        found = await asked(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", 0.5)
        await done.wait()
        return found


@pytest.mark.parametrize(
    ("serve", "scheme", "detail", "sent", "timed_out"),
    [
        (closed, "http", "connection failed: the server closed the connection", True, False),
        (silent, "http", "no reply within 0.5 s", True, True),
        (says(HEAD + b"\r\n{"), "http", "connection failed: Response payload is not completed", True, False),
        (says(HEAD), "http", "connection failed: the server closed the connection", True, False),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), "http", "connection failed: Bad status line", True, False),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), "https", "connection failed: [SSL: WRONG_VERSION_NUMBER]", False, False),
    ],
)
def test_no_response(
    serve: Callable[[asyncio.StreamWriter], Awaitable[None]], scheme: str, detail: str, sent: bool, timed_out: bool
) -> None:
    found = asyncio.run(served(serve, scheme))
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
    found = asyncio.run(asked(url, 20))
    assert isinstance(found, Failure)
    assert found.detail.startswith("connection failed: ")
    assert detail in found.detail
    assert (found.sent, found.timed_out) == (False, False)
