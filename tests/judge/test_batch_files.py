"""Files of a batch: what is written for the provider, and what is read of it, whatever it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyclealign.judge.batch_client import _remote, read_lines, request_lines
from cyclealign.judge.call import Call
from cyclealign.judge.chat import read_reply
from cyclealign.judge.client import Answer, request_body
from cyclealign.judge.failures import Failure

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def line(**entry: Any) -> str:
    return json.dumps({"id": "r", "custom_id": "7", "response": None, "error": None} | entry)


def test_a_line_of_a_file_of_requests() -> None:
    call = Call(
        endpoint="e",
        model="m",
        messages=[{"role": "user", "content": "a\u2028b \ud800"}],
        schema={"type": "json_object"},
        options={"max_tokens": 9, "temperature": 0},
        purpose="rank",
    )
    text = request_lines([12, 13], [request_body(call)] * 2).decode()
    assert text.count("\n") == 2
    first, second = (json.loads(found) for found in text.split("\n")[:2])
    assert first | {"custom_id": "13"} == second
    assert first == {
        "custom_id": "12",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "user", "content": "a\u2028b \ufffd"}],
            "max_tokens": 9,
            "temperature": 0,
            "response_format": {"type": "json_object"},
        },
    }


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (
            line(response={"status_code": 400, "body": {"error": {"message": "too long", "code": "context"}}}),
            Failure(detail="HTTP 400: too long", status=400, code="context"),
        ),
        (
            line(response={"status_code": 429, "body": None}, error={"message": "slow down", "type": "rate"}),
            Failure(detail="HTTP 429: slow down", status=429, code="rate"),
        ),
        (
            line(error={"code": "batch_expired", "message": "too late"}),
            Failure(detail="in a batch: too late", code="batch_expired", lost=True),
        ),
        (line(error="odd"), Failure(detail="in a batch: odd")),
    ],
)
def test_failures_of_single_requests_are_typed(text: str, failure: Failure) -> None:
    assert list(read_lines(text)) == [(7, failure)]
    assert failure.perhaps_billed == (failure.status is None and not failure.lost)
    assert failure.retryable == (failure.status != 400 and not failure.lost)


def test_replies_are_those_of_chat_completions_and_what_is_no_line_is_left_out() -> None:
    body = {"choices": [{"message": {"content": "[2] > [1]"}, "finish_reason": "stop"}]}
    good = line(response={"status_code": 200, "body": body})
    lines = ["", "{", "[]", line(), line(custom_id="x"), line(custom_id=7, error="e"), line(response={}), good]
    ((row, found),) = read_lines("\n".join(lines) + "\r\n")
    assert row == 7
    assert isinstance(found, Answer)
    assert read_reply(found.body).text == "[2] > [1]"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["custom_id", "response", "error", "id"]), JSON | st.just("7"), max_size=4))
def test_any_line_is_read_or_left_out(entry: dict[str, Any]) -> None:
    for row, found in read_lines(json.dumps(entry)):
        assert row >= 0
        assert isinstance(found, Answer | Failure)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["id", "status", "errors", "request_counts", "output_file_id"]), JSON | st.just("x"), max_size=5
    )
)
def test_any_batch_is_read_or_a_failure(body: dict[str, Any]) -> None:
    named = all(isinstance(v := body.get(key), str) and v and v.isprintable() for key in ("id", "status"))
    assert isinstance(_remote(Answer(200, json.dumps(body))), Failure) != named


def test_why_a_batch_was_refused() -> None:
    errors = [{"code": "token_limit_exceeded", "message": "too many"}, {"code": "token_limit_exceeded", "line": 3}]
    body = {"id": "b", "status": "failed", "errors": {"data": errors}, "request_counts": {"completed": 2, "failed": 3}}
    found = _remote(Answer(200, json.dumps(body)))
    assert not isinstance(found, Failure)
    assert (found.why, found.code, found.answered, found.over) == ("too many", "token_limit_exceeded", 5, True)
