"""Policies that think, sampled: a budget that closes their thinking, in every back end; replies without an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Fault, Loopback
from thinking_policy import save_thinker, thinker
from tiny_policy import save_tiny, tiny_config
from transformers import AutoModelForCausalLM

from cyclealign.generation.backend import build_generator
from cyclealign.generation.budget import Budget, thinking_budget
from cyclealign.generation.sampling import Draw, collect, to_draw
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.models.chat_template import render_prompt
from cyclealign.models.policy import load_tokenizer
from cyclealign.types import CandidateSet, PolicyVersion, Prompt, UserError

PROMPTS = [Prompt(({"role": "user", "content": text},)) for text in ("a b c", "hello", "good bad yes no", "d")]
STOPS = (2,)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_thinker(tmp_path_factory.mktemp("start"))


def budget_of(start: Path, mode: str, **generator: Any) -> Budget:
    config = thinker(start, mode, generator=generator)
    found = thinking_budget(load_tokenizer(config.policy, config.generator.thinking), config.generator)
    assert found is not None
    return found


# The rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "after", "left"),
    [
        ("a b c d e", "a b c d e </think>", 3),  # still thinking: closed, and the answer has its own tokens
        ("a b </think> good", "a b </think> good", 2),
        ("a b </think>", "a b </think>", 3),
        ("a </think> good bad no", "a </think> good bad no", 0),
        ("a </think> good bad no yes", "a </think> good bad no", 0),  # longer than an answer may be
        ("a </think> good bad no <|end|>", "a </think> good bad no <|end|>", 0),
        ("a </think> good <|end|>", "a </think> good <|end|>", 0),
        ("a b <|end|>", "a b <|end|>", 0),  # it ended within its thinking: nothing to go on with
    ],
)
def test_what_comes_after_the_first_request(start: Path, text: str, after: str, left: int) -> None:
    budget = budget_of(start, "begun", max_new_tokens=3, thinking={"max_tokens": 6})
    assert (budget.first, len(budget.close)) == (5, 1)
    ids = budget.tokenizer.convert_tokens_to_ids(text.split())
    said, more = budget.go_on(ids, STOPS, inside=True)
    assert (" ".join(budget.tokenizer.convert_ids_to_tokens(said)), more) == (after, left)


def test_a_policy_that_does_not_think_gets_the_tokens_of_an_answer(start: Path) -> None:
    budget = budget_of(start, "on", max_new_tokens=3, thinking={"max_tokens": 3})
    ids = budget.tokenizer.convert_tokens_to_ids(["good", "bad"])
    assert budget.go_on(ids, STOPS, inside=False) == (ids, 1)


def test_a_budget_needs_tags_and_room(start: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected more than the 1 tokens that closing takes, got 1"):
        budget_of(start, "on", thinking={"max_tokens": 1})
    config = tiny_config(save_tiny(tmp_path), generator={"backend": "transformers", "thinking": {"max_tokens": 9}})
    with pytest.raises(UserError, match="the chat template names no thinking tags that are known"):
        build_generator(config.generator, config.policy, workdir=tmp_path)


def test_unfinished_samples_are_counted_and_are_no_candidates(start: Path) -> None:
    config = thinker(start, "begun")
    tokenizer = load_tokenizer(config.policy)
    rows = ["a b </think> good <|end|>", "a b c", "c </think> good <|end|>", "d </think> <|end|>", "e <|end|>"]
    draws = [to_draw(tokenizer, tokenizer.convert_tokens_to_ids(r.split()), STOPS, inside=True) for r in rows]
    assert draws[0] == Draw(" good".strip(), "stop", "a b </think> ")
    assert [d.unfinished for d in draws] == [False, True, False, False, True]
    item = collect(PROMPTS[0], draws, 3)
    assert [(c.text, c.thinking) for c in item.candidates] == [
        ("good", "a b </think> ")
    ]  # one answer, thought of twice
    assert (item.drawn, item.unfinished) == (5, 2)


def test_tags_that_are_special_tokens_are_found(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(thinker(save_thinker(tmp_path), "on").policy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<think>", "</think>"]})
    ids = tokenizer.convert_tokens_to_ids(["<think>", "a", "</think>", "good", "<|user|>", "bad", "<|end|>"])
    draw = to_draw(tokenizer, ids, STOPS)
    assert (draw.thinking, draw.text.split()) == ("<think> a </think> ", ["good", "bad"])


# transformers -------------------------------------------------------------------------------------------------


def sampled(start: Path, mode: str, *, seed: int = 3, **generator: Any) -> list[CandidateSet]:
    config = thinker(start, mode, generator=generator)
    made = build_generator(config.generator, config.policy, workdir=start)
    return list(made.generate(PROMPTS, PolicyVersion("t", str(start)), seed=seed))


def plain(sets: list[CandidateSet]) -> list[Any]:
    return sorted((s.prompt.id, s.drawn, s.unfinished, [(c.text, c.thinking) for c in s.candidates]) for s in sets)


@pytest.mark.parametrize("mode", ["begun", "on", "off"])
def test_every_reply_is_an_answer_within_both_limits(start: Path, mode: str) -> None:
    sets = sampled(start, mode, thinking={"max_tokens": 5}, max_new_tokens=4)
    again = sampled(start, mode, thinking={"max_tokens": 5}, max_new_tokens=4)
    assert plain(sets) == plain(again) != plain(sampled(start, mode, seed=4, thinking={"max_tokens": 5}))
    assert len(sets) == len(PROMPTS)
    candidates = [c for s in sets for c in s.candidates]
    assert len(candidates) >= len(PROMPTS) * 2
    for candidate in candidates:
        assert "think>" not in candidate.text
        assert len(candidate.text.split()) <= 4
        assert candidate.thinking is not None
        closes = candidate.thinking.count("</think>")  # one that is closed for it may close again, in its answer
        assert len(candidate.thinking.split()) <= (5 if closes < 2 else 9)
        if mode == "begun":
            assert candidate.thinking.rstrip().endswith("</think>")
    assert any(len(c.text.split()) == 4 and c.finish == "length" for c in candidates)


def test_without_a_budget_most_replies_stay_in_their_thinking(start: Path) -> None:
    sets = sampled(start, "begun", max_new_tokens=6)
    assert sum(s.unfinished for s in sets) > sum(len(s.candidates) for s in sets)
    assert all(s.drawn == 9 for s in sets if len(s.candidates) < 3)


def test_an_answer_after_a_closed_thinking_is_the_likeliest(start: Path) -> None:
    """Nearly greedy: the second request goes on from exactly what stands there."""
    config = thinker(
        start,
        "begun",
        generator={"thinking": {"max_tokens": 4}, "max_new_tokens": 3, "temperature": 1e-4, "top_p": 0.01},
    )
    model = AutoModelForCausalLM.from_pretrained(start).eval()
    tokenizer = load_tokenizer(config.policy)
    close = tokenizer.convert_tokens_to_ids("</think>")
    checked = 0
    for item in TransformersGenerator(config.generator, config.policy).generate(
        PROMPTS, PolicyVersion("t", str(start)), seed=1
    ):
        ids = render_prompt(tokenizer, item.prompt.messages, 64)
        row = list(ids)
        with torch.inference_mode():
            for step in range(7):
                best = int(model(torch.tensor([row])).logits[0, -1].argmax())
                row.append(close if step == 3 else best)
        expected = to_draw(tokenizer, row[len(ids) :], STOPS, inside=True)
        if close in row[len(ids) : len(ids) + 3] or 2 in row[len(ids) : len(ids) + 4]:
            continue
        checked += 1
        assert [c.text for c in item.candidates] == [expected.text]
        assert [str(c.thinking).split() for c in item.candidates] == [str(expected.thinking).split()]
    assert checked


# Servers ------------------------------------------------------------------------------------------------------


def served(start: Path, mode: str, server: Loopback, **generator: Any) -> list[CandidateSet]:
    config = thinker(
        start, mode, generator={"backend": "server", "endpoints": [server.url], "candidates": 2} | generator
    )
    made = build_generator(config.generator, config.policy, workdir=start)
    try:
        return list(made.generate(PROMPTS[:1], PolicyVersion("t", str(start)), seed=3))
    finally:
        made.close()


@pytest.mark.parametrize(
    ("mode", "fault", "expected"),
    [
        ("on", Fault(text="<think>\na\n</think>\n\ngood"), ("good", "<think>\na\n</think>\n\n")),
        ("begun", Fault(text="a\n</think>\n\ngood"), ("good", "a\n</think>\n\n")),
        ("on", Fault(text="good", message={"reasoning_content": "a"}), ("good", "<think>\na\n</think>\n\n")),
        ("begun", Fault(text="good", message={"reasoning": "a"}), ("good", "a\n</think>\n\n")),
        ("begun", Fault(text="good"), ("good", None)),  # the server has left it out
        ("off", Fault(text="good"), ("good", "")),
    ],
)
def test_a_server_may_take_thinking_out_or_leave_it_in(start: Path, mode: str, fault: Fault, expected: Any) -> None:
    with Loopback(script=lambda *_: fault) as server:
        (item,) = served(start, mode, server)
    assert [(c.text, c.thinking) for c in item.candidates] == [expected]
    assert item.unfinished == 0
    given = [body.get("chat_template_kwargs") for body in server.requests]
    assert given[0] == {"on": None, "off": {"enable_thinking": False}, "begun": {"begun": True}}[mode]


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("on", Fault(text="<think>\na b", finish="length")),
        ("begun", Fault(text="a b", finish="length")),
        ("on", Fault(text="", message={"reasoning_content": "a b"}, finish="length")),
    ],
)
def test_a_servers_reply_that_is_all_thinking_is_unfinished(start: Path, mode: str, fault: Fault) -> None:
    with Loopback(script=lambda *_: fault) as server:
        (item,) = served(start, mode, server)
    assert (item.candidates, item.unfinished) == ((), 6)


def test_a_server_that_cannot_go_on_with_a_reply_has_no_budget(start: Path) -> None:
    with Loopback() as server, pytest.raises(UserError, match=r"thinking\.max_tokens: http.* is not a vLLM server"):
        served(start, "on", server, thinking={"max_tokens": 9})
    assert not server.requests


def completions(start: Path, mode: str, replies: list[str]) -> tuple[Any, list[Any]]:
    """A stand-in for vLLM's completions endpoint: rows of tokens in turn, at most as many as are asked for."""
    tokenizer = load_tokenizer(thinker(start, mode).policy)
    asked: list[Any] = []

    def create(**body: Any) -> Any:
        asked.append(body)
        rows = [replies.pop(0) for _ in range(body["n"])]
        found = []
        for n, text in enumerate(rows):
            ids = tokenizer.convert_tokens_to_ids(text.split())[: body["max_tokens"]]
            done = "stop" if ids[-1] == 2 else "length"
            found.append(type("Choice", (), {"index": n, "token_ids": ids, "finish_reason": done}))
        return type("Reply", (), {"choices": found})

    return create, asked


