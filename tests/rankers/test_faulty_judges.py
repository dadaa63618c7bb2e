"""Judges that think aloud, break off, refuse, echo keys, hang or go: each kind by value, over real HTTP."""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import CONTEXT, PRICE, asking, by_length, item, rows, verdicts
from loopback import Body, Fault, Loopback, after_probe, prefers, shown

from cyclealign.judge import ledger_waits, paid_calls
from cyclealign.judge.limits import RetryPolicy
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import BudgetExhausted, Candidate, Ranking, RunStopped, Unranked, UserError

SETS = [item(i) for i in range(6)]
KEY = "sk-canary-0123456789abcdef"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def everything_right(found: dict[str, Ranking | Unranked]) -> bool:
    return all(
        isinstance(v := found[s.prompt.id], Ranking) and v.order == by_length(s) for s in SETS if s.prompt.id in found
    )


def error(message: str = "no", **fields: Any) -> str:
    return json.dumps({"error": {"message": message, **fields}})


def choice(first: dict[str, Any], **more: Any) -> str:
    return json.dumps({"choices": [first]} | more)


# What a reply says --------------------------------------------------------------------------------------------


UNUSABLE: list[tuple[Fault, str, str]] = [
    (Fault(text="<think>\n[1] > [2] > [3]\n", finish="length"), "unusable", "cut off while it was thinking"),
    (Fault(text="[1] > [2] > [3]", finish="length"), "unusable", "cut off"),
    (Fault(text="[1] > [2] > [3]", finish="tool_calls"), "unusable", "did not end by itself"),
    (Fault(text="[1] > [2] > [3]", finish=None), "unusable", "finish_reason null"),
    (Fault(text="From worst to best:\n[1] > [2] > [3]"), "unusable", "other words"),
    (Fault(text="I'm sorry, I can't write\n[1] > [2] > [3]"), "refusal", "other words"),
    (Fault(text="Response 2 says:\n[1] > [2] > [3]"), "unusable", "other words"),
    (Fault(message={"content": None, "reasoning_content": "[1] > [2] > [3]"}), "unusable", "field reasoning_content"),
    (Fault(message={"content": "", "refusal": "no"}), "refusal", "refused"),
    (Fault(message={"content": [{"type": "refusal", "refusal": "no"}]}), "refusal", "refused"),
    (Fault(text="[1] > [2] > [3]", finish="SAFETY"), "refusal", "refused"),
    (Fault(message={"content": "\ud800[1]"}), "unusable", "no line"),
]


@pytest.mark.parametrize(("fault", "reason", "detail"), UNUSABLE)
def test_in_text_nothing_but_a_whole_ranking_is_a_verdict(ledger: Path, fault: Fault, reason: str, detail: str) -> None:
    probed = lambda number, _: None if number == 0 else fault  # noqa: E731
    with Loopback(structured=False, script=probed) as server:
        (verdict,) = verdicts(ledger, server, SETS[:1]).values()
    assert isinstance(verdict, Unranked)
    assert verdict.reason == reason
    assert detail in verdict.detail


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "thinking", "thinking": "[1] > [2]"}, {"type": "text", "text": '{"ranking":"3>2>1"}'}]},
        {"content": None, "reasoning_content": '{"ranking":"3>2>1"}'},
        {"content": "", "reasoning": '{"ranking":"3>2>1"}'},
        {"content": '<think>{"ranking":"1>2>3"}</think>{"ranking":"3>2>1"}'},
    ],
)
def test_under_a_schema_the_answer_is_found_where_servers_put_it(ledger: Path, message: dict[str, Any]) -> None:
    with Loopback(script=after_probe(Fault(message=message))) as server:
        (verdict,) = verdicts(ledger, server, SETS[:1]).values()
    assert isinstance(verdict, Ranking)
    last_first = shown(server.requests[1])[::-1]
    assert [next(c.text for c in SETS[0].candidates if c.id == i) for i in verdict.order] == last_first


