"""Calls a second and processor time a call of the judge's client, beside plain clients, against a server of 50 ms.

    python benchmarks/judge_client.py --out benchmarks/results/judge_client.json

The server is a process of its own, which answers every request with the same ranking. Ours is the ranker as a run
uses it: lists of four, one call each, every call on the ledger before it is sent. The peers send the same bodies and
read the content of the replies: ``asyncio.gather`` on the openai SDK's ``create``, the same on its low-level ``post``
with a ready body, and on aiohttp. Rounds alternate between the arms; ratios are medians over rounds. ``parts``:
processor time of what ours does for a call besides sending it, each alone and without threads: both forms of the
prompt, identity and body, the ledger's four statements, reading the reply.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import openai

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.printable import scrubbed
from cyclealign.files.records import encode
from cyclealign.judge.asked import PLAIN
from cyclealign.judge.call import Call
from cyclealign.judge.chat import read_reply
from cyclealign.judge.client import request_body
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.prompting import render
from cyclealign.judge.template import load_template
from cyclealign.judge.verdicts import read_verdict
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, RankContext

DELAY = 0.05  # seconds that the server takes
CALLS = {1: 200, 64: 2_000, 512: 6_000}  # by calls at once
K = 4
WORDS = "the answer says in a few plain words what was asked and adds one more thing that may help or not"


@dataclass(frozen=True)
class Speed:
    """calls_per_second; cpu_ms: processor time of a call, all threads of the client's process."""

    calls_per_second: float
    cpu_ms: float


