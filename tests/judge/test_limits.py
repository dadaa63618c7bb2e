"""Rates, concurrency, budget and waits: the arithmetic, by value and by property."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclealign.judge import limits
from cyclealign.judge.limits import Adaptive, BudgetSpent, Gate, RetryPolicy, Silence, TokenBucket, retry_after


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def starts(bucket: TokenBucket, clock: FakeClock, draws: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """When each draw of (seconds since the last, units) may start, and its units."""
    found = []
    for pause, units in draws:
        clock.now += pause
        found.append((clock.now + bucket.take(units), units))
    return found


@given(
    per_minute=st.integers(1, 6000),
    draws=st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=200),
)
@settings(max_examples=200, deadline=None)
def test_requests_in_any_minute_never_exceed_the_rate(per_minute: int, draws: list[float]) -> None:
    clock = FakeClock()
    times = [t for t, _ in starts(TokenBucket(per_minute, clock), clock, [(pause, 1.0) for pause in draws])]
    assert times == sorted(times)
    for first in times:
        assert sum(first <= t < first + 60 for t in times) <= per_minute


@given(
    per_minute=st.integers(60, 100_000),
    draws=st.lists(st.tuples(st.floats(0, 5), st.floats(1, 20_000)), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_tokens_in_any_minute_exceed_the_rate_by_less_than_one_draw(
    per_minute: int, draws: list[tuple[float, float]]
) -> None:
    clock = FakeClock()
    found = starts(TokenBucket(per_minute, clock), clock, draws)
    for first, _ in found:
        units = [u for t, u in found if first <= t < first + 60]
        assert sum(units) <= per_minute + max(units) + 1e-6


def test_a_bucket_is_not_slower_than_its_rate() -> None:
    clock = FakeClock()
    bucket = TokenBucket(600, clock)
    waits = [bucket.take(1) for _ in range(600)]
    assert waits[:9] == [0.0] * 9  # a second's worth, 600 / 61
    assert waits[-1] == pytest.approx((600 - 600 / 61) / (600 / 61))


def test_what_was_not_used_is_given_back() -> None:
    clock = FakeClock()
    bucket = TokenBucket(6100, clock)  # holds 100, fills 100 a second
    assert bucket.take(300) == 0.0
    bucket.give_back(250)
    assert bucket.take(100) == pytest.approx(0.5)


def test_concurrency_halves_at_an_overload_and_grows_by_one_a_round() -> None:
    clock = FakeClock()
    adaptive = Adaptive(16, clock)
    sent_at = clock.now - 1
    for _ in range(16):  # one burst of refusals
        adaptive.overloaded(sent_at)
    assert adaptive.limit == 8
    adaptive.overloaded(clock.now)
    assert adaptive.limit == 4
    grown = []
    for _ in range(4 + 5 + 6):
        adaptive.succeeded()
        grown.append(adaptive.limit)
    assert grown == [4] * 3 + [5] * 5 + [6] * 6 + [7]
    for _ in range(1000):
        adaptive.succeeded()
    assert adaptive.limit == 16
    for _ in range(10):
        clock.now += 1
        adaptive.overloaded(clock.now)
    assert adaptive.limit == 1


class Money:
    """What a ledger would have of reservations and costs, by row."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.rows: list[float] = []
        self.open = 0

    @property
    def total(self) -> float:
        return math.fsum(self.rows)

    def start(self, worst: float) -> Callable[[], Awaitable[int | None]]:
        async def reserve() -> int | None:
            if self.total + worst > self.limit:
                return None
            self.rows.append(worst)
            self.open += 1
            return len(self.rows) - 1

        return reserve

    def settle(self, row: int, cost: float) -> None:
        self.rows[row] = cost
        self.open -= 1


