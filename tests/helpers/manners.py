"""Servers on loopback that speak as providers do, each with a bill of its own; nothing of the package is imported.

A manner turns a request into what its provider would send, and into what it would charge. All judge by length of the
replies, so that every verdict can be checked.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from loopback import Body, Fault, Loopback, completion, shown

PRICE = {"input": 2.0, "output": 10.0, "cached_input": 0.5, "cache_write": 2.5, "thinking": 12.0}  # USD a million
SLY = "forbidden"  # a word that content filters stop at
ROUTES = (1.0, 0.5, 1.75)  # times PRICE, of those behind one router


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Tokens and USD of one request, or of several."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    thinking: int = 0
    usd: float = 0.0

    def __add__(self, other: Bill) -> Bill:
        return Bill(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


Reply = tuple[Fault, Bill]
Manner = Callable[[int, Body], Reply]


def tokens(body: Body) -> int:
    """Of a prompt: more than its words, as everywhere."""
    return round(1.3 * sum(len(m["content"].split()) for m in body["messages"]))


def charged(given: int, made: int, *, cached: int = 0, written: int = 0, thinking: int = 0, route: float = 1.0) -> Bill:
    """made: thinking included."""
    usd = (
        (given - cached - written) * PRICE["input"]
        + cached * PRICE["cached_input"]
        + written * PRICE["cache_write"]
        + (made - thinking) * PRICE["output"]
        + thinking * PRICE["thinking"]
    )
    return Bill(input=given, cached=cached, written=written, output=made, thinking=thinking, usd=route * usd / 1e6)


def order(body: Body) -> list[int]:
    """Numbers of the replies, the longest first."""
    texts = shown(body)
    return [n + 1 for n in sorted(range(len(texts)), key=lambda slot: (len(texts[slot]), texts[slot]), reverse=True)]


def as_text(body: Body) -> str:
    return " > ".join(f"[{n}]" for n in order(body))


def as_json(body: Body) -> str:
    numbers = order(body)
    return json.dumps({"ranking": ">".join(map(str, numbers)) if len(numbers) <= 4 else numbers})


def asked(body: Body) -> str:
    """The answer in the form that the request holds it to."""
    return as_json(body) if "response_format" in body else as_text(body)


def form(body: Body) -> str | None:
    return body.get("response_format", {}).get("type")


def limit(body: Body) -> int:
    return int(body.get("max_completion_tokens") or body.get("max_tokens") or 10**6)


def refused(message: Any, *, status: int = 400, **more: Any) -> Reply:
    return Fault(status=status, body=json.dumps({"error": {"message": message, **more}})), Bill()


def said(
    body: Body,
    text: Any,
    usage: Mapping[str, Any],
    bill: Bill,
    *,
    finish: str = "stop",
    top: Any = None,
    **message: Any,
) -> Reply:
    """A completion: its text (or content), the counts in it, what is billed."""
    whole = json.loads(completion(body, "", {"content": text, **message}, finish))
    whole["usage"] = dict(usage)
    return Fault(body=json.dumps(whole | (top or {}))), bill


def plain(given: int, made: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made, **more}


# One function a provider ---------------------------------------------------------------------------------------


def gpt5(number: int, body: Body) -> Reply:
    """Another name of the limit, no temperature; 300 tokens of thinking, which the limit holds too."""
    if "max_tokens" in body:
        words = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return refused(words, type="invalid_request_error", param="max_tokens", code="unsupported_parameter")
    if body.get("temperature", 1) != 1:
        words = "Unsupported value: 'temperature' does not support 0 with this model."
        words += " Only the default (1) value is supported."
        return refused(words, type="invalid_request_error", param="temperature", code="unsupported_value")
    cut = limit(body) < 310
    given, thinking = tokens(body), min(limit(body), 300)
    made, cached = thinking + (0 if cut else 9), given // 2 if number > 6 else 0
    usage = plain(
        given, made, prompt_tokens_details={"cached_tokens": cached},
        completion_tokens_details={"reasoning_tokens": thinking},
    )  # fmt: skip
    bill = charged(given, made, cached=cached, thinking=thinking)
    return said(body, "" if cut else asked(body), usage, bill, finish="length" if cut else "stop")


def claude(_: int, body: Body) -> Reply:
    """Ignores the schema without a word, and likes emphasis."""
    usage, bill = plain(tokens(body), 12), charged(tokens(body), 12)
    return said(body, f"**Final ranking:** **{as_text(body)}**", usage, bill)


def gemini(_: int, body: Body) -> Reply:
    """Thinking in the total alone; errors in a list; no field that it does not know."""
    if "seed" in body:
        words = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
        error = [{"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}}]
        return Fault(status=400, body=json.dumps(error)), Bill()
    given = tokens(body)
    usage = {"prompt_tokens": given, "completion_tokens": 8, "total_tokens": given + 8 + 120}
    return said(body, asked(body), usage, charged(given, 128, thinking=120))


def mistral(_: int, body: Body) -> Reply:
    """Content in parts, thinking first; refuses what it does not know in pydantic's words."""
    for name in ("max_completion_tokens", "seed", "reasoning"):
        if name in body:
            detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
            return Fault(status=422, body=json.dumps({"object": "error", "detail": detail})), Bill()
    draft = {"type": "thinking", "thinking": [{"type": "text", "text": "perhaps [1] > [2]"}]}
    usage, bill = plain(tokens(body), 40), charged(tokens(body), 40)
    return said(body, [draft, {"type": "text", "text": asked(body)}], usage, bill)


