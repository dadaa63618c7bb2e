"""Money, simulated: lying servers, two processes, kills, thinking beyond the limit. No network, the real ledger."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.judge import paid_calls
from cyclealign.judge.call import Call
from cyclealign.judge.chat import ChatReply
from cyclealign.judge.client import Answer
from cyclealign.judge.costs import input_bound
from cyclealign.judge.failures import CallFailed, Failure
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import BudgetSpent, RetryPolicy
from cyclealign.judge.money import NOTHING, Charge, Money
from cyclealign.judge.usage import Usage

PRICE = Price(input=10.0, output=30.0)
BOX = BlackBoxConfig(model="judge", base_url="http://127.0.0.1:9/v1", price=PRICE)
LIMIT = 88
LIES = (
    {"prompt_tokens": 10**30},
    {"prompt_tokens": -5},
    {"prompt_tokens": None},
    {"prompt_tokens": 0},
    {"completion_tokens": "n/a"},
    {"completion_tokens": 10**9},
    {"completion_tokens": 0.5},
    {"total_tokens": 10**15},
)


@dataclass
class Server:
    """Bills when a call arrives. ``beyond``: most times the limit that it may think."""

    draw: random.Random
    beyond: float = 1.0
    bill: float = 0.0
    dead: bool = False
    excess: float = 0.0  # of the calls that were sent before the first reply beyond the limit came back
    shown: bool = False  # whether such a reply has come back
    sent: list[str] = field(default_factory=list)

    async def send(self, call: Call, deadline: float) -> Answer | Failure:
        if self.dead:
            await asyncio.sleep(3600)
        draw = self.draw
        given = draw.randint(len(call.messages[0]["content"]) // 4, input_bound(call))
        made = draw.randint(1, LIMIT)
        if self.beyond > 1 and draw.random() < 0.3:
            made = draw.randint(LIMIT, round(self.beyond * LIMIT))
        fails = draw.random() < 0.15
        cost = (given * PRICE.input + made * PRICE.output) / 1e6
        if not fails or draw.random() < 0.5:
            self.bill += cost
            if not self.shown:
                self.excess += max(0, made - LIMIT) * PRICE.output / 1e6
        self.sent.append(call.key)
        for _ in range(draw.randint(0, 5)):
            await asyncio.sleep(0)
        if fails:
            return Failure(detail="no reply", timed_out=True)
        self.shown = self.shown or made > LIMIT
        counts = {"prompt_tokens": given, "completion_tokens": made}
        if draw.random() < 0.2 and made <= LIMIT:
            counts |= draw.choice(LIES)
        choice = {"message": {"content": "x" * min(made, 40)}, "finish_reason": "stop"}
        return Answer(200, json.dumps({"choices": [choice], "usage": counts}))


def question(i: int) -> Call:
    return Call(
        endpoint="http://127.0.0.1/v1",
        model="judge",
        messages=[{"role": "user", "content": f"question {i} " * (10 + i % 7)}],
        schema=None,
        options={"max_tokens": LIMIT},
        purpose="rank",
    )


async def process(ledger: Path, budget: float, calls: range, killed_after: int | None, server: Server) -> None:
    """One process that asks; killed: whatever it has in flight is on its ledger as it was."""
    config = BlackBoxConfig(
        model="judge", base_url="http://127.0.0.1/v1", price=PRICE, budget_usd=budget, max_concurrency=4
    )
    with Ledger(ledger) as opened:
        paid = paid_calls.PaidCalls(config, opened, RetryPolicy(attempts=3, first_wait=0.0))

        async def one(i: int) -> None:
            with contextlib.suppress(CallFailed, BudgetSpent):
                await paid.reply(question(i))

        async with paid.open():
            tasks = [asyncio.create_task(one(i)) for i in calls]
            if killed_after is None:
                await asyncio.gather(*tasks)
                return
            while len(server.sent) < killed_after and not all(t.done() for t in tasks):
                await asyncio.sleep(0)
            server.dead = True
            left = ledger.with_name("left.sqlite")
            with sqlite3.connect(ledger) as now, sqlite3.connect(left) as copy:
                now.backup(copy)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(f"{ledger.name}{suffix}").unlink(missing_ok=True)
    shutil.move(left, ledger)


def simulate(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    server = Server(draw, beyond=draw.choice([1.0, 1.0, 3.0, 12.0]))

    @asynccontextmanager
    async def connected(*_: object) -> AsyncIterator[Server]:
        yield server

    monkeypatch.setattr(paid_calls, "connected", connected)
    monkeypatch.setattr("cyclealign.judge.limits.RetryPolicy.wait", lambda *_: 0.0)
    ledger = folder / f"{seed}.sqlite"
    budget = draw.uniform(0.02, 0.25)

    async def both() -> None:
        await asyncio.gather(
            process(ledger, budget, range(20), None, server), process(ledger, budget, range(10, 30), None, server)
        )

    if draw.random() < 0.6:
        asyncio.run(process(ledger, budget, range(20), draw.randint(1, 25), server))
        server.dead = False
    asyncio.run(both())
    with Ledger(ledger, read_only=True) as opened:
        total = opened.spend()
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(f"{ledger.name}{suffix}").unlink(missing_ok=True)
    # Excess that no reply has ever told of, nobody can know.
    untold = 0.0 if server.shown else server.excess
    assert total.usd + total.reserved_usd >= server.bill - untold - 1e-12, seed
    assert server.bill <= budget + server.excess + 1e-12, seed


def test_the_bill_is_never_above_the_budget_nor_the_ledger_below_the_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(25):
        simulate(tmp_path, seed, monkeypatch)


@pytest.mark.long
def test_a_thousand_simulated_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "long" not in request.config.getoption("markexpr"):
        pytest.skip("long: runs with -m long")
    for seed in range(1000):
        simulate(tmp_path, seed, monkeypatch)


@pytest.mark.parametrize(
    ("status", "billed"),
    [(408, True), (504, True), (524, True), (598, True), (599, True), (429, False), (502, False), (503, False)],
)
def test_a_gateway_that_gave_up_waiting_may_be_billed_for(status: int, billed: bool) -> None:
    """The model behind it went on: without a reply, such an attempt is booked at its worst case."""
    assert Failure(detail="no reply in time", status=status).perhaps_billed is billed


ASKED = question(0)  # 110 bytes in one message
SENT, BOUND = 110, 110 + len("user") + 16 + 16


def reply(given: int | None, made: int | None, text: str = "x" * 256, thoughts: str = "") -> ChatReply:
    usage = Usage(given, made)
    return ChatReply(text=text, end="natural", finish="stop", refused=False, usage=usage, thoughts=thoughts)


def cost(given: int, made: int) -> float:
    return pytest.approx((given * PRICE.input + made * PRICE.output) / 1e6, rel=1e-12)


def test_a_reply_is_booked_as_it_was_counted(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        money = Money(BOX, ledger, "judge")
        assert (len(ASKED.messages[0]["content"]), input_bound(ASKED)) == (SENT, BOUND)
        assert money.worst(ASKED) == cost(BOUND, LIMIT)
        assert money.charge(ASKED, reply(30, 7), 9.0) == Charge(cost(30, 7), Usage(30, 7))
        assert money.charge(ASKED, reply(BOUND, LIMIT), 9.0) == Charge(cost(BOUND, LIMIT), Usage(BOUND, LIMIT))
        assert money.charge(ASKED, reply(1, 2), 9.0) == Charge(cost(1, 2), Usage(1, 2))
        assert money.worst(ASKED) == cost(BOUND, LIMIT)  # nothing was billed beyond what was allowed
        assert ledger.fact("billed beyond the request: judge") is None
        assert Money(BOX.model_copy(update={"price": None}), ledger, "free").worst(ASKED) == 0.0


@pytest.mark.parametrize(
    ("told", "odd"),
    [
        (reply(None, 7), "the server does not say how many tokens it took"),
        (reply(30, None), "the server does not say how many tokens it took"),
        (reply(0, 7), "it counts 0 input tokens in 110 bytes"),
        (reply(2 * BOUND + 1, 7), f"it counts {2 * BOUND + 1} input tokens in 110 bytes"),
        (reply(30, 1), "it counts 1 output tokens in 256 bytes"),
        (reply(30, 2, thoughts="y"), "it counts 2 output tokens in 257 bytes"),
        (reply(30, 131_073), "it counts 131073 output tokens in 256 bytes"),
    ],
)
def test_an_account_that_cannot_be_is_booked_at_the_worst_case(tmp_path: Path, told: ChatReply, odd: str) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        money = Money(BOX, ledger, "judge")
        worst = money.worst(ASKED)
        assert money.charge(ASKED, told, 0.0) == Charge(pytest.approx(worst), NOTHING, odd)
        assert money.charge(ASKED, told, 2 * worst) == Charge(pytest.approx(2 * worst), NOTHING, odd)
        assert money.worst(ASKED) == worst


def test_what_is_billed_beyond_the_bounds_grows_the_worst_case(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        money = Money(BOX, ledger, "judge")
        row = ledger.start(ASKED, reserved_usd=1.0)
        assert row is not None
        assert money.charge(ASKED, reply(2 * BOUND, 7), 0.0) == Charge(cost(2 * BOUND, 7), Usage(2 * BOUND, 7))
        assert money.worst(ASKED) == cost(2 * BOUND, LIMIT)
        assert ledger.spend().reserved_usd == pytest.approx(2.0)
        money.charge(ASKED, reply(2 * BOUND, 7), 0.0)  # as known: nothing grows again
        assert ledger.spend().reserved_usd == pytest.approx(2.0)
        beyond = money.charge(ASKED, reply(30, 100), 0.0)
        assert beyond == Charge(cost(30, 100), Usage(30, 100), "100 output tokens at a limit of 88")
        assert money.worst(ASKED) == cost(2 * BOUND, 1600)
        more = 1600 * PRICE.output / 1e6
        assert ledger.spend().reserved_usd == pytest.approx(2.0 + more)
        money.charge(ASKED, reply(30, 99), 0.0)
        assert money.worst(ASKED) == cost(2 * BOUND, 1600)
        money.charge(ASKED, reply(30, 200), 0.0)
        assert money.worst(ASKED) == cost(2 * BOUND, 3200)
        assert ledger.spend().reserved_usd == pytest.approx(2.0 + 2 * more)
        assert Money(BOX, ledger, "judge").worst(ASKED) == cost(2 * BOUND, 3200)  # of another process too
        assert Money(BOX, ledger, "other").worst(ASKED) == cost(BOUND, LIMIT)
        money.charge(ASKED, reply(30, 131_072), 0.0)
        assert money.worst(ASKED) == cost(2 * BOUND, 131_072)  # no model writes more


def test_a_limit_of_one_token_can_be_gone_beyond(tmp_path: Path) -> None:
    asked = replace(ASKED, options={"max_tokens": 1})
    with Ledger(tmp_path / "l.sqlite") as ledger:
        money = Money(BOX, ledger, "judge")
        money.charge(asked, replace(reply(30, 2), text="A"), 0.0)
        assert money.worst(asked) == cost(BOUND, 32)


def test_a_prompt_that_the_server_cut_names_what_to_change(tmp_path: Path) -> None:
    asked = replace(ASKED, messages=[{"role": "user", "content": "word " * 40_000}])
    known = {"ollama": "start it with OLLAMA_CONTEXT_LENGTH", "other": "give the server a longer context"}
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for provider, change in known.items():
            money = Money(BOX.model_copy(update={"provider": provider}), ledger, "judge")
            said = money.cut_prompt(asked, reply(2048, 7))
            assert said is not None
            assert said.startswith(f"it read 2,048 tokens of a prompt of 40,000 words, and cut the rest; {change}")
            assert money.cut_prompt(asked, reply(40_000, 7)) is None


def test_without_a_price_nothing_costs(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        money = Money(BOX.model_copy(update={"price": None}), ledger, "judge")
        assert money.charge(ASKED, reply(30, 100), 0.0).usd == 0.0
        assert money.worst(ASKED) == 0.0
