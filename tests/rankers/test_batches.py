"""Verdicts by the provider's batch API: the same as one by one, at half the price, and never paid for twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from asking import CONTEXT, PRICE, QUICK, Verdicts, by_length, item, rows, verdicts
from batch_server import BatchServer, Fate
from loopback import Body, Fault, Loopback, answer, prefers, shown
from processes import killed_itself

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.curation.metering import MeteredLedger
from cyclealign.judge import batch_desk, batches
from cyclealign.judge.costs import PROBES
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import BudgetExhausted, CandidateSet, Ranking, Unranked, UserError

PROBED = ("I do not know.", "Paris.")
LISTS = [item(i) for i in range(12)]
# Where a process dies: a function that it calls at that step, before or after, at which call of it.
STEPS = [
    ("Ledger.start_batch", "after", 1),
    ("BatchClient.upload", "after", 1),
    ("BatchTable.filed", "after", 1),
    ("BatchClient.create", "after", 1),
    ("BatchTable.sent", "after", 1),
    ("BatchClient.create", "after", 3),
    ("BatchClient.look", "after", 2),
    ("BatchClient.lines", "before", 1),
    ("Ledger.received", "after", 2),
    ("BatchTable.ended", "after", 1),
    ("Ledger.done", "after", 2),
]
PROGRAM = """
import asyncio, inspect, os, signal, sys
from pathlib import Path
from asking import PRICE, verdicts, item
from cyclealign.judge import batch_desk, batches
from cyclealign.judge.batch_client import BatchClient
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.ledger_batches import BatchTable

left = {count}
def dies(where):
    global left
    left -= where == {when!r}
    if where == {when!r} and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

owner, name = {step!r}.split(".")
owner = globals()[owner]
work = getattr(owner, name)
turn = asyncio.Lock()
async def waited(*values, **more):
    async with turn:  # so that the others are still to do when it dies
        dies("before")
        found = await work(*values, **more)
        dies("after")
    return found
def at_once(*values, **more):
    dies("before")
    found = work(*values, **more)
    dies("after")
    return found