def test_where_every_answer_stands_among_thoughts_the_probe_says_so(ledger: Path) -> None:
    hidden = Fault(message={"content": None, "reasoning_content": "I think [1] > [2]"})
    no_schema = Fault(status=400, body=error("response_format is not supported"))
    script = lambda _, body: no_schema if "response_format" in body else hidden  # noqa: E731
    with Loopback(script=script) as server, pytest.raises(UserError, match="stands in the field reasoning_content"):
        verdicts(ledger, server, SETS)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault(body=choice({"finish_reason": "error", "error": {"code": 502}, "message": {"content": ""}})),
        Fault(body=choice({"finish_reason": "error", "message": {"content": '{"ranking":"1>2>3"}'}})),
        Fault(body=choice({"message": {"content": '{"ranking":"1>2>3"}'}}, error={"code": 502})),
        Fault(body="null"),
        Fault(data='{"a": "é"}'.encode("utf-16"), headers={"Content-Type": "application/json; charset=utf-16"}),
        Fault(data=b"\xff\xfe\x00\xd8", headers={"Content-Type": "text/html; charset=hex"}),
        Fault(status=500, data=b"\xff\x9b", headers={"Content-Type": "text/html; charset=rot13"}),
        Fault(status=503, data=b'"\\ud800"', headers={"Content-Type": "application/json"}),
        Fault(wire=b"HTTP/1.1 2OO gone\r\n\r\n"),
        Fault(wire=b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"),
    ],
)  # fmt: skip
def test_what_is_no_reply_is_a_failed_attempt_and_tried_again(ledger: Path, fault: Fault) -> None:
    with Loopback(judge=prefers(len), script=after_probe(fault)) as server:
        found = verdicts(ledger, server, SETS[:1])
    assert everything_right(found)
    assert [s for (s,) in rows(ledger, "SELECT state FROM calls ORDER BY id")] == ["done", "failed", "done"]
    assert rows(ledger, "SELECT count(*) FROM calls WHERE purpose = 'repair'") == [(0,)]


def test_a_broken_reply_is_no_answer_at_a_second_start_either(ledger: Path) -> None:
    broken = Fault(body=json.dumps({"choices": [{"finish_reason": "error", "error": {"code": 502}, "message": {}}]}))
    with Loopback(judge=prefers(len), script=after_probe(*[broken] * 4)) as server:
        (first,) = verdicts(ledger, server, SETS[:1]).values()
        assert isinstance(first, Unranked)
        assert first.reason == "error"
        assert everything_right(verdicts(ledger, server, SETS[:1]))


def test_more_candidates_than_a_hundred_are_read_in_text(ledger: Path) -> None:
    texts = random.Random(0).sample(range(1, 102), 101)
    many = replace(item(1), candidates=tuple(Candidate(f"c{n}", "x" * n) for n in texts))
    with Loopback(judge=prefers(len), structured="refused") as server:
        found = verdicts(ledger, server, [many])
    assert found[many.prompt.id].order == by_length(many)  # type: ignore[union-attr]


