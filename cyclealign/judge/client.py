"""The connection to a judge: the openai SDK, held to one host and one attempt, and its errors as failures of ours.

The SDK's retries are off, so that each attempt that may be billed has its row on the ledger.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit

from cyclealign.config.endpoints import OPENAI_URL, address_of, host_of
from cyclealign.files.printable import one_line, well_formed
from cyclealign.judge.call import Call
from cyclealign.judge.chat import BadBody, decoded, error_of
from cyclealign.judge.failures import Failure
from cyclealign.judge.limits import retry_after

if TYPE_CHECKING:
    import ssl

    import httpx2
    import openai

    from cyclealign.judge.transport import Connections

MOST_FILE = 1 << 30  # bytes of a file of replies to a batch
NO_KEY = "none"  # the SDK sends a bearer token in any case; servers on this machine ignore it
MOVED = (301, 302, 307, 308)  # the same request is sent again to where it says
REDIRECTS = 5


class Answer(NamedTuple):
    """HTTP status and body of a successful response."""

    status: int
    body: str


class RedirectedAway(Exception):
    """A server names another host for a request that carries a key and prompts."""


class Raw(Protocol):
    """A response of the SDK before it is parsed."""

    @property
    def status_code(self) -> int: ...

    @property
    def content(self) -> bytes: ...


def request_body(call: Call) -> str:
    """What is sent for a call, one by one or in a batch: the API's JSON."""
    messages = [{"role": m["role"], "content": well_formed(m["content"])} for m in call.messages]
    shape = {"response_format": call.schema} if call.schema else {}
    return json.dumps({"model": call.model, "messages": messages, **call.options, **shape}, ensure_ascii=False)


class Client:
    """Sends calls to one endpoint. Belongs to one event loop.

    Calls go out as they are: the SDK's way to make a request and to read its response takes more processor time than
    all else that a call needs (benchmarks/judge_client.py). Address and headers are the SDK's. most: bytes of the
    body of one response.
    """

    def __init__(self, sdk: openai.AsyncOpenAI, query: Mapping[str, str], connections: Connections, most: int) -> None:
        from cyclealign.judge.bodies import PACKED

        self.sdk = sdk
        self._connections = connections
        self._most = most
        address = sdk.base_url.copy_with(raw_path=sdk.base_url.raw_path + b"chat/completions")
        self._url = str(address.copy_merge_params(query))
        headers = {**sdk.auth_headers, **sdk.default_headers, "accept-encoding": PACKED}
        self._headers = {name.lower(): v for name, v in headers.items() if isinstance(v, str)}  # not: omitted

    async def send(self, call: Call, deadline: float) -> Answer | Failure:
        """The body of a successful response, or why there is none. deadline: seconds of this attempt."""
        try:
            async with asyncio.timeout(deadline):
                return await self._sent(request_body(call).encode())
        except Exception as error:  # what a server makes of the protocol must not become a traceback of ours
            return _no_connection(error, deadline)

    async def _sent(self, body: bytes) -> Answer | Failure:
        from cyclealign.judge.bodies import unpacked

        url = self._url
        for _ in range(REDIRECTS):
            response = await self._connections.request("POST", url, self._headers, body)
            async with response:
                status, headers = response.status, response.headers
                packings = ",".join(headers.getall("content-encoding", ())).split(",")
                success = 200 <= status < 300
                arriving = response.content.iter_any()
                content = b"".join([p async for p in unpacked(arriving, packings, self._most, success=success)])
            if success:
                return Answer(status, decoded(content))
            if status not in MOVED or "location" not in headers:
                return _refusal(status, headers, content, response.reason or "")
            url = _moved(url, headers["location"])
        raise RedirectedAway("it redirects without end")


async def attempted(request: Awaitable[Raw], deadline: float) -> Answer | Failure:
    """What one request of the SDK gives. deadline: its seconds."""
    import openai

    try:
        async with asyncio.timeout(deadline):
            raw = await request
        return Answer(raw.status_code, decoded(raw.content))
    except openai.APIStatusError as error:
        response = error.response
        return _refusal(error.status_code, response.headers, response.content, response.reason_phrase)
    except openai.APIConnectionError as error:
        return _no_connection(error.__cause__ or error, deadline)
    except Exception as error:
        return _no_connection(error, deadline)


