"""The connection to a judge: the openai SDK, held to one host and one attempt, and its errors as failures of ours.

The SDK's retries are off, so that each attempt that may be billed has its row on the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit

from cyclealign.config.endpoints import OPENAI_URL, address_of, host_of
from cyclealign.files.printable import one_line, well_formed
from cyclealign.judge.call import Body, Call
from cyclealign.judge.chat import BadBody, decoded, error_of
from cyclealign.judge.failures import Failure
from cyclealign.judge.limits import retry_after

if TYPE_CHECKING:
    import ssl

    import httpx2
    import openai

MOST_FILE = 1 << 30  # bytes of a file of replies to a batch
NO_KEY = "none"  # the SDK sends a bearer token in any case; servers on this machine ignore it


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


def body_of(call: Call) -> Body:
    """The body of a request: the API's JSON."""
    messages = [{"role": m["role"], "content": well_formed(m["content"])} for m in call.messages]
    shape = {"response_format": call.schema} if call.schema else {}
    return {"model": call.model, "messages": messages, **call.options, **shape}


class Client:
    """Sends calls to one endpoint. Belongs to one event loop."""

    def __init__(self, sdk: openai.AsyncOpenAI) -> None:
        self.sdk = sdk

    async def send(self, call: Call, deadline: float) -> Answer | Failure:
        """The body of a successful response, or why there is none. deadline: seconds of this attempt."""
        import httpx2

        # Not ``create``: its typed transform of messages that are ready is a third of a call's processor time.
        return await attempted(
            self.sdk.post(
                "/chat/completions", body=body_of(call), cast_to=httpx2.Response, options={"timeout": deadline}
            ),
            deadline,
        )


async def attempted(request: Awaitable[Raw], deadline: float) -> Answer | Failure:
    """What one request of the SDK gives. deadline: its seconds."""
    import openai

    try:
        async with asyncio.timeout(deadline):
            raw = await request
        return Answer(raw.status_code, decoded(raw.content))
    except openai.APIStatusError as error:
        return _refusal(error)
    except openai.APIConnectionError as error:
        return _no_connection(error.__cause__ or error, deadline)
    except Exception as error:  # what a server makes of the protocol must not become a traceback of ours
        return _no_connection(error, deadline)


@asynccontextmanager
async def connected(endpoint: str, key: str, most: int, key_header: str = "") -> AsyncIterator[Client]:
    """The connection pool. most: bytes of the body of one response. key_header: where the key goes besides
    ``Authorization``.

    The account that OPENAI_ORG_ID and OPENAI_PROJECT_ID name is told to OpenAI alone.
    """
    import openai

    from cyclealign.judge.bodies import PACKED, bound
    from cyclealign.judge.transport import AiohttpTransport

    async def check(response: httpx2.Response) -> None:
        _check_response(response)
        bound(response, MOST_FILE if response.request.url.path.endswith("/content") else most)

    url, query = address_of(endpoint)
    http = openai.DefaultAsyncHttpxClient(
        event_hooks={"response": [check]},
        headers={"accept-encoding": PACKED},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept: some nobody could send again
        transport=AiohttpTransport(_trusted()),
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
        yield Client(sdk)


@cache
def _trusted() -> ssl.SSLContext:
    """Whom a connection trusts; reading the certificates takes 30 ms of processor time, so it is done once."""
    import httpx2

    return httpx2.create_ssl_context()


def _check_response(response: httpx2.Response) -> None:
    """Before the SDK makes anything of it."""
    response.encoding = "utf-8"  # a server may declare a codec that makes no text; see ``decoded``
    if response.has_redirect_location:
        here = urlsplit(str(response.request.url))
        there = urlsplit(urljoin(here.geturl(), response.headers["location"]))
        upgraded = there.scheme == "https" and there.hostname == here.hostname and not there.port
        if (there.scheme, there.netloc) != (here.scheme, here.netloc) and not upgraded:
            raise RedirectedAway(f"it redirects to another host, {one_line(there.netloc, 100)}")


def _refusal(error: openai.APIStatusError) -> Failure:
    body = error.response.content
    said, code = error_of(error.body if error.body is not None else {})
    said = said or decoded(body) or error.response.reason_phrase
    headers: Mapping[str, str] = error.response.headers
    return Failure(
        detail=f"HTTP {error.status_code}: {one_line(said)}",
        status=error.status_code,
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
