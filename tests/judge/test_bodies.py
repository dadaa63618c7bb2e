"""Bodies that inflate, never end, or are packed in ways that nobody asked for, over real HTTP."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import CONTEXT, PRICE, QUICK, asking, by_length, item, rows, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Body, Fault, Loopback, after_probe, completion, prefers

from cyclealign.judge.bodies import PIECE, _Inflate
from cyclealign.judge.chat import BadBody, longest_body
from cyclealign.types import Ranking, Unranked

ONE = item(0)
HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%s\r\n"
CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"


def packed(status: int, packing: str, data: bytes) -> Fault:
    return Fault(status=status, data=data, headers={"Content-Encoding": packing})


class Endless:
    """A chunked body without an end; ``sent``: bytes of it that were taken."""

    def __init__(self, status: int, chunk: bytes = CHUNK) -> None:
        self.head = HEAD % (status, b"Transfer-Encoding: chunked\r\n")
        self.chunk = chunk
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        while True:
            yield self.chunk
            self.sent += len(self.chunk)


BOMB = gzip.compress(bytes(200 << 20), compresslevel=1)
PACKED_TWICE = gzip.compress(gzip.compress(bytes(1 << 20)))
BAD = {
    "gzip bomb": (packed(200, "gzip", BOMB), "longer than any reply (more than 8,388,608 bytes)"),
    "deflate bomb": (packed(200, "deflate", zlib.compress(bytes(64 << 20), 1)), "longer than any reply"),
    "endless": (Fault(wire=Endless(200)), "longer than any reply"),
    "endless, of empty blocks": (
        Fault(wire=itertools.chain([HEAD % (200, b"Content-Encoding: deflate\r\n")], [bytes(4)], [b"x"] * 9)),
        "cannot be unpacked",
    ),
    "more than it says": (Fault(data=b"{" * ((8 << 20) + 1)), "longer than any reply"),
    "gzip that is none": (packed(200, "gzip", b"no gzip at all"), "cannot be unpacked"),
    "gzip in gzip": (packed(200, "gzip, gzip", PACKED_TWICE), "packed as gzip, gzip, expected gzip, deflate"),
    "brotli": (packed(200, "br", b"\x8b\x02\x80{}\x03"), "packed as br"),
    "no packing that is": (packed(200, "\x1b[31mrot13", b"{}"), "packed as"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_body_that_is_no_reply_is_booked_at_its_worst_case_and_asked_again(tmp_path: Path, name: str) -> None:
    fault, said = BAD[name]
    with Loopback(judge=prefers(len), script=after_probe(fault)) as server:
        tracemalloc.start()
        found = verdicts(tmp_path / "l.sqlite", server, [ONE], price=PRICE, budget_usd=5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    (verdict,) = found.values()
    assert isinstance(verdict, Ranking)
    assert verdict.order == by_length(ONE)
    assert peak < 8 * longest_body(None)
    ((state, usd, reserved, status, error),) = rows(
        tmp_path / "l.sqlite", "SELECT state, usd, reserved_usd, http_status, error FROM calls WHERE id = 2"
    )
    assert (state, status) == ("failed", 200)
    assert usd == reserved > 0
    assert said in error
    assert "\x1b" not in error


def test_nothing_else_than_such_bodies_ends_in_one_reason_after_all_attempts(tmp_path: Path) -> None:
    endless = Endless(200)
    script = lambda number, _: None if number == 0 else Fault(wire=endless)  # noqa: E731
    with Loopback(script=script) as server:
        (verdict,) = verdicts(tmp_path / "l.sqlite", server, [ONE]).values()
    assert isinstance(verdict, Unranked)
    assert verdict.reason == "error"
    assert "longer than any reply" in verdict.detail
    assert len(server.requests) == 1 + QUICK.attempts
    assert endless.sent < QUICK.attempts * 5 * longest_body(None)  # a connection's buffers take some more


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(wire=Endless(503)), "HTTP 503"),
        (Fault(wire=Endless(429, b"8000\r\n" + b"no" * 0x4000 + b"\r\n")), "HTTP 429: nono"),
        (packed(500, "gzip", BOMB), "HTTP 500"),
        (packed(429, "br", b"\x8b"), "HTTP 429"),
        (packed(502, "gzip", b"no gzip"), "HTTP 502"),
    ],
)
def test_of_a_refusal_the_beginning_is_enough(tmp_path: Path, fault: Fault, said: str) -> None:
    with Loopback(judge=prefers(len), script=after_probe(fault)) as server:
        (verdict,) = verdicts(tmp_path / "l.sqlite", server, [ONE], price=PRICE).values()
    assert isinstance(verdict, Ranking)
    ((usd, error),) = rows(tmp_path / "l.sqlite", "SELECT usd, error FROM calls WHERE id = 2")
    assert usd == 0  # as of any refusal
    assert error.startswith(said)
    assert len(error) < 500


@pytest.mark.parametrize("packing", ["gzip", "x-gzip", "GZIP", "deflate", "raw deflate", "identity", ""])
def test_a_reply_is_read_in_each_packing_that_is_asked_for(tmp_path: Path, packing: str) -> None:
    judge = prefers(len)

    def script(_: int, body: Body) -> Fault:
        plain = completion(body, judge(body), {}, "stop").encode()
        raw = zlib.compressobj(wbits=-15)
        data = {
            "deflate": zlib.compress(plain), "raw deflate": raw.compress(plain) + raw.flush(), "identity": plain,
            "": plain,
        }.get(packing, gzip.compress(plain))  # fmt: skip
        return packed(200, packing.removeprefix("raw "), data)

    with Loopback(script=script) as server:
        (verdict,) = verdicts(tmp_path / "l.sqlite", server, [ONE]).values()
    assert isinstance(verdict, Ranking)
    assert verdict.order == by_length(ONE)
    assert server.headers[0]["accept-encoding"] == "gzip, deflate"


def test_a_long_reply_that_was_asked_for_is_read(tmp_path: Path) -> None:
    """Log probabilities of many tokens: longer than the least bound, within that of the limit."""
    judge = prefers(len)
    many = {"content": [{"token": "x", "top_logprobs": ["y" * 1000] * 20}] * 500}

    def script(_: int, body: Body) -> Fault:
        reply = json.loads(completion(body, judge(body), {}, "stop"))
        reply["choices"][0]["logprobs"] = many
        return Fault(body=json.dumps(reply))

    request = {"max_tokens": 4096, "logprobs": True}
    with (
        Loopback(script=script) as server,
        asking(tmp_path / "l.sqlite", server, request=request) as ranker,
    ):
        (verdict,) = ranker.rank([ONE], CONTEXT)
    assert isinstance(verdict, Ranking)


def test_the_bound_by_value() -> None:
    mib = 1 << 20
    assert [longest_body(n) for n in (None, 0, 88, 2048, 4096, 16384, 10**7)] == [
        *(8 * mib, 8 * mib, 8 * mib, 8 * mib, 16 * mib, 64 * mib, 64 * mib)
    ]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.sampled_from([31, 15, -15]), st.lists(st.integers(2, 400), min_size=1))
def test_unpacking_gives_what_was_packed_however_it_arrives(data: bytes, wbits: int, sizes: list[int]) -> None:
    pack = zlib.compressobj(wbits=wbits)
    whole, got, inflate = pack.compress(data) + pack.flush(), b"", _Inflate()
    for size in itertools.cycle(sizes):
        if not whole:
            break
        got += b"".join(inflate.pieces(whole[:size]))
        whole = whole[size:]
    assert got == data


def test_no_step_of_unpacking_is_larger_than_a_piece() -> None:
    pieces = [len(p) for p in _Inflate().pieces(gzip.compress(bytes(5 * PIECE + 3)))]
    assert sum(pieces) == 5 * PIECE + 3
    assert max(pieces) == PIECE
    with pytest.raises(BadBody, match="cannot be unpacked"):
        list(_Inflate().pieces(b"neither gzip nor deflate"))
