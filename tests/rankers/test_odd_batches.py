"""Batches of a provider that does not keep its word: lines that are missing, doubled or of nobody, states that mean
nothing, numbers that no counter holds. A list has its verdict or its reason, and every cent is booked once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asking import PRICE, Verdicts, by_length, item, verdicts
from batch_server import BatchServer, Fate
from loopback import prefers, shown

from cyclealign.judge import batches
from cyclealign.judge.ledger import Ledger
from cyclealign.types import Unranked

Line = dict[str, Any]
LISTS = [item(i) for i in range(12)]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SETTLING", 0.05)


def as_it_is(lines: list[Line]) -> list[Line]:
    return lines


@dataclass
class OddServer(BatchServer):
    """twisted: what becomes of the replies of the first batch. said: put into every batch that it speaks of."""

    twisted: Callable[[list[Line]], list[Line]] = as_it_is
    said: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch

    def finish(self, batch: dict[str, Any], fate: Fate) -> None:
        super().finish(batch, fate)
        name = batch.get("output_file_id")
        if batch["id"] == "batch_0" and name is not None:
            lines = [json.loads(line) for line in self.files[name][1].decode().splitlines()]
            text = "".join(json.dumps(line) + "\n" for line in self.twisted(lines))
            self.files[name] = (name, text.encode())

    def moved(self, name: str) -> Any:
        found = super().moved(name)
        return found if found.body is None else type(found)(body=json.dumps(self.said(json.loads(found.body))))


def right(found: Verdicts) -> bool:
    return all(getattr(found[given.prompt.id], "order", None) == by_length(given) for given in LISTS)


def booked(ledger: Path) -> float:
    with Ledger(ledger, read_only=True) as opened:
        spend = opened.spend()
        assert (spend.unfinished, spend.reserved_usd, opened.batches.under_way()) == (0, 0, [])
        return spend.usd


def billed(server: BatchServer) -> float:
    return server.usd(PRICE.input, PRICE.output)


def of_nobody(lines: list[Line]) -> list[Line]:
    """Ids that were never asked: of no row, of rows that may come, of none that could be."""
    ids = ["0", "99999", "9" * 30, "9" * 5000, "-1", "x", "", "١"]
    return [lines[0] | {"custom_id": i} for i in ids] + lines


def failed_with_200(lines: list[Line]) -> list[Line]:
    error = {"error": {"message": "engine overloaded", "code": 503}}
    first = lines[0] | {"response": {"status_code": 200, "request_id": "r", "body": error}}
    return [first, *lines[1:]]


@pytest.mark.parametrize(
    ("twisted", "sizes", "lost"),
    [
        (of_nobody, [12], 0),
        (lambda lines: [*lines, *lines], [12], 0),  # twice the same
        (lambda lines: lines[2:], [12, 2], 2),  # never said, so perhaps billed
        (lambda _: [], [12, 12], 12),
        (lambda lines: [*lines[1:], lines[0] | {"response": None, "error": None}], [12, 1], 1),
        (lambda lines: [*lines[1:], lines[0] | {"response": {"status_code": "200"}}], [12, 1], 1),
    ],
    ids=["ids of nobody", "twice", "two missing", "all missing", "an empty line", "odd status"],
)
def test_every_list_has_its_verdict_and_what_may_have_been_billed_is_booked(
    twisted: Callable[[list[Line]], list[Line]], sizes: list[int], lost: int, tmp_path: Path
) -> None:
    with OddServer(judge=prefers(len), twisted=twisted) as server:
        assert right(verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True))
        assert [len(list(server.lines(b))) for b in server.batches.values()] == sizes
        assert booked(tmp_path / "l.sqlite") >= billed(server) - 1e-12
        times = Counter(tuple(shown(body)) for body in server.batched)
        assert sorted(times.values()) == [1] * (12 - lost) + [2] * lost


def test_an_error_under_status_200_is_no_answer_and_is_not_booked(tmp_path: Path) -> None:
    with OddServer(judge=prefers(len), twisted=failed_with_200) as server:
        assert right(verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True))
        assert [len(list(server.lines(b))) for b in server.batches.values()] == [12, 1]
        server.bill.pop(-2)  # of the last answer of the first batch, which never came
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)


def test_a_batch_of_which_there_are_errors_alone_gives_each_list_its_reason(tmp_path: Path) -> None:
    with OddServer(judge=prefers(len), fate=lambda _: Fate(status="expired", answered=0)) as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        assert {type(v) for v in found.values()} == {Unranked}
        assert len(server.batches) == 1
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)


@pytest.mark.parametrize(
    "said",
    [
        lambda b: b | {"request_counts": {"total": 12, "completed": 10**40, "failed": 1}},
        lambda b: b | {"request_counts": {"completed": -5, "failed": float("inf")}},
        lambda b: b | {"status": b["status"].upper()},
        lambda b: b | {"request_counts": [], "errors": "none", "metadata": 3},
    ],
    ids=["too many", "no numbers", "upper case", "other types"],
)
def test_what_it_says_of_a_batch_that_is_odd_changes_nothing(said: Callable[[Any], Any], tmp_path: Path) -> None:
    with OddServer(judge=prefers(len), said=said) as server:
        assert right(verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True))
        assert booked(tmp_path / "l.sqlite") == pytest.approx(billed(server), abs=1e-12)


def test_ids_and_states_that_no_ledger_can_hold_are_no_batch(tmp_path: Path) -> None:
    """Half of a surrogate pair, a line feed: asked again, as after any other odd answer."""
    odd = ["half \ud800", "two\nlines"]

    def said(batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {"status": odd.pop()} if odd else batch

    with OddServer(judge=prefers(len), said=said) as server:
        assert right(verdicts(tmp_path / "l.sqlite", server, LISTS, batch=True))
        assert odd == []