setattr(owner, name, waited if inspect.iscoroutinefunction(work) else at_once)
batch_desk.MOST_REQUESTS, batches.SETTLING = {most}, 1.0
verdicts(Path(sys.argv[1]), sys.argv[2], [item(i) for i in range({lists})], passes={passes}, price=PRICE, batch=True)
"""


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SETTLING", 1.0)


def killed(
    ledger: Path, server: Loopback, step: str, when: str, count: int, *, lists: int, most: int, passes: int = 2
) -> bool:
    """A process that ranks in batches, until it dies at a step; False where it has ended before."""
    program = PROGRAM.format(step=step, when=when, count=count, lists=lists, most=most, passes=passes)
    return killed_itself(program, ledger.parent, str(ledger), server.url)


def asked(server: Loopback) -> Counter[tuple[str, ...]]:
    """How often the server was asked about each presentation."""
    found = Counter(tuple(shown(body)) for body in server.requests)
    del found[PROBED]
    return found


def right(found: Verdicts, lists: Sequence[CandidateSet]) -> bool:
    ranked = [found[given.prompt.id] for given in lists]
    return all(isinstance(v, Ranking) and v.order == by_length(g) for v, g in zip(ranked, lists, strict=True))


def booked(ledger: Path) -> float:
    with Ledger(ledger, read_only=True) as opened:
        spend = opened.spend()
        assert (spend.unfinished, spend.reserved_usd, spend.repeated) == (0, 0, 0)
        assert opened.batches.under_way() == []
        return spend.usd


def billed(server: BatchServer) -> float:
    return server.usd(PRICE.input, PRICE.output)


def test_a_batch_gives_the_verdicts_of_the_same_calls_one_by_one_at_half_the_price(tmp_path: Path) -> None:
    with BatchServer(judge=prefers(len)) as server:
        one_by_one = verdicts(tmp_path / "a.sqlite", server, LISTS, passes=2, price=PRICE)
        dear, questions = billed(server), asked(server)
        server.bill.clear()
        server.requests.clear()
        found = verdicts(tmp_path / "b.sqlite", server, LISTS, passes=2, price=PRICE, batch=True)
        assert found == one_by_one
        assert asked(server) == questions
        assert len(server.batches) == 1
        assert len(server.batched) == 2 * len(LISTS)
        assert booked(tmp_path / "b.sqlite") == pytest.approx(billed(server), abs=1e-12)
    (probe, *calls), halves = server.bill, rows(tmp_path / "b.sqlite", "SELECT batch, purpose FROM calls")
    assert probe[2] == 1.0  # online
    assert {share for _, _, share in calls} == {0.5}
    assert Counter(halves) == {(None, "probe"): 1, (1, "rank"): 24}
    whole = server.usd(PRICE.input, PRICE.output) - (probe[0] * PRICE.input + probe[1] * PRICE.output) / 1e6
    online = dear - (probe[0] * PRICE.input + probe[1] * PRICE.output) / 1e6
    assert whole == pytest.approx(online / 2, rel=1e-12)


def test_what_is_on_record_is_found_whichever_way_it_was_asked(tmp_path: Path) -> None:
    with BatchServer(judge=prefers(len)) as server:
        verdicts(tmp_path / "l.sqlite", server, LISTS[:4])
        verdicts(tmp_path / "l.sqlite", server, LISTS[:8], batch=True)
        found = verdicts(tmp_path / "l.sqlite", server, LISTS)
        assert right(found, LISTS)
        assert set(asked(server).values()) == {1}
        assert len(server.batched) == 4


def test_repairs_go_into_the_next_batch(tmp_path: Path) -> None:
    seen: set[tuple[str, ...]] = set()

    def script(number: int, body: Body) -> Fault | None:
        first = tuple(shown(body)) not in seen
        seen.add(tuple(shown(body)))
        return Fault(text="no idea") if number and first and number % 3 == 0 else None

    with BatchServer(judge=prefers(len), script=script) as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        assert right(found, LISTS)
        sizes = [len(list(server.lines(b))) for b in server.batches.values()]
        assert sizes == [12, 4]
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)
    repaired = rows(tmp_path / "l.sqlite", "SELECT batch, count(*) FROM calls WHERE purpose = 'repair' GROUP BY batch")
    assert repaired == [(2, 4)]


# Kills -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "when", "count"), STEPS, ids=lambda part: str(part))
def test_a_process_killed_at_any_step_pays_for_nothing_twice(
    step: str, when: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_desk, "MOST_REQUESTS", 8)
    ledger = tmp_path / "l.sqlite"
    with BatchServer(judge=prefers(len)) as server:
        assert killed(ledger, server, step, when, count, lists=len(LISTS), most=8)
        found = verdicts(ledger, server, LISTS, passes=2, price=PRICE, batch=True)
        assert right(found, LISTS)
        assert set(asked(server).values()) == {1}
        assert asked(server).total() == 2 * len(LISTS)
        assert booked(ledger) == pytest.approx(billed(server), abs=1e-12)


# In this order each of them comes: the first batch is brought in before the other two are sent again.
IN_A_ROW = [
    ("Ledger.start_batch", "after", 1),
    ("BatchClient.upload", "after", 1),
    ("BatchTable.filed", "after", 1),
    ("BatchClient.create", "after", 1),
    ("BatchTable.sent", "after", 1),
    ("BatchClient.create", "after", 2),
    ("BatchClient.look", "after", 2),
    ("BatchClient.lines", "before", 1),
    ("Ledger.received", "after", 2),
    ("BatchTable.ended", "after", 1),
    ("Ledger.done", "after", 2),
]


@pytest.mark.parametrize(
    ("lists", "most", "steps"),
    [(60, 20, IN_A_ROW[3:6]), pytest.param(2000, 700, IN_A_ROW, marks=[pytest.mark.long, pytest.mark.slow])],
)
def test_three_batches_with_kills_in_a_row_and_one_of_them_half_failed(
    lists: int, most: int, steps: list[tuple[str, str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts equal those of calls one by one, nothing answered is asked again, and ranking costs the half."""
    monkeypatch.setattr(batch_desk, "MOST_REQUESTS", most)
    answered: Counter[tuple[str, ...]] = Counter()

    def script(number: int, body: Body) -> Fault | None:
        if most < number <= 2 * most and number % 2:
            return Fault(status=500, body='{"error": {"message": "overloaded"}}')
        answered[tuple(shown(body))] += 1
        return None

    sets = [item(i) for i in range(lists)]
    with BatchServer(judge=prefers(len)) as server:
        expected = verdicts(tmp_path / "online.sqlite", server, sets, price=PRICE)
    with BatchServer(judge=prefers(len), script=script) as server:
        for step, when, count in steps:
            assert killed(tmp_path / "l.sqlite", server, step, when, count, lists=lists, most=most, passes=1)
        assert verdicts(tmp_path / "l.sqlite", server, sets, price=PRICE, batch=True) == expected
        del answered[PROBED]
        assert (len(answered), set(answered.values())) == (lists, {1})
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-9)
    cost = "SELECT sum(usd) FROM calls WHERE purpose = 'rank'"
    ((half,),), ((whole,),) = rows(tmp_path / "l.sqlite", cost), rows(tmp_path / "online.sqlite", cost)
    assert half == pytest.approx(whole / 2, rel=1e-9)


