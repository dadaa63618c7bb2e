"""Text files of others, the one reader of them: encoding, line ends, compression, and what no data file has.

UTF-8, with a byte order mark or without one; UTF-16 and UTF-32 with theirs. A line ends with a line feed, a carriage
return or both, with nothing else: JSON strings may hold the line ends of Unicode. ``.gz`` is seen from the first
bytes, whatever the name. Everything is read in pieces: a file may be of any size, one record of it may not.
"""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from cyclealign.types import UserError

MAX_RECORD = 2**26  # characters of one line or one object
MAX_TEXT = 2**24  # characters of a file that is one record, as a config is
# Bytes that come out of a .gz for each that goes in. Data gives 3 to 30, the format's own end is 1,032. The first
# FREE bytes are not counted: a small file may say one thing over and over.
MAX_INFLATION = 200
FREE = 2**24
_CHUNK = 2**18
_GZIP = b"\x1f\x8b"
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does, so it is looked for first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = {
    b"PAR1": "Parquet, not text; name it .parquet",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first, or use gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it first, or use gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first, or use gzip",
    b"ARROW1": "an Arrow file, not text; write it as Parquet or JSONL",
    b"SQLite format 3": "an SQLite file, not text",
}


class Unreadable(Exception):
    """Why a file cannot be read on; whoever counts its lines adds the place. ``at_all``: not even its beginning."""

    def __init__(self, reason: str, *, at_all: bool = False) -> None:
        super().__init__(reason)
        self.at_all = at_all


def lines(path: Path, *, texts: bool = False) -> Iterator[tuple[str, str]]:
    """(``file:line``, line) of every line that is not empty, without its end.

    ``texts``: fields may hold a bare carriage return, so that it ends a line only in a file that begins without a line
    feed.

    Raises:
        UserError: it cannot be read, is no text, or has a record that is too long; names the line.
    """
    yield from numbered(path, text_chunks(path, texts=texts))


def numbered(path: Path, chunks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The lines of pieces of text, as ``lines`` gives them."""
    number, held, size = 1, list[str](), 0
    try:
        for chunk in chunks:
            first, *more = chunk.split("\n")
            held.append(first)
            size += len(first)
            if size > MAX_RECORD:
                raise Unreadable(f"a line of more than {MAX_RECORD // 2**20} MiB; expected one record a line")
            if not more:
                continue
            for line in ("".join(held), *more[:-1]):
                if line and (line := _clean(line)):
                    yield f"{path}:{number}", line
                number += 1
            held, size = [more[-1]], len(more[-1])
    except Unreadable as error:
        raise UserError(f"{path if error.at_all else f'{path}:{number}'}: {error}") from error
    if line := _clean("".join(held)):
        yield f"{path}:{number}", line


def read_text(path: Path) -> str:
    """A whole file that is one record; UserError as ``lines``, and where it is too long."""
    found, size, line = list[str](), 0, 1
    try:
        for chunk in text_chunks(path):
            found.append(chunk)
            size, line = size + len(chunk), line + chunk.count("\n")
            if size > MAX_TEXT:
                raise Unreadable(f"more than {MAX_TEXT // 2**20} MiB of text", at_all=True)
    except Unreadable as error:
        raise UserError(f"{path if error.at_all else f'{path}:{line}'}: {error}") from error
    return "".join(found)


def text_chunks(path: Path, *, texts: bool = False) -> Iterator[str]:
    """The text in pieces, with ``\\n`` for every line end (see ``lines``); what can be read comes before the error.

    Raises:
        Unreadable: at the byte that is no text.
    """
    chunks = _decoded(path)
    head = next(chunks, "")
    bare = not texts or ("\n" not in head and "\r" in head)
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    for chunk in chain([head], chunks):
        clean, nul, _ = chunk.partition("\0")
        yield str(ends.decode(clean)) if bare else clean
        if nul:
            raise Unreadable("holds a NUL character: damaged, no text, or UTF-16 without its byte order mark")
    if bare:
        yield str(ends.decode("", final=True))


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def _clean(line: str) -> str:
    # A mark at the start of a later line is that of a file that was appended to another.
    return line.removesuffix("\r").removeprefix("\ufeff")


def _decoded(path: Path) -> Iterator[str]:
    """Text of the bytes, strictly."""
    chunks = _content(path)
    head = next(chunks, b"")
    mark, encoding = next(((m, e) for m, e in _ENCODINGS if head.startswith(m)), (b"", "utf-8"))
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    place = len(mark)
    for chunk in chain([head.removeprefix(mark)], chunks, [None]):
        try:
            yield decoder.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError as error:
            yield error.object[: error.start].decode(encoding)
            at = place - (len(error.object) - len(chunk or b"")) + error.start
            value = error.object[error.start]
            name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
            raise Unreadable(f"not {name} text: 0x{value:02x} at byte {at}; save it as UTF-8") from error
        place += len(chunk or b"")


def _content(path: Path) -> Iterator[bytes]:
    """The bytes of the file, inflated where it is compressed."""
    begun = False
    try:
        with path.open("rb") as file:
            head = file.read(_CHUNK)
            raw = chain([head], iter(lambda: file.read(_CHUNK), b""))
            whole = _inflated(raw) if head.startswith(_GZIP) else raw
            head = b""
            for chunk in whole:
                head += chunk if not begun else b""
                if not begun and len(head) >= 16:
                    begun = True
                    yield _as_text(head)
                elif begun:
                    yield chunk
            if not begun:
                yield _as_text(head)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", at_all=not begun) from error


def _as_text(head: bytes) -> bytes:
    for magic, kind in _NO_TEXT.items():
        if head.startswith(magic):
            raise Unreadable(f"is {kind}", at_all=True)
    return head


def _inflated(raw: Iterator[bytes]) -> Iterator[bytes]:
    """gzip members in a row, in pieces of at most ``_CHUNK`` bytes; zeros between and after them are padding."""
    came = went = 0
    member = None
    try:
        for chunk in raw:
            went += len(chunk)
            rest, more = chunk, True
            while rest or more:
                if member is None:
                    rest = rest.lstrip(b"\0")
                    if not rest:
                        break
                    member = zlib.decompressobj(wbits=31)
                found = member.decompress(rest, _CHUNK)
                came += len(found)
                if came > max(FREE, MAX_INFLATION * went):
                    raise Unreadable(f"inflates to more than {MAX_INFLATION} times its size: no data file does")
                yield found
                rest, more = (member.unused_data, False) if member.eof else (member.unconsumed_tail, bool(found))
                member = None if member.eof else member
    except zlib.error as error:
        raise Unreadable(f"cannot be read as gzip: {error}") from error
    if member is not None:
        raise Unreadable("cannot be read as gzip: it ends in the middle, as a download that broke off does")
