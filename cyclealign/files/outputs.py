"""The output file of a command: it is none of the inputs, one process writes it, and it is written whole or resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cyclealign.files.locks import Lock
from cyclealign.types import UserError

_held = ExitStack()


def check_apart(out: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """UserError where an output is a file, or stands in a directory, that the command reads."""
    real = out.resolve()
    for path in inputs:
        same = real == path.resolve() or (out.exists() and path.exists() and out.samefile(path))
        if same or (path.is_dir() and (path.resolve() / "config.yaml").is_file() and real.parent == path.resolve()):
            raise UserError(f"{option} {out}: is an input ({path}), which it would write over; choose another name")
    if out.exists() and not out.is_file():
        raise UserError(f"{option} {out}: expected a file, got {'a directory' if out.is_dir() else 'a device'}")


@contextmanager
def output(out: Path, inputs: Iterable[Path], option: str = "--out") -> Iterator[None]:
    """The right to write ``out``, until the end; see ``check_apart``.

    Raises:
        UserError: it is an input, another process writes it, or it cannot be written.
    """
    check_apart(out, inputs, option)
    lock = Lock(out.with_name(f".{out.name}.lock"), f"{option} {out}")
    try:
        yield
    finally:
        lock.close(remove=True)


def hold(out: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """``output`` until the command ends (``release``)."""
    _held.enter_context(output(out, inputs, option))


def release() -> None:
    """Give back all that this command holds."""
    _held.close()