@pytest.mark.parametrize("what", ["upload", "create", "look", "lines"])
def test_an_answer_that_never_arrives_sends_nothing_twice(what: str, tmp_path: Path) -> None:
    with BatchServer(judge=prefers(len), drops={what}) as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        assert right(found, LISTS)
        assert len(server.batches) == 1
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)


def test_a_run_that_goes_on_one_by_one_cancels_what_is_under_way_and_keeps_its_answers(tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    with BatchServer(judge=prefers(len), fate=lambda _: Fate(answered=5)) as server:
        assert killed(ledger, server, "BatchTable.sent", "after", 1, lists=len(LISTS), most=100)
        found = verdicts(ledger, server, LISTS, passes=2, price=PRICE)
        assert right(found, LISTS)
        assert [b["status"] for b in server.batches.values()] == ["cancelled"]
        assert (set(asked(server).values()), len(server.batched)) == ({1}, 5)
        assert booked(ledger) == pytest.approx(billed(server), abs=1e-12)


def test_a_batch_that_the_provider_has_lost_is_booked_at_its_worst_and_asked_again(tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    with BatchServer(judge=prefers(len)) as server:
        assert killed(ledger, server, "BatchTable.sent", "after", 1, lists=len(LISTS), most=100)
        server.batches["batch_0"]["id"] = server.batches["batch_0"]["status"] = "x"
        server.batches["another"] = server.batches.pop("batch_0")
        assert right(verdicts(ledger, server, LISTS, passes=2, price=PRICE, batch=True), LISTS)
        ((lost,),) = rows(ledger, "SELECT sum(reserved_usd) FROM calls WHERE error = 'the provider has lost its batch'")
        assert booked(ledger) == pytest.approx(billed(server) + lost, abs=1e-12)
        assert lost > 0


def test_two_processes_do_not_carry_the_same_batches(tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    with BatchServer(judge=prefers(len)) as server, Ledger(ledger):
        verdicts(ledger, server, LISTS[:1], batch=True)
        held = batches.Batches(Ledger(ledger), None, rules(server)).lock()  # type: ignore[arg-type]
        with pytest.raises(UserError, match="sending batches to model 'judge' is in use by another process"):
            verdicts(ledger, server, LISTS, batch=True)
        held.close(remove=True)
        assert right(verdicts(ledger, server, LISTS, batch=True), LISTS)


def rules(server: Loopback) -> batches.Rules:
    return batches.Rules(endpoint=server.url, model="judge", retry=QUICK, outage=1.0)


# Batches that end otherwise ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (Fate(status="expired", answered=5), "in a batch: This request could not be executed."),
        (Fate(status="cancelled", answered=5), "in a batch: This request could not be executed."),
        (Fate(status="failed", answered=0, error=("invalid_model", "no such model")), "was refused: no such model"),
    ],
)
def test_lists_that_a_batch_leaves_out_have_a_reason_and_cost_nothing(fate: Fate, why: str, tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    with BatchServer(judge=prefers(len), fate=lambda n: fate if n == 0 else Fate()) as server:
        found = verdicts(ledger, server, LISTS, price=PRICE, batch=True)
        left_out = [v for v in found.values() if isinstance(v, Unranked)]
        assert len(left_out) == len(LISTS) - (fate.answered or 0)
        assert {(v.reason, why in v.detail) for v in left_out} == {("error", True)}
        assert booked(ledger) == pytest.approx(billed(server), abs=1e-12)
        # The next start asks about them, and about nothing else.
        assert right(verdicts(ledger, server, LISTS, price=PRICE, batch=True), LISTS)
        assert set(asked(server).values()) == {1}
        assert booked(ledger) == pytest.approx(billed(server), abs=1e-12)


def test_of_a_batch_that_half_failed_each_call_fares_by_its_own_failure(tmp_path: Path) -> None:
    failed: Counter[tuple[str, ...]] = Counter()

    def script(number: int, body: Body) -> Fault | None:
        failed[tuple(shown(body))] += 1
        if number and number % 4 == 0 and failed[tuple(shown(body))] == 1:
            return Fault(status=500, body='{"error": {"message": "overloaded"}}')
        if number == 7:
            return Fault(status=400, body='{"error": {"message": "maximum context length is 10 tokens"}}')
        return Fault(drop=True) if number == 6 else None

    with BatchServer(judge=prefers(len), script=script) as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        refused = [v for v in found.values() if isinstance(v, Unranked)]
        assert [v.detail for v in refused] == ["HTTP 400: maximum context length is 10 tokens"]
        assert right(found, [given for given in LISTS if given.prompt.id != refused[0].prompt_id])
        sizes = [len(list(server.lines(b))) for b in server.batches.values()]
        assert sizes == [12, 4]
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:  # of one nobody said whether it is billed
        assert ledger.spend().usd >= billed(server)


def test_a_provider_without_batches_is_one_line_and_costs_nothing(tmp_path: Path) -> None:
    with BatchServer(judge=prefers(len), serves=False) as server:
        with pytest.raises(UserError, match=r"takes no batch \(HTTP 404.*set black_box.batch=false"):
            verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)
        assert right(verdicts(tmp_path / "l.sqlite", server, LISTS), LISTS)


# What fits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most"), [("MOST_REQUESTS", 5), ("MOST_BYTES", 7_000)])
def test_files_stay_within_the_limits_of_the_provider(
    name: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_desk, name, most)
    with BatchServer(judge=prefers(len), most_requests=11) as server:
        assert right(verdicts(tmp_path / "l.sqlite", server, LISTS, batch=True), LISTS)
        files = [server.files[b["input_file_id"]][1] for b in server.batches.values()]
        assert len(files) > 2
        assert all(len(f.splitlines()) <= 5 if name == "MOST_REQUESTS" else len(f) <= most for f in files)


def test_a_batch_that_the_provider_finds_too_large_is_made_smaller(tmp_path: Path) -> None:
    with BatchServer(judge=prefers(len)) as server:
        verdicts(tmp_path / "a.sqlite", server, LISTS[:1])
        words = sum(len(m["content"].split()) for m in server.requests[-1]["messages"])
    with BatchServer(judge=prefers(len), most_tokens=5 * words) as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        assert right(found, LISTS)
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)
        assert {b["status"] for b in server.batches.values()} == {"failed", "completed"}