# What a server refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (429, {"type": "insufficient_quota", "code": None}),
        (429, {"code": "insufficient_quota"}),
        (402, {}),
        (403, {"type": "billing_not_active"}),
        (400, {"message": "Your credit balance is too low to access the API"}),
    ],
)
def test_an_empty_account_costs_one_call(ledger: Path, status: int, fields: dict[str, Any]) -> None:
    empty = Fault(status=status, body=json.dumps({"error": {"message": "no money"} | fields}))
    with Loopback(script=lambda *_: empty) as server, pytest.raises(UserError, match=r"account of the key in \$OPENAI"):
        verdicts(ledger, server, SETS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_prompt_that_is_forbidden_is_refused_and_the_others_go_on(ledger: Path, known: bool) -> None:
    said = error("not allowed") if known else error("blocked by our content policy", code="moderation")

    def script(_: int, body: Body) -> Fault | None:
        forbidden = "question 2?" in body["messages"][-1]["content"]
        return Fault(status=403, body=said) if forbidden else None

    with Loopback(judge=prefers(len), script=script) as server:
        for _ in range(2):
            found = verdicts(ledger, server, SETS, max_concurrency=1 if known else 8)
            bad = found.pop(SETS[2].prompt.id)
            assert isinstance(bad, Unranked)
            assert bad.reason == "refusal"
            assert len(found) == 5
            assert everything_right(found)
    assert len(server.requests) == 1 + 6 + 1


@pytest.mark.parametrize("status", [404, 500, 501, 405])
def test_a_schema_that_is_refused_by_any_status_leaves_the_text_form(ledger: Path, status: int) -> None:
    def script(_: int, body: Body) -> Fault | None:
        return Fault(status=status, body=error("oops")) if "response_format" in body else None

    with Loopback(judge=prefers(len), script=script) as server:
        assert everything_right(verdicts(ledger, server, SETS))
    assert "response_format" not in server.requests[-1]


@pytest.mark.parametrize("fault", [Fault(text='{"rank', finish="length"), Fault(status=400, body=error("hiccup"))])
def test_one_bad_probe_is_asked_again_and_the_form_is_said(
    ledger: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cyclealign")
    with Loopback(judge=prefers(len), script=lambda n, _: fault if n == 0 else None) as server:
        assert everything_right(verdicts(ledger, server, SETS))
    assert "response_format" in server.requests[-1]
    assert "answers as JSON held to a schema" in caplog.text


@pytest.mark.parametrize("gone", [Fault(status=400, body=error("response_format: no such grammar")), "ignored"])
def test_a_schema_that_is_refused_later_is_given_up_and_nothing_is_paid_twice(ledger: Path, gone: Fault | str) -> None:
    state = {"schema": True}

    def script(_: int, body: Body) -> Fault | None:
        if "response_format" not in body or state["schema"]:
            return None
        return gone if isinstance(gone, Fault) else Fault(text=judge({k: body[k] for k in ("model", "messages")}))

    judge = prefers(len)
    with Loopback(judge=judge, script=script) as server:
        assert everything_right(verdicts(ledger, server, SETS[:3]))
        state["schema"] = False
        assert everything_right(verdicts(ledger, server, SETS, max_concurrency=1))
        text = len(server.requests)
        state["schema"] = True
        assert everything_right(verdicts(ledger, server, SETS))  # all is there, under either form
        again = server.requests[text:]
    assert len(again) == 0 or (len(again) <= 1 and shown(again[0]) == ["I do not know.", "Paris."])
    asked = [tuple(sorted(shown(b))) for b in server.requests if "question" in b["messages"][-1]["content"]]
    assert all(asked.count(tuple(sorted(c.text for c in s.candidates))) <= 3 for s in SETS)


@pytest.mark.parametrize(
    ("code", "reason", "calls"),
    [("content_filter", "refusal", 1), ("context_length_exceeded", "error", 1), ("server_error", "error", 4)],
)
def test_an_error_with_status_200_is_taken_for_what_it_says(ledger: Path, code: str, reason: str, calls: int) -> None:
    fault = Fault(body=error("no", code=code))
    with Loopback(script=lambda n, _: fault if n else None) as server:
        (verdict,) = verdicts(ledger, server, SETS[:1]).values()
    assert isinstance(verdict, Unranked)
    assert verdict.reason == reason
    assert len(server.requests) == 1 + calls


def test_another_limit_or_temperature_asks_nothing_again(ledger: Path) -> None:
    with Loopback(judge=prefers(len)) as server:
        assert everything_right(verdicts(ledger, server, SETS[:3]))
        later = {"max_tokens": None, "max_completion_tokens": 500, "temperature": None}
        assert everything_right(verdicts(ledger, server, SETS, request=later))
    assert len(server.requests) == 7
    assert "temperature" not in server.requests[-1]


# Money --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**30}, {"prompt_tokens": -1_000_000}, {"prompt_tokens": "n/a"},
        {"prompt_tokens": 10_000_000}, {"completion_tokens": 10**9}, {"completion_tokens": -5},
        {"prompt_tokens": 0.5}, {"prompt_tokens": None}, {"prompt_tokens": True}, {"total_tokens": 10**12},
        {"prompt_tokens": 1}, {"completion_tokens": 0}, {"prompt_tokens": float("nan")},
        {"completion_tokens": float("inf")}, {"prompt_tokens": 100_000},
    ],
)  # fmt: skip
def test_odd_counts_are_booked_at_the_worst_case_and_the_verdict_is_used(ledger: Path, usage: dict[str, Any]) -> None:
    script = lambda _, __: Fault(usage=usage)  # noqa: E731
    with Loopback(judge=prefers(len), script=script) as server:
        assert everything_right(verdicts(ledger, server, SETS[:2], price=PRICE))
    assert len(server.requests) == 3
    for usd, reserved, odd, given, made in rows(
        ledger, "SELECT usd, reserved_usd, odd, input_tokens, output_tokens FROM calls"
    ):
        assert usd == reserved
        assert 0 < usd < 0.1
        assert "count" in odd or "does not say" in odd
        assert (given, made) == (0, 0)


def test_thinking_beyond_the_limit_is_booked_as_billed_and_reservations_grow(ledger: Path) -> None:
    script = lambda number, _: Fault(usage={"completion_tokens": 5000 if number == 1 else 40})  # noqa: E731
    with Loopback(judge=prefers(len), script=script) as server:
        assert everything_right(verdicts(ledger, server, SETS[:1], price=PRICE))
        assert everything_right(verdicts(ledger, server, SETS[1:3], price=PRICE))
    found = rows(ledger, "SELECT usd, reserved_usd, output_tokens, odd FROM calls WHERE purpose = 'rank' ORDER BY id")
    first, *later = found
    assert first[2:] == (5000, "5000 output tokens at a limit of 88")
    assert first[0] > 5000 * 30e-6
    assert all(reserved > 16 * 5000 * 30e-6 and odd is None for _, reserved, _, odd in later)  # 16 times as long


