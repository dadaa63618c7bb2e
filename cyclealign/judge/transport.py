"""Requests over aiohttp: those of the SDK at half of the processor time that httpx2's own connections take, and those
that are ready as they are.

Not the SDK's own way to aiohttp: there a connection that a server closed is one that could not be made in time, and a
status line that is no UTF-8 ends a reply that was paid for.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from aiohttp import ClientTimeout
from yarl import URL

LONGEST_HEADER = 64 << 10  # bytes of one header
KEPT = 5.0  # seconds that a connection without a request stays open
AT_ONCE = 1_000  # connections
UNTIMED = ClientTimeout()

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class Connections:
    """A pool of connections. ``trusted``: whose certificates count. Belongs to one event loop.

    Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``, ...); cookies are not kept, redirects not
    followed, bodies not unpacked. Errors are aiohttp's own.
    """

    def __init__(self, trusted: ssl.SSLContext) -> None:
        self._proxies = getproxies()  # once: they are looked for in the whole environment
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted, limit=AT_ONCE, keepalive_timeout=KEPT),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
        )

    async def request(
        self,
        method: str,
        url: str,
        headers: Headers,
        data: bytes | AsyncIterable[bytes] | None,
        timeout: ClientTimeout = UNTIMED,
    ) -> aiohttp.ClientResponse:
        """The head of a response; whoever asks releases it. url: as it goes out, nothing is quoted."""
        address = URL(url, encoded=True)
        return await self._session.request(
            method,
            address,
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=timeout,
            proxy=self._proxy(address),
        )

    async def close(self) -> None:
        await self._session.close()

    def _proxy(self, url: URL) -> str | None:
        if not self._proxies or proxy_bypass(url.host or ""):
            return None
        return self._proxies.get(url.scheme) or self._proxies.get("all")


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """How the SDK sends what it makes."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def aclose(self) -> None:
        await self._connections.close()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        seconds = request.extensions.get("timeout", {})
        response = await self._connections.request(
            request.method,
            str(request.url),
            request.headers.multi_items(),
            _body(request),
            ClientTimeout(sock_connect=seconds.get("connect"), sock_read=seconds.get("read")),
        )
        said = (response.reason or "").encode("utf-8", "surrogateescape")
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Arriving(response),
            request=request,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": said},
        )


class _Arriving(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response.content.iter_any():
            yield piece

    async def aclose(self) -> None:
        self._response.release()


def _body(request: httpx2.Request) -> bytes | httpx2.AsyncByteStream | None:
    """A file that is sent is read piece by piece."""
    try:
        return request.content or None
    except httpx2.RequestNotRead:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        return request.stream