@given(
    limit=st.floats(0.001, 5),
    costs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40),
    concurrency=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_all_that_can_be_sent_is_sent_and_never_more_at_once_than_allowed(
    limit: float, costs: list[tuple[float, float]], concurrency: int
) -> None:
    """Each call reserves its worst case and then costs a share of it; calls overlap as the gate lets them."""
    money = Money(limit)
    turned_away = 0
    highest = 0.0

    async def one(gate: Gate, worst: float, share: float) -> None:
        nonlocal turned_away, highest
        try:
            async with gate.slot(0, money.start(worst)) as row:
                highest = max(highest, money.total)
                assert money.open <= concurrency
                await asyncio.sleep(0)
                money.settle(row, worst * share)
        except BudgetSpent:
            turned_away += 1

    async def main() -> None:
        gate = Gate(Adaptive(concurrency), None, None)
        await asyncio.gather(*(one(gate, worst, share) for worst, share in costs))
        assert gate.exhausted == (turned_away > 0)

    asyncio.run(main())
    assert highest <= limit
    assert money.open == 0
    if turned_away == 0:
        assert money.total == pytest.approx(math.fsum(worst * share for worst, share in costs))


def test_a_call_waits_for_what_others_may_give_back() -> None:
    """Two calls of at most 0.6 each fit in 1.0 one after the other when the first costs 0.1, not at once."""

    async def main() -> list[int]:
        money = Money(1.0)
        gate = Gate(Adaptive(8), None, None)
        at_once = []

        async def one() -> None:
            async with gate.slot(0, money.start(0.6)) as row:
                at_once.append(money.open)
                await asyncio.sleep(0.01)
                money.settle(row, 0.1)

        await asyncio.gather(*(one() for _ in range(5)))
        return at_once

    assert asyncio.run(main()) == [1] * 5


def test_silence_is_counted_from_the_first_attempt_without_a_reply() -> None:
    now = 1000.0
    silence = Silence(60.0, clock=lambda: now)
    assert not silence.over  # nothing was asked, however long ago it was made
    now = 5000.0
    assert not silence.goes_on(4999.0)
    now = 5008.0
    assert not silence.goes_on(5008.0)
    assert silence.lasted == 9.0
    now = 5010.0
    assert silence.goes_on(5010.0)  # it is said after ten seconds
    assert not silence.goes_on(5010.0)  # and again after thirty
    now = 5040.0
    assert silence.goes_on(5040.0)
    assert not silence.over
    now = 5059.0
    assert silence.over
    silence.broken()
    assert (silence.over, silence.lasted, silence.attempts) == (False, 0.0, 0)


def test_the_first_word_comes_after_ten_seconds_of_silence_and_the_next_thirty_later() -> None:
    now = 0.0
    silence = Silence(60.0, clock=lambda: now)
    said = []
    for now in (0.0, 9.9, 10.0, 10.1, 39.9, 40.0, 69.9, 70.0):
        if silence.goes_on(0.0):
            said.append(now)
    assert said == [10.0, 40.0, 70.0]
    assert silence.attempts == 8
    silence.broken()
    now = 75.0
    assert not silence.goes_on(74.0)
    now = 84.0
    assert silence.goes_on(84.0)  # counted anew, and said anew
    now = 134.0
    assert silence.over  # sixty seconds, no more
    now = 133.9
    assert not silence.over
    patient = Silence(0.0, clock=lambda: 10**9)
    patient.goes_on(0.0)
    assert not patient.over  # 0: never


