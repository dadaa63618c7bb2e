"""The body of a judge's response, unpacked by us and bounded: an endless one, or one that inflates, ends here.

A client reads a body whole before it looks at it, so the bound stands where its bytes arrive.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

import httpx2

from cyclealign.files.printable import one_line
from cyclealign.judge.chat import BadBody

PACKED = "gzip, deflate"  # what is asked for; zlib unpacks both in pieces
PIECE = 1 << 20  # most bytes of one step of unpacking
REFUSAL = 256 << 10  # bytes that are read of a response that is no success


def bound(response: httpx2.Response, most: int) -> None:
    """Have the body of a response of the SDK unpacked here, and end after ``most`` bytes; see ``unpacked``."""
    packings = response.headers.get_list("content-encoding", split_commas=True)
    if packings:
        del response.headers["content-encoding"]
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, packings, most, success=response.is_success)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, packings: list[str], most: int, *, success: bool) -> None:
        self._stream = stream
        self._unpacked = unpacked(stream, packings, most, success=success)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._unpacked

    async def aclose(self) -> None:
        await self._stream.aclose()


async def unpacked(
    arriving: AsyncIterable[bytes], packings: Sequence[str], most: int, *, success: bool
) -> AsyncIterator[bytes]:
    """A body in pieces, of at most ``most`` bytes, packed or unpacked. packings: its ``Content-Encoding``, in order.

    What cannot be read so is a BadBody where it is read. Of a refusal or redirect (no ``success``) the beginning, what
    can be read of ``REFUSAL`` bytes, is then the whole.
    """
    try:
        async for piece in _pieces(arriving, packings, most if success else min(most, REFUSAL)):
            yield piece
    except BadBody:
        if success:
            raise


async def _pieces(arriving: AsyncIterable[bytes], packings: Sequence[str], most: int) -> AsyncIterator[bytes]:
    packed = [p for name in packings if (p := name.strip().lower()) not in ("", "identity")]
    if packed and packed not in (["gzip"], ["x-gzip"], ["deflate"]):
        raise BadBody(f"its body is packed as {one_line(', '.join(packed), 40)}, expected {PACKED}")
    inflate = _Inflate()
    arrived = given = 0
    async for raw in arriving:
        arrived += len(raw)
        for piece in inflate.pieces(raw) if packed else [raw]:
            given += len(piece)
            if max(arrived, given) > most:
                raise BadBody(f"its body is longer than any reply (more than {most:,} bytes)")
            yield piece


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