def test_two_rankers_on_one_ledger_keep_one_budget(ledger: Path) -> None:
    sets = [item(i) for i in range(80)]  # half of them alone cost more than the budget
    committed: list[float] = []

    def script(_: int, __: Body) -> Fault | None:
        (total,) = rows(
            ledger, "SELECT SUM(usd) + SUM(CASE WHEN state = 'started' THEN reserved_usd ELSE 0 END) FROM calls"
        )
        committed.append(total[0])
        return None

    with Loopback(judge=prefers(len), script=script, delay=0.005) as server:

        def work(part: int) -> None:
            with pytest.raises(BudgetExhausted):
                verdicts(ledger, server, sets[part::2], price=PRICE, budget_usd=0.08, max_concurrency=6)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 0.05 < max(committed) <= 0.08


def test_what_a_dead_process_had_reserved_counts_at_resume(ledger: Path) -> None:
    with Loopback(judge=prefers(len)) as server:
        with asking(ledger, server, price=PRICE, budget_usd=0.2) as ranker:
            list(ranker.rank(SETS[:1], CONTEXT))
        db = sqlite3.connect(ledger)
        db.execute("UPDATE calls SET state = 'started', reply = NULL, usd = 0, reserved_usd = 0.19 WHERE id = 2")
        db.commit()
        db.close()
        with pytest.raises(BudgetExhausted):
            verdicts(ledger, server, SETS[:1], price=PRICE, budget_usd=0.2)
    assert len(server.requests) == 2


# Keys and hosts -----------------------------------------------------------------------------------------------


