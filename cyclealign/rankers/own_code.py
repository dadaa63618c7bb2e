"""Python of the user's own: a function of a file, run from the very bytes whose digest is on record.

The file stands alone: it imports what is installed and nothing beside it, which another could change under the same
digest, and no compiled copy of it is read or written.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from cyclealign.config.ranker_kinds import code_place
from cyclealign.files.printable import SHOWN, one_line
from cyclealign.types import UserError

MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A function and the file that it stands in, read once and not run yet."""

    file: Path
    function: str
    source: bytes

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.source).hexdigest()


def read_code(place: str, key: str) -> Code:
    """The code of ``FILE.py:FUNCTION``, which nothing runs. ``key``: what an error begins with.

    Raises:
        UserError: no such name, or no file that can be read.
    """
    named = code_place(place)
    if named is None:
        raise UserError(f"{key}: expected FILE.py:FUNCTION, got {place!r}")
    file = Path(named[0])
    try:
        if not file.is_file():
            raise UserError(f"{key}: no file {file}")
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{key}: {file}: expected at most {MOST_BYTES >> 20} MiB of Python")
        return Code(file=file, function=named[1], source=file.read_bytes())
    except OSError as error:
        raise UserError(f"{key}: {file}: cannot be read: {error.strerror}") from error


def function_of(code: Code, key: str, form: str, *arguments: object) -> Callable[..., object]:
    """The function, from the file as it was read, which is run once in a process.

    Args:
        key: what an error begins with.
        form: what was expected of the function, for the error.
        arguments: such as it is to be called with.

    Raises:
        UserError: the file fails, or has no function that takes them; one line that names the place.
    """
    name = f"cyclealign_own_{code.digest[:16]}"
    module = sys.modules.get(name) or _executed(code, name, key)
    found = getattr(module, code.function, None)
    where = f"{key}: {code.file}: {code.function}"
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise UserError(f"{where}: {form}; got {'none' if found is None else type(found).__name__}")
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError as error:
        raise UserError(f"{where}: {form}: {error}") from error
    except ValueError:  # a builtin, which says nothing of itself
        pass
    function: Callable[..., object] = found
    return function


def _executed(code: Code, name: str, key: str) -> types.ModuleType:
    """The file as a module; known by its name, for the dataclasses in it."""
    module = sys.modules[name] = types.ModuleType(name)
    try:
        with redirect_stdout(sys.stderr):
            exec(compile(code.source, str(code.file), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  the user's own function, agreed to
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise UserError(f"{key}: {said(error, code)}") from error
    return module


def said(error: BaseException, code: Code) -> str:
    """File, line and words of an error in it."""
    lines = [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(code.file) else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(code.file):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    words = error.msg if isinstance(error, SyntaxError) else words_of(error, str, SHOWN)
    line = f", line {lines[-1]}" if lines else ""
    return one_line(f"{code.file}{line}: {type(error).__name__}: {words}")


def words_of(value: object, spelled: Callable[[object], str], most: int) -> str:
    """Of a value of the user's; the name of its type where it cannot say what it is."""
    try:
        return one_line(spelled(value), most)
    except Exception:
        return type(value).__name__
