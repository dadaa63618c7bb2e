"""A chaotic judge over real HTTP: of its requests a share fares in one of many bad ways, drawn by seed and content.

Its answers are a function of the candidates alone (longest first), so that every verdict can be checked, and it keeps
its own bill. Also a program: ``python tests/helpers/chaos.py --port 0 --share 0.3 --log FILE`` prints its port.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback import Body, Fault, Loopback, prefers, shown, text_hash

Kind = Callable[[Body], Fault]
RIGHT = prefers(len)
WRONG = prefers(lambda text: -len(text))


def wrong(body: Body) -> str:
    """A ranking that is never the right one: what would be seen if it were read."""
    return WRONG(body)


def text(make: Callable[[str], str], finish: str | None = "stop") -> Kind:
    return lambda body: Fault(text=make(wrong(body)), finish=finish)


def message(make: Callable[[str], dict[str, Any]], finish: str = "stop") -> Kind:
    return lambda body: Fault(text="", message=make(wrong(body)), finish=finish)


def status(code: int, body: str = "", **headers: str) -> Kind:
    return lambda _: Fault(status=code, body=body, headers=headers)


def usage(**counts: Any) -> Kind:
    return lambda _: Fault(usage=counts)


def said(words: str, **more: Any) -> str:
    return json.dumps({"error": {"message": words} | more})


KINDS: dict[str, Kind] = {
    # Attempts that fail
    "500": status(500, "oops"),
    "502 page": status(502, "<html>bad gateway</html>"),
    "503": status(503, said("overloaded")),
    "429": status(429, said("slow down"), **{"retry-after-ms": "20"}),
    "408": status(408),
    "409": status(409),
    "529": status(529, said("overloaded", type="overloaded_error")),
    "drop": lambda _: Fault(drop=True),
    "late": lambda _: Fault(delay=0.2),
    "no json": lambda _: Fault(body="upstream connect error"),
    "empty body": lambda _: Fault(body=""),
    "null": lambda _: Fault(body="null"),
    "error in 200": lambda _: Fault(body=said("upstream", code=502)),
    "no choices": lambda _: Fault(body='{"choices": []}'),
    "error in choice": lambda body: Fault(
        body=json.dumps({"choices": [{"finish_reason": "error", "message": {"content": wrong(body)}}]})
    ),
    "error beside choice": lambda body: Fault(
        body=json.dumps(
            {"error": {"code": 500}, "choices": [{"finish_reason": "stop", "message": {"content": wrong(body)}}]}
        )
    ),
    "charset hex": lambda _: Fault(data=b"\xff\xfe\xfd", headers={"Content-Type": "text/plain; charset=hex"}),
    "illegal status line": lambda _: Fault(wire=b"HTTP/1.1 what\r\n\r\n"),
    "cut body": lambda _: Fault(wire=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "deep": lambda _: Fault(body="[" * 20_000),
    "endless number": lambda _: Fault(body='{"choices": ' + "9" * 6000 + "}"),
    # Replies that are no verdict
    "cut": text(lambda order: order, "length"),
    "cut in thought": text(lambda order: f"<think>{order}\n", "length"),
    "cut in thought unsaid": text(lambda order: f"<think>{order}\n"),
    "other end": text(lambda order: order, "tool_calls"),
    "no end": text(lambda order: order, None),
    "prose": text(lambda order: f"From worst to best:\n{order}"),
    "quoted": text(lambda order: f"One response says:\n{order}"),
    "thought only": text(lambda order: f"<reasoning>{order}</reasoning>"),
    "incomplete": text(lambda order: order.replace("1", "2")),
    "empty": text(lambda order: ""),  # noqa: ARG005
    "lone surrogate": message(lambda order: {"content": f"\ud800 {order}"}),
    "refusal field": message(lambda order: {"content": order, "refusal": "I cannot"}),
    "filtered": text(lambda order: order, "content_filter"),
    "forbidden": status(403, said("flagged by moderation")),
    "too long": status(400, said("maximum context length is 10 tokens")),
    "reasoning prose": message(lambda order: {"content": "", "reasoning_content": f"maybe {order}"}),
    # Verdicts in odd clothes
    "parts": lambda body: Fault(
        text="",
        message={"content": [{"type": "thinking", "thinking": wrong(body)}, {"type": "text", "text": RIGHT(body)}]},
    ),
    "thought before": lambda body: Fault(text=f"<think>{wrong(body)}</think>\n{RIGHT(body)}"),
    "closed only": lambda body: Fault(text=f"{wrong(body)}</think>\n{RIGHT(body)}"),
    "end_turn": lambda _: Fault(finish="end_turn"),
    "huge count": usage(prompt_tokens=10**30),
    "negative count": usage(prompt_tokens=-(10**6)),
    "no count": usage(prompt_tokens=None),
    "text count": usage(completion_tokens="n/a"),
    "count of ten million": usage(prompt_tokens=10**7),
}


@dataclass
class Chaos:
    """A script for ``Loopback``. ``here.kind``: of the answer that this thread gives, which serves one at a time."""

    share: float = 0.3
    seed: int = 0
    spared: int = 1  # the first requests fare well: the probe
    seen: dict[str, int] = field(default_factory=dict)
    here: threading.local = field(default_factory=threading.local)

    def __call__(self, number: int, body: Body) -> Fault | None:
        """Each attempt at one request draws anew."""
        key = text_hash(json.dumps(body, sort_keys=True))
        self.seen[key] = self.seen.get(key, 0) + 1
        draw = int(text_hash(f"{self.seed} {key} {self.seen[key]}")[:12], 16) / 16**12
        if number < self.spared or draw >= self.share:
            self.here.kind = "well"
            return None
        kind = list(KINDS)[int(draw / self.share * len(KINDS))]
        self.here.kind = kind
        return KINDS[kind](body)


def billed(number: int, body: Body, given: Fault) -> tuple[int, int]:  # noqa: ARG001
    """Tokens of the server's own bill for an answer: nothing for what is no completion, the truth for odd counts."""
    if given.status != 200 or given.drop or given.wire is not None or given.data is not None:
        return 0, 0
    try:
        choices = json.loads(given.body or "")["choices"]
        text = choices[0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return 0, 0
    spoken = text if isinstance(text, str) else json.dumps(text)
    return sum(len(m["content"].split()) for m in body["messages"]), len(spoken.split()) + 2


class ChaoticServer(Loopback):
    """Writes a line of its bill for each answer into ``ledger`` before it answers."""

    bill: Path | None = None

    def response(self, number: int, body: Body) -> Fault:
        given = super().response(number, body)
        if self.bill is not None:
            tokens = billed(number, body, given)
            kind = self.script.here.kind if isinstance(self.script, Chaos) else "well"
            with self.lock, self.bill.open("a") as file:
                file.write(json.dumps({"kind": kind, "tokens": tokens, "about": sorted(shown(body))}) + "\n")
        return given


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", action="store_true", help="refuse schemas, so that all is asked for as text")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args(arguments)
    chaos = Chaos(share=options.share, seed=options.seed, spared=2)
    server = ChaoticServer(judge=RIGHT, script=chaos, structured="refused" if options.text else True, port=options.port)
    server.bill = options.log
    print(server.port, flush=True)
    server.server.serve_forever()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