def test_a_short_key_changes_no_reply(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("1", "x", "ranking"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with Loopback(judge=prefers(len)) as server:
            assert everything_right(verdicts(ledger.with_name(key), server, SETS[:2]))


def test_a_key_that_a_server_echoes_is_nowhere(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    echoes = [
        Fault(wire=f"HTTP/1.1 Bearer {KEY}\r\n\r\n".encode()),
        Fault(status=500, body=KEY, headers={"X-Echo": KEY}),
        Fault(text=f"I got {KEY}"),
        Fault(text=f"<think>{KEY}"),
        Fault(body=f"no JSON {KEY}"),
        Fault(status=400, body=error(f"bad {KEY}\x1b[31m")),
    ]
    with Loopback(script=after_probe(*echoes * 3)) as server:
        found = verdicts(ledger, server, SETS[:3], max_concurrency=1)
    said = " ".join(v.detail for v in found.values() if isinstance(v, Unranked)) + caplog.text
    assert KEY not in said
    assert "\x1b" not in said
    assert not any(KEY.encode() in f.read_bytes() for f in ledger.parent.iterdir())


def test_a_redirect_to_another_host_is_refused(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Loopback() as other:
        away = Fault(status=307, headers={"Location": f"{other.url}/chat/completions"}, body="")
        with (
            Loopback(script=lambda *_: away) as server,
            pytest.raises(UserError, match="redirects to another host, 127"),
        ):
            verdicts(ledger, server, SETS)
        assert other.requests == []


def test_plain_http_to_another_machine_needs_a_word(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with (
        pytest.raises(UserError, match=r"\$OPENAI_API_KEY over plain http.*black_box\.plain_http=true"),
        asking(ledger, "http://judge.example:8000/v1"),
    ):
        pass
    with asking(ledger, "http://judge.example:8000/v1", plain_http=True) as ranker:
        assert isinstance(ranker, BlackBoxRanker)


def test_the_account_of_openai_is_told_to_openai_alone(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-12345678")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-12345678")
    with Loopback(judge=prefers(len)) as server:
        verdicts(ledger, server, SETS[:1])
    assert not any("12345678" in value for headers in server.headers for value in headers.values())


def test_a_query_in_the_address_goes_with_each_call(ledger: Path) -> None:
    with Loopback(judge=prefers(len)) as server:
        assert everything_right(verdicts(ledger, f"{server.url}?api-version=2024-10-21", SETS[:1]))
    assert set(server.paths) == {"/v1/chat/completions?api-version=2024-10-21"}
    with pytest.raises(ValueError, match="key in it would be written"), asking(ledger, f"{server.url}?api-key=1"):
        pass


# A judge that hangs or goes -----------------------------------------------------------------------------------


SLOWER = RetryPolicy(first_wait=0.05, longest_wait=0.2)


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(drop=True), Fault(delay=30)])
def test_a_judge_that_goes_ends_a_run_with_all_that_was_ranked(
    ledger: Path, fault: Fault, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclealign.judge.limits.FIRST_WORD", 0.2)
    caplog.set_level(logging.INFO, logger="cyclealign")
    sets = [item(i) for i in range(30)]
    found = []
    began = time.monotonic()
    with Loopback(judge=prefers(len), script=lambda n, _: fault if n > 5 else None) as server:
        with (
            asking(ledger, server, outage_minutes=0.01, max_concurrency=4, retry=SLOWER) as ranker,
            pytest.raises(RunStopped, match=r"no reply from .* attempts .*what was ranked is kept"),
        ):
            found.extend(ranker.rank(sets, CONTEXT))
        assert len(server.requests) < 100
    assert time.monotonic() - began < 20
    assert len(found) == 5
    assert all(isinstance(v, Ranking) for v in found)
    assert "waiting for the judge" in caplog.text
    assert "attempts" in caplog.text


def test_one_prompt_that_never_answers_does_not_end_a_run(ledger: Path) -> None:
    def script(_: int, body: Body) -> Fault | None:
        return Fault(status=503) if "question 5?" in body["messages"][-1]["content"] else None

    with Loopback(judge=prefers(len), script=script) as server:
        found = verdicts(ledger, server, SETS, outage_minutes=0.005, max_concurrency=1)
    last = found.pop(SETS[5].prompt.id)
    assert isinstance(last, Unranked)
    assert last.reason == "error"
    assert everything_right(found)


# The ledger ---------------------------------------------------------------------------------------------------


def test_a_ledger_that_another_program_holds_loses_no_reply(ledger: Path) -> None:
    held = threading.Event()

    def script(number: int, _: Body) -> Fault | None:
        if number == 3:
            other = sqlite3.connect(ledger, check_same_thread=False)
            other.execute("BEGIN EXCLUSIVE")
            threading.Timer(2.5, lambda: (other.rollback(), other.close())).start()
            held.set()
        return None

    with Loopback(judge=prefers(len), script=script, delay=0.05) as server:
        assert everything_right(verdicts(ledger, server, SETS))
        assert held.is_set()
        assert everything_right(verdicts(ledger, server, SETS))
    assert len(server.requests) == 7
    assert rows(ledger, "SELECT DISTINCT state FROM calls") == [("done",)]
    assert not ledger.with_name("ledger.sqlite.spill.jsonl").exists()


def test_a_ledger_that_stays_locked_ends_in_one_line_and_its_replies_are_kept(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_waits, "LEDGER_PATIENCE", 2.0)
    other: list[sqlite3.Connection] = []

    def script(number: int, _: Body) -> Fault | None:
        if number == 3:
            other.append(sqlite3.connect(ledger, check_same_thread=False))
            other[0].execute("BEGIN EXCLUSIVE")
        return None

    with Loopback(judge=prefers(len), script=script, delay=0.05) as server:
        with pytest.raises(UserError, match=r"database is locked; what was answered is kept in .*spill\.jsonl"):
            verdicts(ledger, server, SETS, max_concurrency=2)
        other[0].rollback()
        other[0].close()
        assert everything_right(verdicts(ledger, server, SETS, max_concurrency=2))
    assert len(server.requests) == 7


def test_a_reply_is_on_record_before_it_is_read(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the reader's own: the row is settled by the next start, and the call is not paid again."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    with Loopback(judge=prefers(len)) as server:
        with asking(ledger, server) as ranker:
            ranker.preflight(3)
        with monkeypatch.context() as patched:
            patched.setattr(paid_calls, "read_reply", broken)
            with pytest.raises(RuntimeError):
                verdicts(ledger, server, SETS[:1])
        assert everything_right(verdicts(ledger, server, SETS[:1]))
    assert len(server.requests) == 2
    assert rows(ledger, "SELECT state FROM calls ORDER BY id") == [("done",), ("done",)]


def test_the_deadline_of_one_attempt_is_no_longer_than_the_outage(ledger: Path) -> None:
    with Loopback(judge=prefers(len), script=lambda n, _: Fault(delay=3) if n == 1 else None) as server:
        began = time.monotonic()
        assert everything_right(
            verdicts(ledger, server, SETS[:2], outage_minutes=0.01, retry=RetryPolicy(first_wait=0.01))
        )
    assert time.monotonic() - began < 5