def test_a_vllm_server_goes_on_after_the_close(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclealign.generation import endpoint
    from cyclealign.generation.openai_server import ServerGenerator

    create, asked = completions(start, "begun", ["a b c d e f", "a </think> good <|end|>", "bad no yes yes"])
    client: Any = type("Client", (), {"completions": type("Completions", (), {"create": staticmethod(create)})})
    settings = {"backend": "server", "endpoints": ["http://127.0.0.1:1/v1"], "candidates": 2}
    config = thinker(start, "begun", generator=settings | {"thinking": {"max_tokens": 5}, "max_new_tokens": 3})
    monkeypatch.setattr(endpoint, "connect", lambda url, **_: endpoint.Endpoint(url, client, "m", True))
    monkeypatch.setattr(endpoint, "_models", lambda _: ["m"])
    made = ServerGenerator(config.generator, config.policy)
    (item,) = made.generate(PROMPTS[:1], PolicyVersion("t", str(start)), seed=3)
    assert [(c.text, str(c.thinking).split(), c.finish) for c in item.candidates] == [
        ("bad no yes", ["a", "b", "c", "d", "</think>"], "length"),
        ("good", ["a", "</think>"], "stop"),
    ]
    assert [(b["n"], b["max_tokens"], b["stop"]) for b in asked] == [(2, 4, None), (1, 3, None)]
    assert asked[1]["prompt"][: len(asked[0]["prompt"])] == asked[0]["prompt"]
    assert len(asked[1]["prompt"]) == len(asked[0]["prompt"]) + 5


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
def test_vllm_in_process_closes_thinking(tmp_path: Path) -> None:
    start = save_thinker(tmp_path / "start", head_dim=32)  # vLLM's CPU build knows no smaller heads
    settings = {"backend": "vllm", "thinking": {"max_tokens": 5}, "max_new_tokens": 4}
    config = thinker(start, "begun", generator=settings)
    made = build_generator(config.generator, config.policy, workdir=tmp_path)
    try:
        found = [plain(list(made.generate(PROMPTS, PolicyVersion("t", str(start)), seed=3))) for _ in range(2)]
    finally:
        made.close()
    assert found[0] == found[1]
    for _, _, _, candidates in found[0]:
        assert len(candidates) >= 2
        for text, thinking in candidates:
            assert len(text.split()) <= 4
            assert len(thinking.split()) <= (5 if thinking.count("</think>") < 2 else 9)
            assert thinking.rstrip().endswith("</think>")