Arm = Callable[[str, Sequence[CandidateSet], int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", default=list(CALLS))
    arguments = parser.parse_args()
    alone = parts()  # first: what other arms leave behind is not theirs
    print(alone, flush=True)
    port = multiprocessing.Queue()  # type: ignore[var-annotated]
    server = multiprocessing.get_context("fork").Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v1"
    rows = [measured(url, at_once, arguments.rounds) for at_once in arguments.at_once]
    result = {"delay_s": DELAY, "rows": rows, "parts_cpu_ms": alone, "environment": encode(environment())}
    write_json(arguments.out, result)
    server.terminate()


def measured(url: str, at_once: int, rounds: int) -> dict[str, Any]:
    sets = [made(number) for number in range(CALLS.get(at_once, 20 * at_once))]
    found: dict[str, list[Speed]] = {name: [] for name in ARMS}
    for _ in range(rounds):
        for name, arm in ARMS.items():
            found[name].append(speed(arm, url, sets, at_once))
    rate = {name: statistics.median(s.calls_per_second for s in speeds) for name, speeds in found.items()}
    cpu = {name: statistics.median(s.cpu_ms for s in speeds) for name, speeds in found.items()}
    row = {
        "at_once": at_once,
        "calls": len(sets),
        "possible_per_second": at_once / DELAY,
        "calls_per_second": rate,
        "cpu_ms_a_call": cpu,
        "ratio_to": {name: rate["cyclealign"] / rate[name] for name in ARMS if name != "cyclealign"},
        "rounds": {name: [asdict(s) for s in speeds] for name, speeds in found.items()},
    }
    print({k: v for k, v in row.items() if k != "rounds"}, flush=True)
    return row


def speed(arm: Arm, url: str, sets: Sequence[CandidateSet], at_once: int) -> Speed:
    began, cpu = time.perf_counter(), time.process_time()
    arm(url, sets, at_once)
    seconds = time.perf_counter() - began
    return Speed(len(sets) / seconds, 1000 * (time.process_time() - cpu) / len(sets))


def made(number: int) -> CandidateSet:
    """A list of four replies of about 60 words."""
    texts = [f"{number} {place}: " + " ".join([WORDS] * 3) for place in range(K)]
    prompt = Prompt(({"role": "user", "content": f"Question {number}: {WORDS}?"},))
    return CandidateSet(prompt, tuple(Candidate(str(n), text) for n, text in enumerate(texts)))


def parts(calls: int = 3_000) -> dict[str, float]:
    """Milliseconds of processor time a call."""
    template, sets, body = load_template("rank"), [made(-number) for number in range(1, calls + 1)], REPLY.decode()
    messages: list[list[Message]] = []

    def rendering(item: CandidateSet) -> None:
        content = render(template, (), item, range(K), structured=True)
        messages.extend((content, render(template, (), item, range(K), structured=False)))

    def call(number: int) -> Call:
        content, sent = messages[2 * number : 2 * number + 2]
        return Call(
            endpoint="http://127.0.0.1/v1",
            model="judge",
            messages=sent,
            content=content,
            schema=None,
            options={"max_completion_tokens": 64, "temperature": 0.0},
            purpose="rank",
            prompt_id=str(number),
            interaction=0,
        )

    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:

        def on_the_ledger(one: Call) -> None:
            assert ledger.lookup(one) is None
            row = ledger.start(one, reserved_usd=0.001)
            assert row is not None
            ledger.received(row, reply=body, http_status=200)
            ledger.done(
                row, reply=body, input_tokens=400, output_tokens=12, usd=0.0001, http_status=200, latency_s=0.05
            )

        def reading(_: int) -> None:
            read_verdict(read_reply(scrubbed(body)).answer, K, PLAIN, structured=False)

        found = {"rendering": cpu_ms(rendering, sets)}
        made_calls = [call(number) for number in range(calls)]
        found["identity and body"] = cpu_ms(lambda one: (one.key, request_body(one).encode()), made_calls)
        found["ledger"] = cpu_ms(on_the_ledger, made_calls)
        found["reading"] = cpu_ms(reading, range(calls))
    return found | {"together": sum(found.values())}


def cpu_ms(work: Callable[[Any], object], over: Sequence[Any]) -> float:
    began = time.process_time()
    for one in over:
        work(one)
    return 1000 * (time.process_time() - began) / len(over)


# The arms ------------------------------------------------------------------------------------------------------------


def ours(url: str, sets: Sequence[CandidateSet], at_once: int) -> None:
    config = BlackBoxConfig(model="judge", base_url=url, max_concurrency=at_once, passes=1)
    pool = DemonstrationPool.start(DemonstrationsConfig(), static=())
    context = RankContext(demonstrations=pool, run="bench", seed=0, interaction=0)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        ranker = BlackBoxRanker(config, load_template(config.template), ledger)
        ranked = sum(1 for found in ranker.rank(sets, context) if hasattr(found, "order"))
    assert ranked == len(sets)


def bodies(sets: Sequence[CandidateSet]) -> list[dict[str, Any]]:
    template = load_template(BlackBoxConfig(model="judge").template)
    messages = [render(template, (), item, range(K), structured=False) for item in sets]
    fields = {"model": "judge", "max_completion_tokens": 64, "temperature": 0.0}
    return [fields | {"messages": m} for m in messages]


def gathered(sets: Sequence[CandidateSet], at_once: int, ask: Callable[[dict[str, Any]], Awaitable[str]]) -> Any:
    places = asyncio.Semaphore(at_once)

    async def one(body: dict[str, Any]) -> None:
        async with places:
            assert await ask(body) == VERDICT

    return asyncio.gather(*(one(body) for body in bodies(sets)))


def sdk_create(url: str, sets: Sequence[CandidateSet], at_once: int) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as sdk:

            async def ask(body: dict[str, Any]) -> str:
                return (await sdk.chat.completions.create(**body)).choices[0].message.content or ""

            await gathered(sets, at_once, ask)

    asyncio.run(run())


def sdk_post(url: str, sets: Sequence[CandidateSet], at_once: int) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as sdk:

            async def ask(body: dict[str, Any]) -> str:
                found = await sdk.post("/chat/completions", body=body, cast_to=httpx2.Response)
                return str(found.json()["choices"][0]["message"]["content"])

            await gathered(sets, at_once, ask)

    asyncio.run(run())


def raw_aiohttp(url: str, sets: Sequence[CandidateSet], at_once: int) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def ask(body: dict[str, Any]) -> str:
                async with session.post(f"{url}/chat/completions", json=body) as found:
                    return str((await found.json())["choices"][0]["message"]["content"])

            await gathered(sets, at_once, ask)

    asyncio.run(run())


ARMS: dict[str, Arm] = {"cyclealign": ours, "SDK create": sdk_create, "SDK post": sdk_post, "aiohttp": raw_aiohttp}

# The server ----------------------------------------------------------------------------------------------------------

VERDICT = "[2] > [1] > [4] > [3]"
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": VERDICT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 12, "total_tokens": 412},
    }
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(REPLY), REPLY)


class Answering(asyncio.Protocol):
    """Reads requests by their Content-Length, and answers each after ``DELAY``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, rest = self._got.partition(b"\r\n\r\n")
        if not end:
            return
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(rest) >= size:
            self._got = rest[size:]
            asyncio.get_running_loop().call_later(DELAY, self._transport.write, ANSWER)


def serve(port: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=2048)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