@asynccontextmanager
async def connected(endpoint: str, key: str, most: int, key_header: str = "") -> AsyncIterator[Client]:
    """The connection pool. most: bytes of the body of one response. key_header: where the key goes besides
    ``Authorization``.

    The account that OPENAI_ORG_ID and OPENAI_PROJECT_ID name is told to OpenAI alone.
    """
    import openai

    from cyclealign.judge.bodies import PACKED, bound
    from cyclealign.judge.transport import AiohttpTransport, Connections

    async def check(response: httpx2.Response) -> None:
        _check_response(response)
        bound(response, MOST_FILE if response.request.url.path.endswith("/content") else most)

    url, query = address_of(endpoint)
    connections = Connections(_trusted())
    http = openai.DefaultAsyncHttpxClient(
        event_hooks={"response": [check]},
        headers={"accept-encoding": PACKED},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept: some nobody could send again
        transport=AiohttpTransport(connections),
    )
    async with openai.AsyncOpenAI(
        api_key=key or NO_KEY,
        base_url=url,
        default_query=query or None,
        default_headers={key_header: key} if key and key_header else None,
        max_retries=0,
        http_client=http,
    ) as sdk:
        if host_of(endpoint) != host_of(OPENAI_URL):
            sdk.organization = sdk.project = None
        yield Client(sdk, query, connections, most)


@cache
def _trusted() -> ssl.SSLContext:
    """Whom a connection trusts; reading the certificates takes 30 ms of processor time, so it is done once."""
    import httpx2

    return httpx2.create_ssl_context()


def _check_response(response: httpx2.Response) -> None:
    """Before the SDK makes anything of it."""
    response.encoding = "utf-8"  # a server may declare a codec that makes no text; see ``decoded``
    if response.has_redirect_location:
        _moved(str(response.request.url), response.headers["location"])


def _moved(url: str, location: str) -> str:
    """Where a redirect of ``url`` leads. Raises RedirectedAway."""
    new = urljoin(url, location)
    here, there = urlsplit(url), urlsplit(new)
    upgraded = there.scheme == "https" and there.hostname == here.hostname and not there.port
    if (there.scheme, there.netloc) != (here.scheme, here.netloc) and not upgraded:
        raise RedirectedAway(f"it redirects to another host, {one_line(there.netloc, 100)}")
    return new


def _refusal(status: int, headers: Mapping[str, str], content: bytes, reason: str) -> Failure:
    text = decoded(content)
    try:
        said, code = error_of(json.loads(text))
    except (ValueError, RecursionError):
        said = code = ""
    return Failure(
        detail=f"HTTP {status}: {one_line(said or text or reason)}",
        status=status,
        code=one_line(code, 100),
        wait=retry_after(headers),
    )


def _no_connection(cause: BaseException, deadline: float) -> Failure:
    import aiohttp
    import httpx2

    if isinstance(cause, RedirectedAway):
        return Failure(detail=str(cause), status=307)
    if isinstance(cause, BadBody):
        return Failure(detail=one_line(str(cause)), status=200, unread=True)
    if isinstance(cause, TimeoutError):
        return Failure(detail=f"no reply within {deadline:g} s", timed_out=True)
    unmade = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)
    never_sent = isinstance(cause, (*unmade, httpx2.UnsupportedProtocol, httpx2.InvalidURL))
    said = str(cause)
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        said = "the server closed the connection"
    elif isinstance(cause, aiohttp.ClientResponseError):
        said = cause.message
    elif isinstance(cause, aiohttp.ClientConnectorError) and cause.__cause__ is not None:
        said = str(cause.__cause__)
    return Failure(detail=f"connection failed: {one_line(said) or type(cause).__name__}", sent=not never_sent)
