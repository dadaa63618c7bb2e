"""What all fuzz targets share: an input opened into its parts, the bounds that hold for each, and files of its bytes.

A target is one function of bytes. It returns where every promise held, and raises where one was broken: any exception
that is not a promised one, an answer that is none, too much time or memory.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from pathlib import Path

Target = Callable[[bytes], None]
SECONDS = 2.0  # of the processor, for one input
MEMORY = 256 * 2**10  # KiB that one input may add to what the process ever held
ENDLESS, ENDS = 0xF8, (1, 2, 3, 4, 8, 16, 32, 64)  # third bytes that ask for it, and how much each repeats
STRETCHED = 100_000  # bytes of an input that repeats its end


class Broken(AssertionError):
    """A promise that did not hold."""


@dataclass(frozen=True)
class Given:
    """An input in its parts. ``choice``: which of a target's ways; ``options``: bits; ``body``: the rest."""

    choice: int
    options: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")

    def parts(self, mark: bytes = b"\x00") -> list[bytes]:
        return self.body.split(mark)


def opened(data: bytes, *, stretched: int = STRETCHED) -> Given:
    """Three bytes of head, then the body. Of one input in 32 the end is repeated up to ``stretched`` bytes: that is how
    a time that grows with the square of a length shows."""
    choice, options, repeated = (*data[:3], 0, 0, 0)[:3]
    body = data[3:]
    if repeated >= ENDLESS and body:
        end = body[-ENDS[repeated - ENDLESS] :]
        body = (body + end * (1 + stretched // len(end)))[:stretched]
    return Given(choice, options, body)


def closed(choice: int, body: bytes | str, options: int = 0) -> bytes:
    """The inverse of ``opened``, for seeds."""
    return bytes((choice, options, 0)) + (body.encode() if isinstance(body, str) else body)


def held(target: Target, data: bytes, *, seconds: float = SECONDS) -> None:
    """Run a target on one input, within its bounds."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    target(data)
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    if took > seconds:
        raise Broken(f"took {took:.1f} s of the processor; at most {seconds:g}")
    if grown > MEMORY:
        raise Broken(f"took {grown // 2**10} MiB of memory; at most {MEMORY // 2**10}")


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="cyclealign-fuzz-") as made:
        yield Path(made)


def check_sound(value: object) -> None:
    """Raise ``Broken`` where a value that was read holds half a surrogate pair or a number that is not finite."""
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise Broken(f"a lone surrogate was read: {value[:40]!r}")
    elif isinstance(value, float):
        if not isfinite(value):
            raise Broken(f"the number {value} was read")
    elif is_dataclass(value):
        for field in fields(value):
            check_sound(getattr(value, field.name))
    elif isinstance(value, dict):
        check_sound([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for below in value:
            check_sound(below)
