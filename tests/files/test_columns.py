"""Rows as people have them: one prompt and one pair of labels, whichever command reads them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cyclealign.curation.exchange import imported
from cyclealign.evaluation.responses import load_responses
from cyclealign.files.labelled import load_labelled
from cyclealign.files.labels import own_replies
from cyclealign.files.prompts import load_candidate_sets, load_prompts
from cyclealign.types import Message, UserError

DIALOGUE = "\n\nHuman: Q\n\nAssistant:"


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def put(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


Q: tuple[Message, ...] = ({"role": "user", "content": "Q"},)
SYSTEM: Message = {"role": "system", "content": "Be kind."}

# What the row says, its prompt, and (best, worst) of its labels.
ROWS: dict[str, tuple[dict[str, Any], tuple[Message, ...], tuple[str, str] | None]] = {
    "alpaca": (
        {"instruction": "Translate.", "input": "cat", "output": "chat"},
        ({"role": "user", "content": "Translate.\n\ncat"},),
        None,
    ),
    "alpaca, a part of a word": (
        {"instruction": "Translate the category.", "input": "cat"},
        ({"role": "user", "content": "Translate the category.\n\ncat"},),
        None,
    ),
    "alpaca, nothing below": ({"instruction": "Q", "input": "", "output": "A"}, Q, None),
    "alpaca with its system message": ({"instruction": "Q", "system": "Be kind."}, (SYSTEM, *Q), None),
    "alpaca with history": (
        {"instruction": "Q", "history": [["a", "b"]]},
        ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, *Q),
        None,
    ),
    "dolly": ({"instruction": "Q", "context": "C", "response": "A"}, ({"role": "user", "content": "Q\n\nC"},), None),
    "already below": (
        {"prompt": "Q\n### Input:\nC\n", "input": "C"},
        ({"role": "user", "content": "Q\n### Input:\nC\n"},),
        None,
    ),
    "orca": (
        {"system": "Be kind.", "question": "Q", "chosen": "A", "rejected": "B"},
        (SYSTEM, *Q),
        ("A", "B"),
    ),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, Q, None),
    "sharegpt with a system": (
        {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Q"}]},
        (SYSTEM, *Q),
        None,
    ),
    "sharegpt pair": (
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        Q,
        ("A", "B"),
    ),
    "openai messages": ({"messages": [user("Q"), assistant("A")]}, Q, None),
    "openai parts": ({"messages": [user([{"type": "text", "text": "Q"}])]}, Q, None),
    "trl": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Q, ("A", "B")),
    "dialogue texts as replies": (
        {"prompt": DIALOGUE, "chosen": f"{DIALOGUE} A", "rejected": f"{DIALOGUE} B"},
        Q,
        ("A", "B"),
    ),
    "dialogue texts beside a text": (
        {"prompt": "Q", "chosen": f"{DIALOGUE} A", "rejected": f"{DIALOGUE} B"},
        Q,
        ("A", "B"),
    ),
    "stripped dialogue texts": (
        {"chosen": f"{DIALOGUE} A".strip(), "rejected": f"{DIALOGUE} B".strip()},
        Q,
        ("A", "B"),
    ),
    "conversations beside a text": (
        {"prompt": "Q", "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        Q,
        ("A", "B"),
    ),
    "conversations beside a conversation": (
        {"prompt": [user("Q")], "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        Q,
        ("A", "B"),
    ),
    "conversations beside their last turn": (
        {
            "prompt": "Q",
            "chosen": [user("a"), assistant("b"), user("Q"), assistant("A")],
            "rejected": [user("a"), assistant("b"), user("Q"), assistant("B")],
        },
        ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, *Q),
        ("A", "B"),
    ),
    "the prompt at the beginning of both": (
        {"prompt": "Question: Q\nAnswer:", "chosen": "Question: Q\nAnswer: A", "rejected": "Question: Q\nAnswer: B"},
        ({"role": "user", "content": "Question: Q\nAnswer:"},),
        ("A", "B"),
    ),
    "the assistant twice in a row": (
        {"chosen": f"{DIALOGUE} A\n\nAssistant: C", "rejected": f"{DIALOGUE} A\n\nAssistant: D"},
        Q,
        ("A\n\nC", "A\n\nD"),
    ),
    "the assistant twice in messages": (
        {
            "chosen": [user("Q"), assistant("A"), assistant("C")],
            "rejected": [user("Q"), assistant("B")],
        },
        Q,
        ("A\n\nC", "B"),
    ),
    "llmbar": ({"input": "Q", "output_1": "B", "output_2": "A", "label": 2}, Q, ("A", "B")),
    "pandalm": (
        {"instruction": "Q", "input": "", "response1": "A", "response2": "B", "annotators": [1, 1, 0]},
        Q,
        ("A", "B"),
    ),
    "ultrafeedback, a zero": (
        {
            "instruction": "Q",
            "completions": [
                {"response": "B", "overall_score": 0, "fine-grained_score": 5},
                {"response": "A", "overall_score": 4, "fine-grained_score": 1},
            ],
        },
        Q,
        ("A", "B"),
    ),
    "ultrafeedback, one key for all": (
        {
            "instruction": "Q",
            "completions": [
                {"response": "B", "overall_score": 9, "fine-grained_score": 1.0},
                {"response": "A", "overall_score": None, "fine-grained_score": 2.0},
            ],
        },
        Q,
        ("A", "B"),
    ),
    "nectar, a rank of zero": (
        {"prompt": "Q", "answers": [{"answer": "B", "rank": 1}, {"answer": "A", "rank": 0}]},
        Q,
        ("A", "B"),
    ),
    "lists side by side": ({"prompt": "Q", "responses": ["B", "A"], "scores": [-1, 0]}, Q, ("A", "B")),
    "a grade of zero": (
        {"prompt": "Q", "candidates": [{"text": "A", "grade": 0}, {"text": "B", "grade": -1}]},
        Q,
        ("A", "B"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_command_reads_the_same_prompt_and_labels(tmp_path: Path, name: str) -> None:
    row, messages, pair = ROWS[name]
    spec = put(tmp_path, row)
    [prompt] = load_prompts(spec)
    assert prompt.messages == messages
    assert (prompt.chosen, prompt.rejected) == (pair or (None, None))
    if pair is None:
        with pytest.raises(UserError, match="expected labelled columns"):
            load_labelled(spec)
        return
    [item] = load_labelled(spec)
    assert item.set.prompt.messages == messages
    assert [item.set.text(i) for i in sorted(item.grades, key=lambda i: -item.grades[i])] == list(pair)
    [demonstration] = imported(spec, limit=9, seed=0)
    assert demonstration.prompt.messages == messages
    assert [demonstration.responses[i] for i in demonstration.order] == list(pair)


def test_one_instruction_and_two_inputs_are_two_prompts(tmp_path: Path) -> None:
    rows = [{"instruction": "Translate.", "input": text, "output": text.upper()} for text in ("cat", "dog")]
    assert len(load_prompts(put(tmp_path, *rows))) == 2
    found = load_responses(Path(put(tmp_path, *rows)))
    assert [(r.prompt.messages[0]["content"], r.text) for r in found.values()] == [
        ("Translate.\n\ncat", "CAT"),
        ("Translate.\n\ndog", "DOG"),
    ]


@pytest.mark.parametrize(
    ("prompt", "replies", "own"),
    [
        ("Hi", ["Hi there", "Hi!"], ["Hi there", "Hi!"]),
        ("Hi", ["Hi\nthere", "Hi\n"], ["there", ""]),
        ("What is it?", ["What is it? A", "What is it? B"], ["A", "B"]),
        ("What is it?", ["What is it? A", "B"], ["What is it? A", "B"]),
        ("[INST] Q [/INST]", ["[INST] Q [/INST] A", "[INST] Q [/INST]B"], ["A", "B"]),
        (None, ["A", "B"], ["A", "B"]),
    ],
)
def test_a_repeated_prompt_is_cut_where_it_is_one(prompt: str | None, replies: list[str], own: list[str]) -> None:
    assert own_replies(prompt, replies) == own


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "another prompt": (
        {"prompt": "R", "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        "the prompt and the beginning of the dialogues chosen and rejected differ",
    ),
    "an image": ({"messages": [user([{"type": "image_url", "image_url": {}}])]}, "content as text"),
    "tools": ({"prompt": "Q", "tools": [{"name": "search"}]}, "tools: only texts are read"),
    "passages": ({"instruction": "Q", "context": ["a", "b"]}, "context: expected text beside instruction, got list"),
    "two system messages": ({"system": "x", "messages": [{"role": "system", "content": "y"}, user("Q")]}, "differ"),
    "a tool's turn": ({"conversations": [{"from": "function_call", "value": "x"}]}, "message 0: expected a role"),
    "an odd reply": ({"messages": [user("Q"), assistant("A")], "chosen": "B", "rejected": "C"}, "neither chosen nor"),
    "other columns": ({"text": "x"}, "expected columns prompt, messages, or chosen and rejected; got text"),
    "half a label": ({"input": "Q", "output_1": "A", "output_2": "B", "label": 1.5}, "expected one of 1, 2, got 1.5"),
    "equal ids": (
        {"prompt": "Q", "candidates": [{"id": "a", "text": "A", "grade": 1}, {"id": "a", "text": "B", "grade": 0}]},
        "ids are not distinct",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_row_is_skipped_and_counted_among_good_ones_and_refused_among_few(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    row, says = ODD[name]
    good = [{"prompt": f"{n}", "chosen": "A", "rejected": "B"} for n in range(4)]
    spec = put(tmp_path, *good[:2], row, *good[2:])
    with caplog.at_level(logging.WARNING):
        assert len(load_prompts(spec)) == len(load_labelled(spec)) == 4
    assert caplog.text.count(f"skipped 1 odd rows of 5: {spec}:3: ") == 2
    assert says in caplog.text
    for few in ((row,), (good[0], row)):
        with pytest.raises(UserError) as caught:
            load_prompts(put(tmp_path, *few))
        assert str(caught.value).startswith(f"{spec}:{len(few)}: ")
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_share_that_is_skipped_has_a_bound(tmp_path: Path) -> None:
    def rows(odd: int, all_: int) -> str:
        return put(tmp_path, *({"text": "x"} if n < odd else {"prompt": str(n)} for n in range(all_)))

    for odd, all_ in ((1, 3), (3, 9), (10, 100)):
        assert len(load_prompts(rows(odd, all_))) == all_ - odd
    for odd, all_ in ((1, 2), (4, 12), (11, 100)):
        with (
            pytest.raises(UserError, match=rf"data.jsonl:1: .*\({odd} of {all_} rows are odd, also .*:2")
            if odd > 1
            else (pytest.raises(UserError, match=r"data.jsonl:1: .*\(1 of 2 rows are odd\)"))
        ):
            load_prompts(rows(odd, all_))
    half = [{"prompt": str(n), "chosen": "A", "rejected": "A" if n < 6 else "B"} for n in range(10)]
    with pytest.raises(UserError, match=r"data.jsonl:1: 6 of 10 rows cannot be used, 6 because they have equal"):
        load_labelled(put(tmp_path, *half))


def test_candidates_and_responses_take_the_prompt_as_all_others_do(tmp_path: Path) -> None:
    sets = put(tmp_path, {"instruction": "Q", "input": "x", "candidates": None, "responses": ["", "B"]})
    [found] = load_candidate_sets(sets)
    assert (found.prompt.messages[0]["content"], [c.text for c in found.candidates]) == ("Q\n\nx", ["", "B"])
    with pytest.raises(UserError, match="must end with a user turn"):
        load_candidate_sets(put(tmp_path, {"messages": [user("Q"), assistant("A")], "candidates": ["x", "y"]}))
    replies = put(
        tmp_path,
        {"messages": [user("Q"), assistant("A")]},
        {"prompt": "R", "response": ""},
        {"prompt": "S", "output": "0"},
    )
    assert [r.text for r in load_responses(Path(replies)).values()] == ["A", "", "0"]
    with pytest.raises(UserError, match="the messages end with another reply than output"):
        load_responses(Path(put(tmp_path, {"messages": [user("Q"), assistant("A")], "output": "B"})))


def test_one_array_is_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(
        json.dumps([{"prompt": "Q", "chosen": "A", "rejected": "B", "candidates": ["x", "y"], "output": "z"}])
    )
    assert load_prompts(str(path))[0].chosen == load_labelled(str(path))[0].set.text("chosen") == "A"
    assert [c.text for c in load_candidate_sets(path)[0].candidates] == ["x", "y"]
    assert [r.text for r in load_responses(path).values()] == ["z"]


@pytest.mark.parametrize("history", [3, True, "abc", {"a": "b"}])
def test_a_history_that_is_none_is_one_line(tmp_path: Path, history: Any) -> None:
    with pytest.raises(UserError, match=r"data\.jsonl:1: history: expected pairs of texts"):
        load_prompts(put(tmp_path, {"instruction": "Q", "history": history}))


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "Q", "chosen": [f"{DIALOGUE} A"], "rejected": [f"{DIALOGUE} B", f"{DIALOGUE} C"]},
        {"prompt": "Q", "responses": [f"{DIALOGUE} A", f"{DIALOGUE} B"], "scores": [2, 1]},
        {"question": "Q", "completions": [{"text": f"{DIALOGUE} {x}", "rank": n} for n, x in enumerate("AB")]},
        {"instruction": "Q", "response1": f"{DIALOGUE} A", "response2": f"{DIALOGUE} B", "annotators": [1]},
    ],
)
def test_whole_dialogues_in_lists_are_no_replies(tmp_path: Path, columns: dict[str, Any]) -> None:
    [prompt] = load_prompts(put(tmp_path, columns))
    assert (prompt.messages, prompt.chosen, prompt.rejected) == (Q, "A", "B")
    said = json.loads(json.dumps(columns).replace("Human: Q", "Human: R"))
    with pytest.raises(UserError, match=r"data\.jsonl:1: the prompt and the beginning of the dialogues"):
        load_prompts(put(tmp_path, said))


def test_a_question_at_the_beginning_of_its_replies(tmp_path: Path) -> None:
    asked = "What is the capital?"
    row = {"question": asked, "chosen": f"{asked}\nParis", "rejected": f"{asked}\nRome"}
    [prompt] = load_prompts(put(tmp_path, row))
    assert (prompt.chosen, prompt.rejected) == ("Paris", "Rome")
