"""What a server takes changes in the middle of a run, the process dies, another goes on: nothing is asked twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from asking import asking, by_length, item, verdicts
from loopback import Body, Fault, Loopback, prefers, shown
from processes import killed_itself

from cyclealign.judge.ledger import Ledger
from cyclealign.types import Ranking, UserError

SETS, BEFORE_THE_KILL, HALF = 24, 16, 20  # sets in two passes each; HALF: requests until the server changes
PROGRAM = """
import os, signal, sys
from pathlib import Path
from asking import verdicts, item
verdicts(Path(sys.argv[1]), sys.argv[2], [item(i) for i in range({sets})], passes=2, max_concurrency=4)
os.kill(os.getpid(), signal.SIGKILL)  # nothing is closed, nothing in flight
"""


def changes(*refused: str) -> Fault:
    return Fault(status=400, body=json.dumps({"error": {"message": f"Unsupported parameter: '{refused[0]}'"}}))


@pytest.mark.parametrize(
    "names", [("response_format",), ("max_tokens",), ("temperature",), ("max_tokens", "temperature", "response_format")]
)
def test_facts_that_change_at_half_of_a_run_repeat_no_call(names: tuple[str, ...], tmp_path: Path) -> None:
    answered: Counter[tuple[str, ...]] = Counter()

    def script(number: int, body: Body) -> Fault | None:
        name = next((n for n in names if n in body), None) if number >= HALF else None
        if name is not None:
            return changes(name)
        answered[tuple(shown(body))] += 1
        return None

    program = PROGRAM.format(sets=BEFORE_THE_KILL)
    ledger = tmp_path / "ledger.sqlite"
    sets = [item(i) for i in range(SETS)]
    with Loopback(judge=prefers(len), script=script) as server:
        assert killed_itself(program, tmp_path, str(ledger), server.url)
        refusals = len(server.requests) - answered.total()
        assert 0 < refusals <= 16 + 4 * len(names)  # the two passes of the eight lists that were under way
        found = verdicts(ledger, server, sets, passes=2, max_concurrency=4)
        # The next process has the facts; that a schema fails is tried anew at every start, at no cost.
        more = len(server.requests) - answered.total() - refusals
        assert (more > 0, more <= 16) == ("response_format" in names, True)
        asked = len(server.requests)
        assert verdicts(ledger, server, sets, passes=2) == found
        assert len(server.requests) - asked == 0
    questions = {texts: times for texts, times in answered.items() if texts != ("I do not know.", "Paris.")}
    assert len(questions) == 2 * SETS
    assert set(questions.values()) == {1}
    for given in sets:
        verdict = found[given.prompt.id]
        assert isinstance(verdict, Ranking)
        assert verdict.order == by_length(given)
    with Ledger(ledger, read_only=True) as opened:
        assert (opened.spend().repeated, opened.spend().unfinished) == (0, 0)
        of = f"{server.url} judge"
        assert all(opened.fact(f"refuses {name}: {of}") for name in names if name != "response_format")


def test_a_server_that_takes_the_old_name_again_is_followed_back(tmp_path: Path) -> None:
    def script(number: int, body: Body) -> Fault | None:
        name = "max_tokens" if 5 <= number < 12 else "max_completion_tokens"
        return changes(name) if name in body else None

    sets = [item(i) for i in range(12)]
    with Loopback(judge=prefers(len), script=script) as server:
        found = verdicts(tmp_path / "l.sqlite", server, sets, max_concurrency=1)
        assert all(isinstance(v, Ranking) for v in found.values())
        asked = len(server.requests)
        assert asked <= 1 + 12 + 2 * 2  # a list that was under way may have been asked in the old form too
        with asking(tmp_path / "l.sqlite", server) as ranker:
            ranker.preflight(3)
        assert len(server.requests) == asked


def test_thinking_that_outgrows_the_limit_later_gets_more_room(tmp_path: Path) -> None:
    """The probe was answered within little; the lists take more thought."""

    def script(number: int, body: Body) -> Fault | None:
        cut = number > 0 and body["max_tokens"] < 2000
        return Fault(text="<think> so much to consider", finish="length") if cut else None

    sets = [item(i) for i in range(6)]
    with Loopback(judge=prefers(len), script=script) as server:
        found = verdicts(tmp_path / "l.sqlite", server, sets, max_concurrency=1)
    assert all(isinstance(v, Ranking) for v in found.values())
    limits = [body["max_tokens"] for body in server.requests]
    assert limits[:2] == [80, 88]
    assert limits.count(88) <= 2  # the list that was under way beside it
    assert limits.count(2048) == 6
    with Loopback(judge=prefers(len), port=server.port) as later:  # what is on the ledger was cut by the smaller limit
        verdicts(tmp_path / "l.sqlite", later, [*sets, item(6)], max_concurrency=1)
    assert [body["max_tokens"] for body in later.requests] == [2048]


def test_a_limit_that_is_too_large_is_halved(tmp_path: Path) -> None:
    def script(_: int, body: Body) -> Fault | None:
        limit = body["max_tokens"]
        if limit > 1500:
            said = f"max_tokens is too large: {limit}. This model supports at most 1500 completion tokens"
            return Fault(status=400, body=json.dumps({"error": {"message": said, "param": "max_tokens"}}))
        return Fault(text="", finish="length") if limit < 600 else None

    with Loopback(judge=prefers(len), script=script) as server:
        (verdict,) = verdicts(tmp_path / "l.sqlite", server, [item(0)]).values()
    assert isinstance(verdict, Ranking)
    assert [body["max_tokens"] for body in server.requests] == [80, 2048, 1024, 1024]


def test_a_server_that_takes_no_limit_under_any_name_is_one_line(tmp_path: Path) -> None:
    def script(_: int, body: Body) -> Fault | None:
        name = next((n for n in ("max_tokens", "max_completion_tokens") if n in body), None)
        return changes(name) if name else None

    with Loopback(judge=prefers(len), script=script) as server:
        with pytest.raises(UserError, match=r"the limit of an answer: .*request=\{max_tokens: null\} to send none"):
            verdicts(tmp_path / "l.sqlite", server, [item(0)])
        assert len(server.requests) == 3
        (verdict,) = verdicts(tmp_path / "m.sqlite", server, [item(0)], request={"max_tokens": None}).values()
    assert isinstance(verdict, Ranking)
