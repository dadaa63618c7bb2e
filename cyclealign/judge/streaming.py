"""Asynchronous work over an iterable that blocks: results in order of completion, both sides running at once."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Awaitable[R]]
# How long closing waits for a source that is busy making its next item.
SOURCE_PATIENCE = 30.0
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class _Result(Generic[R]):
    value: R


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def stream(
    source: Iterable[T], open_work: Callable[[], AbstractAsyncContextManager[Work[T, R]]], *, window: int
) -> Iterator[R]:
    """Run ``work`` on every item of ``source``; at most ``window`` items are taken and not yet done.

    ``source`` runs in a thread of its own, ``work`` in an event loop in another; ``open_work`` is entered and left in
    that loop. An Exception of the source is raised after the items before it are done; one of ``work`` cancels
    the rest and is raised at once. Closing the iterator cancels the rest and waits for it to wind up.
    """
    pump = _Pump(source, open_work, window)
    pump.start()
    try:
        while isinstance(event := pump.events.get(), _Result):
            yield event.value
        if event.error is not None:
            raise event.error
    finally:
        pump.stop()


class _Pump(Generic[T, R]):
    def __init__(
        self,
        source: Iterable[T],
        open_work: Callable[[], AbstractAsyncContextManager[Work[T, R]]],
        window: int,
    ) -> None:
        self.events: queue.SimpleQueue[_Result[R] | _End] = queue.SimpleQueue()
        self._source = source
        self._open_work = open_work
        self._room = threading.Semaphore(window)
        self._lock = threading.Lock()  # guards the three below: what one thread may still ask of the other
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._source_error: BaseException | None = None
        self._begin: Callable[[T], object]
        # Daemons: a source stuck in foreign code must not keep a process alive that was told to end.
        self._worker = threading.Thread(target=self._work, name="rank-calls", daemon=True)
        self._feeder = threading.Thread(target=self._feed, name="rank-source", daemon=True)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)
        self._room.release()
        self._worker.join()
        if self._feeder.ident is not None:
            self._feeder.join(SOURCE_PATIENCE)

    # The thread of the event loop --------------------------------------------------------------------------------

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            # ``stop`` cancels, when nobody listens any more; and a source that must end everything at once.
            error = self._source_error
        except BaseException as raised:
            error = _first(raised)
        with self._lock:
            self._stopping = True
        self._room.release()
        self.events.put(_End(error))

    async def _serve(self) -> None:
        self._fed = asyncio.Event()
        with self._lock:
            if self._stopping:
                return
            self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        try:
            async with self._open_work() as work:
                try:
                    async with asyncio.TaskGroup() as tasks:
                        self._begin = lambda item: tasks.create_task(self._one(work, item))
                        self._feeder.start()
                        await self._fed.wait()
                finally:
                    self._out_of_reach()  # a cancellation now would leave connections open that are being closed
        finally:
            self._out_of_reach()
        if self._source_error is not None:
            raise self._source_error

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _out_of_reach(self) -> None:
        """From here on no thread calls into the loop, and nothing cancels what runs in it."""
        with self._lock:
            self._loop = self._main = None

    async def _one(self, work: Work[T, R], item: T) -> None:
        try:
            self.events.put(_Result(await work(item)))
        except BaseException:
            self._stopping = True  # before the task group shuts down and takes no more tasks
            raise
        finally:
            self._room.release()

    def _spawn(self, item: T) -> None:
        if not self._stopping:
            self._begin(item)

    def _end_of_source(self, error: BaseException | None) -> None:
        self._source_error = error
        self._fed.set()
        if error is not None and not isinstance(error, Exception):
            self._cancel()

    # The thread of the source ------------------------------------------------------------------------------------

    def _feed(self) -> None:
        error: BaseException | None = None
        try:
            self._pull()
        except BaseException as raised:
            error = raised
        self._call(partial(self._end_of_source, error))

    def _pull(self) -> None:
        iterator = iter(self._source)
        try:
            while self._take_room():
                item = next(iterator, _NOTHING)
                if item is _NOTHING or not self._call(partial(self._spawn, item)):
                    break
        finally:
            # A generator must be closed in the thread that runs it.
            if isinstance(iterator, Generator):
                iterator.close()

    def _take_room(self) -> bool:
        self._room.acquire()
        return not self._stopping

    def _call(self, function: Callable[[], object]) -> bool:
        """Run a function in the event loop; False when there is none any more."""
        with self._lock:
            if self._stopping or self._loop is None:
                return False
            self._loop.call_soon_threadsafe(function)
            return True


def _first(error: BaseException) -> BaseException:
    """The cause that a task group wraps: its first exception, as it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
