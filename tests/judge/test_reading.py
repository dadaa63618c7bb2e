"""The one reader of replies: from a response's text to a typed reply and a verdict, by value."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cyclealign.judge.chat import NotACompletion, decoded, read_reply
from cyclealign.judge.prompting import neutralise
from cyclealign.judge.replies import ReplyUnusable, parse_reply
from cyclealign.judge.thinking import Thought, set_aside
from cyclealign.judge.usage import Usage


def body(content: Any = "[1] > [2]", finish: str | None = "stop", **more: Any) -> str:
    message = {"role": "assistant", "content": content} | more.pop("message", {})
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]} | more)


MARKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINK>", "</THINK>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("<think time='3'>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisLet us see. ", "assistantfinal"),
]


@pytest.mark.parametrize(("opened", "closed"), MARKS)
def test_a_draft_inside_thinking_is_never_a_verdict(opened: str, closed: str) -> None:
    draft, answer = "[1] > [2] > [3]", "[3] > [2] > [1]"
    assert parse_reply(f"{opened}\n{draft}\n{closed}\n{answer}", 3, structured=False) == (2, 1, 0)
    assert parse_reply(f'{opened}{draft}{closed}{{"ranking":"3>2>1"}}', 3, structured=True) == (2, 1, 0)
    for cut in (f"{opened}\n{draft}", f"{opened}\n{draft}\n{answer}", f"{draft}\n{opened}\n{answer}"):
        with pytest.raises(ReplyUnusable, match=r"cut off while it was thinking|other words|more than one"):
            parse_reply(cut, 3, structured=False)
    with pytest.raises(ReplyUnusable, match=r"thinking alone|cut off while"):
        parse_reply(f"{opened}\n{draft}\n{closed}\n", 3, structured=False)


@pytest.mark.parametrize("closed", ["</think>", "</thinking>", "[/THINK]", "</seed:think>", "<|END_THINKING|>"])
def test_thinking_without_its_opening_mark_ends_where_it_is_closed(closed: str) -> None:
    text = f"perhaps\n[1] > [2] > [3]\n{closed}\n\n[3] > [1] > [2]"
    assert parse_reply(text, 3, structured=False) == (2, 0, 1)
    assert set_aside(text).answer == "[3] > [1] > [2]"


def test_what_stands_behind_the_end_of_an_answer_is_not_dropped() -> None:
    """A server that hands on control tokens: no word beside the ranking may vanish with them."""
    final = "<|channel|>final<|message|>[2] > [1]"
    for end in ("", "<|return|>", "<|end|>", "<|end|>\n", "<|end|><|start|>assistant"):
        assert parse_reply(final + end, 2, structured=False) == (1, 0)
    for more in ("<|end|>No: [1] > [2]", "<|return|> from worst to best", "<|call|>[1] > [2]<|end|>"):
        with pytest.raises(ReplyUnusable, match="it has no line that is a ranking"):
            parse_reply(final + more, 2, structured=False)


def test_thinking_begins_anywhere_and_is_open_until_it_is_closed() -> None:
    """What stands before it is no answer, whatever it looks like."""
    for text in ("Well. <think>[1] > [2]", "[1] > [2]\n<think>no", "[2] > [1] <|start_thinking", "so [ think "):
        assert set_aside(text) == Thought("", thinking=True, unfinished=True), text
    assert set_aside("Well. <think>no</think> yes ") == Thought("yes", thinking=True, unfinished=False)
    assert set_aside("<think>a</think> b <think>c</think> d") == Thought("d", thinking=True, unfinished=False)
    assert set_aside("<think>a</think> b <think>c") == Thought("", thinking=True, unfinished=True)
    assert set_aside(" plain [think]ing? ") == Thought("", thinking=True, unfinished=True)
    assert set_aside(" plain ") == Thought("plain", thinking=False, unfinished=False)
    assert set_aside("<answer> it </answer>") == Thought("it", thinking=False, unfinished=False)
    assert set_aside("<answer> it") == Thought("it", thinking=False, unfinished=False)
    final = "<|channel|>final<|message|>it<|return|>"
    assert set_aside(final) == Thought("it", thinking=False, unfinished=False)
    assert set_aside(f"<|channel|>analysis<|message|>no<|end|>{final}") == Thought("it", True, False)
    assert set_aside("<|channel|>analysis<|message|>no") == Thought("", thinking=True, unfinished=True)
    assert set_aside("<|channel|>final") == Thought("", thinking=True, unfinished=True)
    assert set_aside("analysis We see. assistantfinal it ") == Thought("it", thinking=True, unfinished=False)
    assert set_aside("analysis We see.") == Thought("", thinking=True, unfinished=True)
    assert set_aside("analysisit is") == Thought("analysisit is", thinking=False, unfinished=False)


BLANKS = 4000


@pytest.mark.parametrize(
    "text",
    [
        "<" + " " * BLANKS + "x",
        "<|" + " " * BLANKS + "/",
        "<think" + " " * BLANKS + "<",
        "<|channel|>" + "a" * 10 * BLANKS + "<",
        "x" + "*" * 10 * BLANKS + "x",
        " > ".join(f"[{1 + n % 9000}]" for n in range(5 * BLANKS)),
        "[1] > [2]" + ". " * 10 * BLANKS + "x",
        "[1] > [2]" + "}" * 10 * BLANKS,
        "# " * 10 * BLANKS + "x",
        "\x0b" * 10 * BLANKS + "x",
        "\x1c" * 10 * BLANKS + "[",
        "`" * 10 * BLANKS + "\n" + "`" * 30 * BLANKS + "x",
    ],
)
def test_a_model_that_has_lost_its_thread_is_read_at_once(text: str) -> None:
    """Its reply, and as a candidate; patterns that divide a run of blanks anew took a quarter of a minute."""
    began = time.monotonic()
    for structured in (True, False):
        with pytest.raises(ReplyUnusable):
            parse_reply(text, 2, structured=structured)
    neutralise(text, ("response",))
    neutralise(" " * BLANKS + text, ("response",))
    assert time.monotonic() - began < 2


def test_long_lists_are_read_in_text() -> None:
    chain = " > ".join(f"[{n}]" for n in range(101, 0, -1))
    assert parse_reply(chain, 101, structured=False) == tuple(range(100, -1, -1))
    assert parse_reply(json.dumps({"ranking": list(range(101, 0, -1))}), 101, structured=True)[0] == 100


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([], ""),
        ([{"type": "thinking", "thinking": "[1] > [2]"}, {"type": "text", "text": "[2] > [1]"}], "[2] > [1]"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "[1] > [2]"}], "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "[2]"},
                {"type": "text", "text": " > [1]"},
            ],
            "[2] > [1]",
        ),
        ([{"text": "[1] > [2]", "thought": True}, {"text": "[2] > [1]"}], "[2] > [1]"),
        ([{"type": "output_text", "text": "a"}, {"type": "image_url", "image_url": {}}], "a"),
        ([{"type": "text", "text": {"value": "a", "annotations": []}}], "a"),
        (["a", "b", 7, None], "ab"),
        ({"type": "text", "text": "a"}, "a"),
        (7, ""),
        ("a\ud800b", "a\ufffdb"),
    ],
)
def test_content_is_text_or_parts(content: Any, text: str) -> None:
    assert read_reply(body(content)).text == text


@pytest.mark.parametrize(
    ("finish", "end"),
    [
        ("stop", "natural"), ("STOP", "natural"), ("end_turn", "natural"), ("eos_token", "natural"),
        ("length", "cut"), ("MAX_TOKENS", "cut"), ("model_length", "cut"), ("model_context_window_exceeded", "cut"),
        ("content_filter", "filtered"), ("SAFETY", "filtered"), ("RECITATION", "filtered"),
        ("tool_calls", "unknown"), ("function_call", "unknown"), ("something new", "unknown"), (None, "unknown"),
        ("", "unknown"), ("OTHER", "unknown"),
    ],
)  # fmt: skip
def test_only_known_natural_ends_are_ends(finish: str | None, end: str) -> None:
    reply = read_reply(body(finish=finish))
    assert reply.end == end
    assert reply.refused == (end == "filtered")


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (body("", finish="error"), None, ""),
        (body("[1] > [2]", finish="insufficient_system_resource"), None, ""),
        (body("[1] > [2]", error={"message": "upstream", "code": 502}), 502, "502"),
        (body("[1] > [2]", error="upstream"), None, ""),
        ('{"error": {"message": "no", "code": "429", "type": "rate_limit"}}', 429, "429 rate_limit"),
        (
            '{"choices": [{"error": {"code": 502, "message": "x"}, "finish_reason": "error",'
            ' "message": {"content": ""}}]}',
            502,
            "502",
        ),
        ('{"error": {"message": "x", "code": "context_length_exceeded"}}', 400, "context_length_exceeded"),
        ('[{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}]', 503, "503 UNAVAILABLE"),
        ('{"choices": []}', None, ""), ('{"choices": [null]}', None, ""), ('{"choices": null}', None, ""),
        ("[]", None, ""), ("null", None, ""), ("", None, ""), ("<html>", None, ""), ("[" * 100_000, None, ""),
        ('{"choices": [{"finish_reason": "stop"}]}', None, ""),
    ],
)  # fmt: skip
def test_an_error_with_status_200_is_no_reply(raw: str, status: int | None, code: str) -> None:
    with pytest.raises(NotACompletion) as caught:
        read_reply(raw)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.detail
    assert "\n" not in caught.value.detail


def counts(given: int, made: int, **details: Any) -> dict[str, Any]:
    """As OpenAI counts, and OpenRouter with it."""
    inside = {"cached_tokens": details.get("cached"), "cache_write_tokens": details.get("written")}
    thought = {"reasoning_tokens": details.get("thinking")}
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "prompt_tokens_details": inside,
        "completion_tokens_details": thought,
    }


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 60}, Usage(7, 53, thinking=50)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, Usage(7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": "n/a", "completion_tokens": 3}, Usage(None, 3)),
        ({"prompt_tokens": -1_000_000, "completion_tokens": 3}, Usage(None, 3)),
        ({"prompt_tokens": True, "completion_tokens": 0.5}, Usage(None, None)),
        (None, Usage(None, None)), ([], Usage(None, None)), ("x", Usage(None, None)),
        # OpenAI and all that count as it does; a count that is none; more thoughts than output.
        (counts(9, 5, thinking=4, cached=6), Usage(9, 5, thinking=4, cached=6)),
        (counts(9, 5, thinking="4", cached=-1), Usage(9, 5)),
        (counts(9, 5, thinking=[4], cached=True), Usage(9, 5)),
        (counts(9, 5, thinking=7, cached=10**3), Usage(1009, 5, thinking=5, cached=1000)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": 3}, Usage(9, 5)),
        # xAI: thinking beside the completion. Gemini: in the total alone.
        (counts(9, 5, thinking=4) | {"total_tokens": 18}, Usage(9, 9, thinking=4)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 18}, Usage(9, 9, thinking=4)),
        # DeepSeek, Together, OpenRouter, gateways to Anthropic that count the cache beside the input.
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 8}, Usage(9, 5, cached=8)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 8}, Usage(9, 5, cached=8)),
        (counts(9, 5, cached=2, written=3) | {"cost": 0.25}, Usage(9, 5, cached=2, written=3, cost=0.25)),
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "cache_read_input_tokens": 6,
             "cache_creation_input_tokens": 2, "total_tokens": 22},
            Usage(17, 5, cached=6, written=2),
        ),
        (counts(9, 5) | {"cost": -1}, Usage(9, 5)), (counts(9, 5) | {"cost": "1"}, Usage(9, 5)),
    ],
)  # fmt: skip
def test_counts_of_tokens_are_numbers_of_tokens_or_not_there(usage: Any, found: Usage) -> None:
    assert read_reply(body(usage=usage)).usage == found


@pytest.mark.parametrize("digits", ["1e30", "1" + "0" * 30, "9" * 5000, "NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_is_too_long_to_be_set_aside(digits: str) -> None:
    raw = body(usage={"prompt_tokens": 0, "completion_tokens": 3}).replace("0,", f"{digits},", 1)
    raw = raw.replace('"index": ' + digits, '"index": 0').replace('"prompt_tokens": 0', f'"prompt_tokens": {digits}')
    reply = read_reply(raw)
    assert reply.text == "[1] > [2]"
    assert reply.usage == Usage(None, 3)


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ('{"a":"é"}'.encode(), "utf-8", '{"a":"é"}'),
        ('{"a":"é"}'.encode("utf-16"), "utf-16", '{"a":"é"}'),
        ('{"a":"é"}'.encode("utf-32"), None, '{"a":"é"}'),
        ('{"a":"é"}'.encode("utf-8-sig"), None, '{"a":"é"}'),
        ('{"a":"é"}'.encode("latin-1"), "latin-1", '{"a":"é"}'),
        ('{"a":"é"}'.encode("latin-1"), "rot13", '{"a":"\ufffd"}'),
        ('{"a":"é"}'.encode(), "hex", '{"a":"é"}'),
        ('{"a":"é"}'.encode("latin-1"), "no such codec", '{"a":"\ufffd"}'),
    ],
)
def test_any_bytes_are_text(data: bytes, charset: str | None, text: str) -> None:
    assert decoded(data, charset) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "content", "finish_reason", "error", "usage", "prompt_tokens", "type", "text",
             "refusal", "reasoning", "code", "total_tokens", "completion_tokens"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), JSON.map(json.dumps)))
@example('{"choices": [{"message": "x", "finish_reason": {"a": 1}}]}')
@example('{"choices": [{"message": {"content": [{"type": []}]}, "finish_reason": ["stop"]}], "usage": {}}')
@example('{"error": [1, {"message": 2}]}')
def test_whatever_comes_is_a_typed_reply_or_a_typed_failure(raw: str) -> None:
    try:
        reply = read_reply(raw)
    except NotACompletion:
        return
    for k, structured in ((2, True), (3, False)):
        try:
            order = parse_reply(reply.answer, k, structured=structured)
        except ReplyUnusable:
            continue
        assert sorted(order) == list(range(k))