def test_a_budget_splits_a_batch_and_is_held(tmp_path: Path) -> None:
    with BatchServer(judge=prefers(len)) as server:
        verdicts(tmp_path / "a.sqlite", server, LISTS, price=PRICE, batch=True)
        reserved = rows(tmp_path / "a.sqlite", "SELECT sum(reserved_usd) FROM calls")[0][0]
        cost = billed(server)
    budget = (cost + reserved) / 2
    with BatchServer(judge=prefers(len)) as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True, budget_usd=budget)
        assert right(found, LISTS)
        assert len(server.batches) > 1
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)
    with BatchServer(judge=prefers(len)) as server:
        with pytest.raises(BudgetExhausted):
            verdicts(tmp_path / "m.sqlite", server, LISTS, price=PRICE, batch=True, budget_usd=cost / 2)
        assert billed(server) <= cost / 2
        assert booked(tmp_path / "m.sqlite") == pytest.approx(billed(server), abs=1e-12)


def test_a_measurement_in_batches_makes_no_more_calls_than_it_may(tmp_path: Path) -> None:
    with (
        BatchServer(judge=prefers(len)) as server,
        MeteredLedger(tmp_path / "l.sqlite", most_calls=PROBES + 5) as ledger,
    ):
        box = BlackBoxConfig(model="judge", base_url=server.url, batch=True)
        found = list(BlackBoxRanker(box, load_template("rank"), ledger, retry=QUICK).rank(LISTS, CONTEXT))
        assert sum(isinstance(v, Ranking) for v in found) == 5
        assert {v.reason for v in found if isinstance(v, Unranked)} == {"budget"}
        assert (len(server.batched), ledger.used, ledger.reset().calls) == (5, 5, 5)