def test_the_gate_keeps_to_rates_and_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """61 a minute are one a second; the clock of the rates stands still."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    async def free() -> int:
        return 1

    async def main() -> None:
        gate = Gate(Adaptive(4), TokenBucket(61, FakeClock()), TokenBucket(61, FakeClock()))
        for tokens in (10, 1, 40):
            async with gate.slot(tokens, free):
                pass
        gate.used(40, 10)
        async with gate.slot(1, free):
            pass
        gate.pause(30.0)
        gate.pause(2.0)
        async with gate.slot(0, free):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(limits.asyncio, "sleep", sleep)
        patch.setattr(limits.time, "monotonic", lambda: 100.0 + sum(slept))
        asyncio.run(main())
    # Ten tokens at once, in debt; then each waits for all before it, but for the thirty that were given back; the rest
    # of the pause is slept after that.
    assert slept == [0.0, 10.0, 11.0, 21.0, 21.0, 9.0]


def test_a_gate_without_rates_waits_for_nothing_but_its_turn() -> None:
    async def main() -> None:
        gate = Gate(Adaptive(1), None, None)
        gate.used(10, 5)  # no rate to correct

        asked = []

        async def full() -> int | None:
            asked.append(1)
            return None

        for _ in range(2):  # and from then on, without asking
            with pytest.raises(BudgetSpent):
                async with gate.slot(0, full):
                    pass
            assert gate.exhausted
        assert asked == [1]

    asyncio.run(main())


def test_a_judge_is_asked_eight_times_as_long_as_its_answer_may_take() -> None:
    policy = RetryPolicy()
    assert policy == RetryPolicy(attempts=8, first_wait=0.5, longest_wait=30.0, longest_pause=600.0, deadline=None)
    assert [policy.seconds(limit) for limit in (0, 100)] == [120.0, 140.0]  # it reads, then writes five tokens a second
    assert RetryPolicy(deadline=7.0).seconds(10**6) == 7.0


def test_a_slow_rate_still_lets_one_through_at_once() -> None:
    bucket = TokenBucket(6.1, FakeClock())  # one in ten seconds
    assert [round(bucket.take(1), 6) for _ in range(3)] == [0.0, 10.0, 20.0]


def test_a_full_bucket_holds_no_more() -> None:
    clock = FakeClock()
    bucket = TokenBucket(6100, clock)
    clock.now += 3600
    assert bucket.take(100) == 0.0
    assert bucket.take(100) == pytest.approx(1.0)
    clock.now += 0.5
    assert bucket.take(50) == pytest.approx(1.0)


def test_what_was_sent_before_a_cut_cuts_no_more() -> None:
    clock = FakeClock()
    adaptive = Adaptive(9, clock)
    adaptive.overloaded(clock.now)
    assert adaptive.limit == 4
    adaptive.overloaded(clock.now - 0.001)
    assert adaptive.limit == 4
    for _ in range(3):
        adaptive.succeeded()
    adaptive.overloaded(clock.now)  # sent when it was cut: after it
    assert adaptive.limit == 2
    adaptive.succeeded()
    assert adaptive.limit == 2  # successes before the cut do not count
    adaptive.succeeded()
    assert adaptive.limit == 3


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after": "0.25"}) == 0.25
    assert retry_after({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after-ms": "inf", "retry-after": "2"}) == 2.0
    assert retry_after({"retry-after-ms": "-1"}) == 0.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00"}, now=1445412470.0) == 10.0  # GMT where none is said
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0100"}, now=1445412480.0) == 3600.0
    assert retry_after({"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}) is None
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999999999"}) is None
    # 2015-10-21 07:28:00 GMT is 1445412480.
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, now=1445412470.0) == 10.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, now=1445412999.0) == 0.0


def test_a_date_without_a_zone_is_gmt_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00"}, now=1445412470.0) == 10.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_waits_grow_and_are_jittered_in_full() -> None:
    policy = RetryPolicy(first_wait=0.5, longest_wait=30)
    assert [policy.wait(n, 1.0) for n in (1, 2, 3, 6, 7, 8, 2000)] == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0, 30.0]
    assert policy.wait(3, 0.0) == 0.0
    assert policy.wait(3, 0.25) == 0.5


def test_an_attempt_has_time_for_the_answer_that_it_may_give() -> None:
    assert RetryPolicy().seconds(88) == pytest.approx(137.6)
    assert RetryPolicy().seconds(32_768) == pytest.approx(6673.6)
    assert RetryPolicy(deadline=7.0).seconds(32_768) == 7.0
