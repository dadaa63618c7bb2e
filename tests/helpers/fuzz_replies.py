"""Fuzz target: the bytes of a judge's response, up to a verdict.

What is checked does not come from the parser: a verdict has each slot once, its numbers stand in the reply in its
order, at its end, and the response says that it ended by itself, without an error and without a refusal.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fuzzing import Broken, check_sound, closed, opened

from cyclealign.judge.asked import PLAIN
from cyclealign.judge.chat import ChatReply, NotACompletion, decoded, error_of, read_reply
from cyclealign.judge.failures import Failure
from cyclealign.judge.prompting import repair_messages
from cyclealign.judge.replies import ReplyUnusable, is_refusal, parse_reply
from cyclealign.rankers import black_box

ENDED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "end", "complete", "completed"}
FINISHES = ("stop", "length", None, "content_filter", "error", "end_turn", "Stop ", "tool_calls")
CHARSETS = (None, "utf-8", "utf-16", "latin-1", "rot13", "hex", "no such charset", "utf-7")


def target(data: bytes) -> None:
    """Choice: how many candidates; options: the form, the way in, and how the reply ended."""
    given = opened(data)
    k = 101 if given.choice == 255 else 2 + given.choice % 5
    structured = bool(given.options & 1)
    way = given.options >> 1 & 3
    if way == 0:
        _alone(given.text, k, structured)
    elif way == 1:
        finish = FINISHES[given.options >> 3 & 7]
        message = {"role": "assistant", "content": given.text}
        _response(json.dumps({"choices": [{"message": message, "finish_reason": finish}]}), k, structured)
    else:
        _response(decoded(given.body, CHARSETS[given.options >> 3 & 7]), k, structured)


def _alone(text: str, k: int, structured: bool) -> None:
    """A reply's text, which ended by itself."""
    try:
        order = parse_reply(text, k, structured=structured)
    except ReplyUnusable as error:
        check_sound([m["content"] for m in repair_messages([], text, error.reason)])
        is_refusal(text)
        return
    _check_order(order, text, k)


def _response(raw: str, k: int, structured: bool) -> None:
    _failed(raw)
    try:
        reply = read_reply(raw, structured=structured)
    except NotACompletion as error:
        check_sound([error.detail, error.code])
        Failure(detail=error.detail, status=error.status, code=error.code, reply=raw)
        return
    check_sound([reply.text, reply.thoughts, reply.finish])
    for count in (reply.usage.input_tokens, reply.usage.output_tokens):
        if count is not None and (type(count) is not int or count < 0):
            raise Broken(f"{count!r} tokens")
    try:
        said = black_box._read(reply, k, PLAIN)
    except (ReplyUnusable, black_box._NoVerdict):
        is_refusal(reply.text)
        return
    _check_order(tuple(slot for tier in said.tiers for slot in tier), reply.answer, k)
    _check_end(raw, reply)


def _failed(raw: str) -> None:
    """The same body as that of an error."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return
    said, code = error_of(body)
    failure = Failure(detail=said, code=code, status=400)
    if failure.retryable and failure.moderation:
        raise Broken("a refusal is tried again")


def _check_order(order: tuple[int, ...], answer: str, k: int) -> None:
    if sorted(order) != list(range(k)):
        raise Broken(f"{order} is no order of {k}")
    last = [int(n) - 1 for n in re.findall("[0-9]+", answer)[-k:]]
    if last != list(order):
        raise Broken(f"the order {order} does not stand at the end of the reply")
    if answer.rfind("<think>") > answer.rfind("</think>"):
        raise Broken("a verdict from a thought that did not end")


def _check_end(raw: str, reply: ChatReply) -> None:
    body: Any = json.loads(raw)
    body = body[0] if isinstance(body, list) else body
    choice = body["choices"][0]
    finish, message = choice["finish_reason"], choice["message"]
    if not (isinstance(finish, str) and finish.strip().lower() in ENDED):
        raise Broken(f"a verdict from a reply with finish_reason {finish!r}")
    if body.get("error") or choice.get("error") or message.get("error") or message.get("refusal") or reply.refused:
        raise Broken("a verdict from an error or a refusal")


def _whole(content: object, **more: object) -> str:
    message = {"role": "assistant", "content": content, **more}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})


TEXTS = (
    "[2] > [1]",
    "**Final ranking:** [2] > [1]",
    "[2] > [1]\n\nFinal ranking: [2] > [1]",
    "```\n[1] > [2]\n```",
    "\\boxed{[2] > [1]}",
    "From worst to best:\n[1] > [2]",
    "<think>perhaps [1] > [2]",
    "<think>perhaps [1] > [2]</think>[2] > [1]",
    "[THINK]perhaps [1] > [2][/THINK][2] > [1]",
    "<|channel|>analysis<|message|>[1] > [2]<|end|><|start|>assistant<|channel|>final<|message|>[2] > [1]<|return|>",
    "analysisShort. assistantfinal[2] > [1]",
    "<|START_RESPONSE|>[2] > [1]<|END_RESPONSE|>",
    "I'm sorry, but I cannot rank these.",
    '{"ranking":"2>1"}',
    '{"ranking":[2,1]}',
    '```json\n{"ranking": "2>1"}\n```',
    '{"ranking":[2,1],"ranking":[1,2]}',
)
BODIES = (
    _whole("[2] > [1]"),
    _whole([{"type": "thinking", "thinking": "[1] > [2]"}, {"type": "text", "text": '{"ranking":"2>1"}'}]),
    _whole(None, reasoning_content='{"ranking":"2>1"}'),
    _whole(None, refusal="no"),
    '{"error":{"message":"quota","type":"insufficient_quota","code":null}}',
    '[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]',
    '{"choices":[{"finish_reason":"error","error":{"code":"502"},"message":{"content":""}}]}',
    '{"choices":[{"message":{"content":"[1] > [2]"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1e30}}',
)


def seeds() -> list[bytes]:
    found = [closed(0, text, options) for text in TEXTS for options in (0, 1, 2, 3, 0x0A)]
    found += [bytes((0, 0, 0xFC)) + b"[1] > [100]", bytes((0, 0, 0xF9)) + b"<think> \t", bytes((0, 0, 0xF8)) + b"[1]*"]
    found += [closed(0, body, options) for body in BODIES for options in (4, 5)]
    found.append(closed(0, BODIES[0].encode("utf-16"), 0x16))
    return [*found, closed(255, " > ".join(f"[{n}]" for n in range(101, 0, -1)))]
