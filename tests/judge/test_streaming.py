"""The stream between a blocking source and asynchronous work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from cyclealign.judge.streaming import Work, stream


class Fixture:
    """Work that doubles a number after it slept that many hundredths of a second."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.closed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Work[int, int]]:
        try:
            yield self.work
        finally:
            self.closed = True

    async def work(self, n: int) -> int:
        self.begun.append(n)
        if n == self.fail_at:
            raise LookupError(f"no {n}")
        try:
            await asyncio.sleep(n / 100)
        except asyncio.CancelledError:
            self.cancelled.append(n)
            raise
        return 2 * n


def threads() -> set[str]:
    return {t.name for t in threading.enumerate()} & {"rank-calls", "rank-source"}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == set()


def test_results_come_in_order_of_completion() -> None:
    fixture = Fixture()
    assert list(stream([40, 1, 20], fixture.open, window=8)) == [2, 40, 80]
    assert fixture.closed


def test_an_empty_source_gives_nothing() -> None:
    fixture = Fixture()
    assert list(stream([], fixture.open, window=2)) == []
    assert fixture.closed


def test_results_come_while_the_source_is_still_busy() -> None:
    more = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert more.wait(10)
        yield 2

    results = stream(source(), Fixture().open, window=4)
    assert next(results) == 2
    more.set()
    assert list(results) == [4]


def test_the_source_is_not_drained_beyond_the_window() -> None:
    taken = []

    def source() -> Iterator[int]:
        for n in [10, 200, 200, 200, 0, 0]:
            taken.append(n)
            yield n

    results = stream(source(), Fixture().open, window=3)
    next(results)
    assert len(taken) <= 4  # three, and one for the result that is there by now
    assert sorted(results) == [0, 0, 400, 400, 400]


def test_an_exception_of_the_source_is_raised_after_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 5
        yield 1
        raise OSError("no more candidates")

    results = stream(source(), Fixture().open, window=4)
    assert next(results) == 2
    assert next(results) == 10
    with pytest.raises(OSError, match="no more candidates"):
        next(results)


def test_what_must_end_everything_does_not_wait() -> None:
    class Killed(BaseException):
        pass

    def source() -> Iterator[int]:
        yield 3000
        raise Killed

    fixture = Fixture()
    began = time.monotonic()
    with pytest.raises(Killed):
        list(stream(source(), fixture.open, window=4))
    assert time.monotonic() - began < 10
    assert fixture.cancelled == [3000]


def test_an_exception_of_the_work_cancels_the_rest_and_is_raised_as_it_is() -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield 3000
            yield 7
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    fixture = Fixture(fail_at=7)
    with pytest.raises(LookupError, match="no 7"):
        list(stream(source(), fixture.open, window=50))
    assert 3000 in fixture.cancelled
    assert fixture.closed
    assert closed == ["rank-source"]


def test_closing_early_cancels_and_closes_everything() -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield 0
            for _ in range(100):
                yield 3000
        finally:
            closed.append(True)

    fixture = Fixture()
    results = stream(source(), fixture.open, window=10)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(fixture.begun) <= 12
    assert sorted(fixture.cancelled) == [n for n in sorted(fixture.begun) if n]
    assert fixture.closed
    assert closed == [True]


def test_closing_while_the_work_is_being_closed_lets_it_close() -> None:
    """All results are there, the connections are being closed, and whoever listened wants no more of them."""
    closing, closed = threading.Event(), threading.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Work[int, int]]:
        try:
            yield Fixture().work
        finally:
            closing.set()
            await asyncio.sleep(0.2)
            closed.set()

    results = stream([0, 1], slow, window=8)
    assert next(results) == 0
    assert closing.wait(5)
    results.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_a_failure_to_open_is_raised() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Work[int, int]]:
        raise ConnectionError("no pool")
        yield Fixture().work

    with pytest.raises(ConnectionError, match="no pool"):
        list(stream([1], broken, window=1))