def test_a_further_attempt_that_a_measurement_has_no_call_for_is_no_empty_budget(tmp_path: Path) -> None:
    """The list has no verdict, and the measurement goes on, as one by one."""
    failing = Fault(status=500, body='{"error": {"message": "overloaded"}}')
    for batch in (False, True):
        with (
            BatchServer(judge=prefers(len), script=lambda n, _: failing if n == 3 else None) as server,
            MeteredLedger(tmp_path / f"{batch}.sqlite", most_calls=PROBES + len(LISTS)) as ledger,
        ):
            box = BlackBoxConfig(model="judge", base_url=server.url, batch=batch, max_concurrency=1)
            found = list(BlackBoxRanker(box, load_template("rank"), ledger, retry=QUICK).rank(LISTS, CONTEXT))
            assert sum(isinstance(v, Ranking) for v in found) == len(LISTS) - 1
            assert [v.reason for v in found if isinstance(v, Unranked)] == ["budget"]


def test_nobody_waits_for_those_who_do_not_come(tmp_path: Path) -> None:
    """Lists of one candidate, and calls that are on record."""
    short = CandidateSet(LISTS[0].prompt, LISTS[0].candidates[:1])
    with BatchServer(judge=prefers(len)) as server:
        verdicts(tmp_path / "l.sqlite", server, LISTS[1:6])
        found = verdicts(tmp_path / "l.sqlite", server, [short, *LISTS[1:]], batch=True)
        assert right(found, LISTS[1:])
        assert isinstance(found[short.prompt.id], Unranked)


def test_the_file_is_what_one_by_one_would_have_sent(tmp_path: Path) -> None:
    with BatchServer(judge=lambda body: answer(body, range(len(shown(body))))) as server:
        verdicts(tmp_path / "a.sqlite", server, LISTS[:3], max_concurrency=1)
        sent = {json.dumps(body, sort_keys=True) for body in server.requests[1:]}
        verdicts(tmp_path / "b.sqlite", server, LISTS[:3], batch=True)
        (batch,) = server.batches.values()
        lines = list(server.lines(batch))
        assert {json.dumps(line["body"], sort_keys=True) for line in lines} == sent
        name, _ = server.files[batch["input_file_id"]]
        assert name == f"{batch['metadata']['cyclealign']}.jsonl"
