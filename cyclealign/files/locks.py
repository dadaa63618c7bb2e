"""Locks between processes: one writes, the next is told so. A lock dies with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cyclealign.types import UserError

LOCK = ".lock"  # the file of a directory's lock


class Lock:
    """An exclusive lock on a file, taken at once or refused.

    Raises:
        UserError: another process holds it (``what`` says of what), or the file cannot be made or locked.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        while True:
            try:
                self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise UserError(f"{what}: cannot be written: {error.strerror}") from error
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._handle)
                raise UserError(f"{what} is in use by another process") from error
            except OSError as error:  # file systems of networks may have no locks
                os.close(self._handle)
                raise UserError(f"{what}: cannot be locked: {error.strerror}; use a local disk") from error
            if self._still_there():
                return
            os.close(self._handle)  # its last holder removed it in between

    def close(self, *, remove: bool = False) -> None:
        """Give the lock back; ``remove``: with its file."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._handle)

    def _still_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self._path))
        except FileNotFoundError:
            return False


def is_unheld(path: Path) -> bool:
    """Whether a lock's file is there and no process holds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def held(directory: Path, what: str) -> Iterator[None]:
    """The right to write into a directory, which is made for it; nothing is left of a lock under which nothing was
    written.

    Raises:
        UserError: another process has it (``what`` says of what), or it cannot be made or written.
    """
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{what}: cannot be written: {error.strerror}") from error
    lock = Lock(directory / LOCK, what)
    try:
        yield
    finally:
        lock.close(remove=True)
        if made:
            with suppress(OSError):  # it is not empty
                directory.rmdir()
