"""The body of a judge's response, unpacked by us and bounded: an endless one, or one that inflates, ends here.

The SDK reads a body whole before it looks at it, so the bound stands where its bytes arrive.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx2

from cyclealign.files.printable import one_line
from cyclealign.judge.chat import BadBody

PACKED = "gzip, deflate"  # what is asked for; zlib unpacks both in pieces
PIECE = 1 << 20  # most bytes of one step of unpacking
REFUSAL = 256 << 10  # bytes that are read of a response that is no success


def bound(response: httpx2.Response, most: int) -> None:
    """Have the body of a response unpacked here, and end after ``most`` bytes, packed or unpacked.

    What cannot be read so is a BadBody where it is read. Of a refusal or redirect the beginning, what can be read of
    ``REFUSAL`` bytes, is then the whole.
    """
    packings = [p.lower() for p in response.headers.get_list("content-encoding", split_commas=True)]
    if packings:
        del response.headers["content-encoding"]
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    packed = [p for p in packings if p not in ("", "identity")]
    most, strict = (most, True) if response.is_success else (min(most, REFUSAL), False)
    response.stream = _Bounded(response.stream, most, packed, strict=strict)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most: int, packed: list[str], *, strict: bool) -> None:
        self._stream = stream
        self._most = most
        self._packed = packed
        self._strict = strict

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces():
                yield piece
        except BadBody:
            if self._strict:
                raise

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._packed and self._packed not in (["gzip"], ["x-gzip"], ["deflate"]):
            raise BadBody(f"its body is packed as {one_line(', '.join(self._packed), 40)}, expected {PACKED}")
        inflate = _Inflate()
        arrived = given = 0
        async for raw in self._stream:
            arrived += len(raw)
            for piece in inflate.pieces(raw) if self._packed else [raw]:
                given += len(piece)
                if max(arrived, given) > self._most:
                    raise BadBody(f"its body is longer than any reply (more than {self._most:,} bytes)")
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Inflate:
    """gzip, zlib or raw deflate, unpacked in pieces."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = False

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        piece = b""
        while packed or len(piece) == PIECE:
            try:
                piece = self._inflate.decompress(packed, PIECE)
            except zlib.error as error:
                if self._begun:
                    raise BadBody(f"its body cannot be unpacked ({error})") from error
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)  # some send deflate without its header
            else:
                yield piece
                packed = self._inflate.unconsumed_tail
            self._begun = True