def deepseek(number: int, body: Body) -> Reply:
    """JSON of any shape alone, and blanks in its place at times; counts its cache by fields of its own."""
    if form(body) == "json_schema":
        return refused("This response_format type is unavailable now", type="invalid_request_error")
    if form(body) == "json_object" and not any("json" in m["content"].lower() for m in body["messages"]):
        return refused("Prompt must contain the word 'json' to use 'response_format' of type 'json_object'.")
    given, cached = tokens(body), tokens(body) // 3
    usage = plain(
        given, 60, prompt_cache_hit_tokens=cached, prompt_cache_miss_tokens=given - cached,
        completion_tokens_details={"reasoning_tokens": 50},
    )  # fmt: skip
    text = " " * 9 if number % 5 == 1 else asked(body)
    return said(body, text, usage, charged(given, 60, cached=cached, thinking=50), reasoning_content="so [2] > [1]")


def openrouter(number: int, body: Body) -> Reply:
    """Errors with status 200, which cost nothing; routes of several prices, one of which knows no schema."""
    if number % 4 == 1:
        error = {"error": {"code": 502, "message": "Provider returned error", "metadata": {"provider_name": "B"}}}
        return Fault(body=json.dumps(error)), Bill()
    route = number % len(ROUTES)
    given = tokens(body)
    bill = charged(given, 30, written=given // 4, thinking=20, route=ROUTES[route])
    usage = plain(
        given, 30, prompt_tokens_details={"cached_tokens": 0, "cache_write_tokens": given // 4},
        completion_tokens_details={"reasoning_tokens": 20}, cost=bill.usd,
    )  # fmt: skip
    text = as_text(body) if route == 2 else asked(body)
    return said(body, text, usage, bill, top={"provider": "ABC"[route]}, reasoning="let me see")


def azure(_: int, body: Body) -> Reply:
    """A filter before the model, and one behind it."""
    words = " ".join(shown(body))
    if f"{SLY} before" in words:
        inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
        return refused("The response was filtered", code="content_filter", param="prompt", innererror=inner)
    given = tokens(body)
    if f"{SLY} behind" in words:
        return said(body, "", plain(given, 1), charged(given, 1), finish="content_filter")
    filters = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
    return said(body, asked(body), plain(given, 9), charged(given, 9), top={"prompt_filter_results": [filters]})


CONTEXT = 4096


def ollama(_: int, body: Body) -> Reply:
    """Cuts what does not fit its context, and answers the rest."""
    given = min(tokens(body), CONTEXT)
    return said(body, asked(body), plain(given, 9), charged(given, 9), reasoning="hm")


def vllm(_: int, body: Body) -> Reply:
    """A parser for reasoning that takes the answer under a schema for thoughts."""
    given = tokens(body)
    usage = plain(given, 9, prompt_tokens_details=None)
    if form(body):
        return said(body, None, usage, charged(given, 9), reasoning=asked(body), stop_reason=None)
    return said(body, asked(body), usage, charged(given, 9), reasoning=None)


def llama_cpp(_: int, body: Body) -> Reply:
    """Ignores the schema of a model whose template thinks aloud."""
    text = f"<think>\nThe drafts: [1] > [2].\n</think>\n\n{as_text(body)}"
    given = tokens(body)
    return said(body, text, plain(given, 25), charged(given, 25), top={"timings": {"prompt_n": 4}})


def lm_studio(_: int, body: Body) -> Reply:
    """A schema, or nothing."""
    if form(body) == "json_object":
        return refused("'response_format.type' must be 'json_schema' or 'text'")
    given = tokens(body)
    return said(body, asked(body), plain(given, 9), charged(given, 9), top={"stats": {}, "system_fingerprint": "m"})


def groq(number: int, body: Body) -> Reply:
    """Its rate limits: by header, in words alone, and for a day at once."""
    words = "Rate limit reached for model on tokens per minute (TPM): Limit 6000. Please try again in"
    limits = {"type": "tokens", "code": "rate_limit_exceeded"}
    if number % 7 == 2:
        reply, nothing = refused(f"{words} 20ms.", status=429, **limits)
        return replace(reply, headers={"retry-after": "0.02", "x-ratelimit-reset-tokens": "20ms"}), nothing
    if number % 7 == 4:
        return refused(f"{words} 30ms. Visit the console.", status=429, **limits)
    if any(SLY in text for text in shown(body)):
        reply, nothing = refused("Rate limit reached on tokens per day (TPD)", status=429, **limits)
        return replace(reply, headers={"retry-after": "7200"}), nothing
    given = tokens(body)
    usage = plain(given, 9, queue_time=0.01, prompt_tokens_details={"cached_tokens": given // 2})
    return said(body, asked(body), usage, charged(given, 9, cached=given // 2), top={"x_groq": {"id": "r"}})


def together(_: int, body: Body) -> Reply:
    """Counts its cache beside the details, and thinks in a field."""
    given = tokens(body)
    usage = plain(given, 20, cached_tokens=given // 4)
    return said(body, asked(body), usage, charged(given, 20, cached=given // 4), reasoning="[1] > [2]?", finish="eos")


def sglang(_: int, body: Body) -> Reply:
    """Counts thinking beside the details."""
    given = tokens(body)
    usage = plain(given, 20, reasoning_tokens=11, prompt_tokens_details=None)
    bill = charged(given, 20, thinking=11)
    return said(body, asked(body), usage, bill, reasoning_content="[1] > [2]?", top={"metadata": {"weight": "v1"}})


MANNERS: Mapping[str, Manner] = {
    "gpt5": gpt5,
    "claude": claude,
    "gemini": gemini,
    "mistral": mistral,
    "deepseek": deepseek,
    "openrouter": openrouter,
    "azure": azure,
    "ollama": ollama,
    "vllm": vllm,
    "llama_cpp": llama_cpp,
    "lm_studio": lm_studio,
    "groq": groq,
    "together": together,
    "sglang": sglang,
}


@dataclass
class Provider(Loopback):
    """A server of one manner. bill: of all that it has answered."""

    manner: Manner = claude
    bill: Bill = field(default_factory=Bill)

    def response(self, number: int, body: Body) -> Fault:
        fault, bill = self.manner(number, body)
        with self.lock:
            self.bill = self.bill + bill
        return fault


# A proxy on the way --------------------------------------------------------------------------------------------


class _Forwarder(BaseHTTPRequestHandler):
    """Takes an absolute URL, as proxies do, and passes it on to the one server behind it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        proxy: Proxy = self.server  # type: ignore[assignment]
        address = urlsplit(self.path)
        proxy.asked.append(f"{address.scheme}://{address.netloc}")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        behind = http.client.HTTPConnection("127.0.0.1", proxy.behind)
        behind.request("POST", address.path, data, {"Content-Type": "application/json"})
        reply = behind.getresponse()
        body = reply.read()
        behind.close()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy on loopback; ``asked``: the hosts that it was asked for."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.behind = behind
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Proxy:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
