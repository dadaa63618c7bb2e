"""Lists that somebody ranked, from every form that they come in: which candidates, which order, and what it says."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cyclealign.config.schema import ListsConfig
from cyclealign.cycle.list_files import StoredExamples, StoredLists, take_lists
from cyclealign.cycle.ranked_lists import ranked_lists
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.records import write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.losses import KL, SPPO, ListMLE, RankingLoss
from cyclealign.rankers.utilities import given_by
from cyclealign.scores.sidecar import Sidecar, beside
from cyclealign.types import Gives, Prompt, UserError

Found = tuple[str, list[list[str]], Gives]
QUESTION = {"role": "user", "content": "q"}


def lists_of(path: Path, rows: Sequence[Any], **options: Any) -> list[Found]:
    """Last words of each prompt, texts in tiers, and what the ranking gives."""
    write_jsonl(path, rows)
    return found(ListsConfig(source=str(path), **options))


def found(config: ListsConfig) -> list[Found]:
    return [
        (
            one.item.prompt.messages[-1]["content"],
            [sorted(map(one.item.text, tier)) for tier in one.ranking.tiers],
            given_by(one.ranking),
        )
        for one in ranked_lists(config)
    ]


ROWS: dict[str, tuple[dict[str, Any], list[list[str]], Gives]] = {
    "ultrafeedback": (
        {"instruction": "q", "completions": [{"response": t, "overall_score": s} for t, s in (("x", 7), ("y", 8.5))]},
        [["y"], ["x"]],
        "magnitude",
    ),
    "trl": ({"prompt": "q", "chosen": "good", "rejected": "bad"}, [["good"], ["bad"]], "order"),
    "hh_rlhf": (
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        [["good"], ["bad"]],
        "order",
    ),
    "chat with ranks": (
        {"messages": [QUESTION], "responses": ["a", "b", "c", "d"], "ranks": [3, 1, 2, 3]},
        [["b"], ["c"], ["a", "d"]],
        "order",
    ),
    "chat with scores": (
        {"messages": [QUESTION], "responses": ["a", "b", "c"], "scores": [0.1, 2, 2]},
        [["b", "c"], ["a"]],
        "magnitude",
    ),
    "chats with ranks": (
        {"responses": [[QUESTION, {"role": "assistant", "content": t}] for t in "abc"], "ranks": [2, 3, 1]},
        [["c"], ["a"], ["b"]],
        "order",
    ),
    "replies as messages": (
        {
            "prompt": [QUESTION],
            "candidates": [{"messages": [{"role": "assistant", "content": t}], "score": n} for n, t in enumerate("xy")],
        },
        [["y"], ["x"]],
        "magnitude",
    ),
    "graded": (
        {"prompt": "q", "candidates": [{"id": "m", "text": "x", "grade": 3}, {"text": "y", "grade": 1}]},
        [["x"], ["y"]],
        "magnitude",
    ),
    "bge": ({"query": "q", "pos": ["x"], "neg": ["y", "z"], "pos_scores": [3], "neg_scores": [1, 2]},
            [["x"], ["z"], ["y"]], "magnitude"),
    "rankllm": (
        {"query": {"text": "q"}, "candidates": [{"docid": n, "score": 1, "doc": {"text": n}} for n in "ba"]},
        [["b"], ["a"]],
        "order",
    ),
    "ntuples": ({"query": "q", "documents": ["x", "y"], "scores": [0.5, 2.5]}, [["y"], ["x"]], "magnitude"),
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
def test_a_row_of_every_form_is_a_list(tmp_path: Path, form: str) -> None:
    row, tiers, gives = ROWS[form]
    assert lists_of(tmp_path / "lists.jsonl", [row]) == [("q", tiers, gives)]


def test_scores_that_were_written_as_an_order_are_one(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    write_record(beside(path), Sidecar(gives="order", teachers=(), queries_left_out=0))
    assert lists_of(path, [ROWS["ntuples"][0]]) == [("q", [["y"], ["x"]], "order")]


def test_sets_with_verdicts_of_rank_are_joined_and_the_unranked_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = [{"prompt": words, "candidates": ["x", "y", "z"]} for words in ("q", "w", "e")]
    ids = [Prompt(({"role": "user", "content": words},)).id for words in ("q", "w", "e")]
    votes = {"1": 2 / 3, "0": 1 / 3, "2": 0.0}
    write_jsonl(
        tmp_path / "verdicts.jsonl",
        [
            {"prompt_id": ids[1], "tiers": [["2"], ["0", "1"]]},
            {"prompt_id": ids[0], "tiers": [["1"], ["0"], ["2"]], "votes": votes, "passes": [list("102"), list("102")]},
            {"prompt_id": ids[2], "unranked": "refusal"},
        ],
    )
    assert lists_of(tmp_path / "sets.jsonl", sets, verdicts=tmp_path / "verdicts.jsonl") == [
        ("q", [["y"], ["x"], ["z"]], "votes"),
        ("w", [["z"], ["x", "y"]], "order"),
    ]
    assert "left out 1 lists without a verdict" in caplog.text
    assert "(refusal)" in caplog.text


def test_ties_alone_teach_nothing_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": words, "responses": ["a", "b"], "scores": s} for words, s in (("q", [1, 1]), ("w", [0, 1]))]
    assert [words for words, _, _ in lists_of(tmp_path / "lists.jsonl", rows)] == ["w"]
    assert "left out 1 lists whose replies are all tied" in caplog.text


def taken(tmp_path: Path, rows: Sequence[Any], loss: RankingLoss, **options: Any) -> RunDir:
    write_jsonl(tmp_path / "lists.jsonl", rows)
    run = RunDir(tmp_path / "run")
    run.create("name: run\n")
    config = ListsConfig(source=str(tmp_path / "lists.jsonl"), **options)
    take_lists(run, config, loss, seed=1, check_prompt=lambda *_: None)
    run.unlock()
    return run


def test_the_lists_of_a_prompt_stay_together_and_the_share_is_held(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n % 300}", "responses": [f"a {n}", "b", "c"], "scores": [n, -1, -2]} for n in range(900)]
    run = taken(tmp_path, rows, KL(), held_out=0.2)
    about = run.lists()
    assert about is not None
    assert (about.gives, about.trained + about.held_out) == ("magnitude", 900)
    assert 120 < about.held_out < 240
    parts = [{s.prompt.id for s, _ in StoredLists(files)} for files in (run.interaction(0), run.held_out)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 300
    examples = StoredExamples(StoredLists(run.interaction(0)), votes=False)
    trained = [r for r in rows if Prompt(({"role": "user", "content": r["prompt"]},)).id in parts[0]]
    assert [e.responses[0] for e in examples] == [r["responses"][0] for r in trained]
    assert all(e.teacher == (float(e.responses[0][2:]), -1.0, -2.0) for e in examples)


def test_a_run_of_lists_is_a_source_itself_with_all_lists_of_a_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "responses": ["a", f"b {n}"], "scores": [1, n]} for n in (0, 2)]
    run = taken(tmp_path, rows, KL(), held_out=0)
    (run.path / "config.yaml").write_text("name: run\n")
    assert found(ListsConfig(source=str(run.path))) == [
        ("q", [["a"], ["b 0"]], "magnitude"),
        ("q", [["b 2"], ["a"]], "magnitude"),
    ]


REFUSED: dict[str, tuple[list[dict[str, Any]], RankingLoss, dict[str, Any], str]] = {
    "an order for magnitudes": (
        [ROWS["trl"][0]],
        KL(),
        {},
        r"^loss\.name: kl needs magnitudes, but .*lists\.jsonl:1 gives an order alone; use .*listmle",
    ),
    "scores for votes": (
        [ROWS["graded"][0]],
        SPPO(reference="start"),
        {},
        r"^loss\.name: sppo needs votes .*lists\.jsonl:1 gives scores without votes",
    ),
    "all are held out": ([ROWS["trl"][0]], ListMLE(), {"held_out": 0.999999}, "has all its lists held out"),
    "all are tied": (
        [{"prompt": "q", "responses": ["a", "b"], "scores": [1, 1]}],
        ListMLE(),
        {},
        "holds no list that prefers one reply to another",
    ),
    "texts alone": ([{"prompt": "q", "candidates": ["a", "b"]}], ListMLE(), {}, "text, grade"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_loss_cannot_learn_from_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    rows, loss, options, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        taken(tmp_path, rows, loss, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "interactions").exists()


def test_mixed_lists_give_the_least_of_them(tmp_path: Path) -> None:
    run = taken(tmp_path, [ROWS["graded"][0], ROWS["trl"][0] | {"prompt": "w"}], ListMLE(), held_out=0)
    about = run.lists()
    assert about is not None
    assert about.gives == "order"
    record = json.loads((run.path / "lists.json").read_text())
    assert record == {
        "format": 1,
        "source": str(tmp_path / "lists.jsonl"),
        "gives": "order",
        "trained": 2,
        "held_out": 0,
    }


def peak(tmp_path: Path, count: int) -> int:
    """Most bytes that Python held while lists of a Parquet file were taken, and every tenth was read again."""
    table = pa.Table.from_pylist(
        [{"prompt": f"q {n}", "chosen": f"a {n}" * 600, "rejected": f"b {n}" * 600} for n in range(count)]
    )
    folder = tmp_path / str(count)
    folder.mkdir()
    pq.write_table(table, folder / "lists.parquet", row_group_size=500)
    run = RunDir(folder / "run")
    run.create("name: run\n")
    tracemalloc.start()
    config = ListsConfig(source=str(folder / "lists.parquet"))
    take_lists(run, config, ListMLE(), seed=1, check_prompt=lambda *_: None)
    examples = StoredExamples(StoredLists(run.interaction(0)), votes=False)
    assert all(examples[n].teacher == (1.0, 0.0) for n in range(0, len(examples), 10))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    run.unlock()
    return held


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peak(tmp_path, 500)  # what is imported on the way
    few, many = peak(tmp_path, 1500), peak(tmp_path, 4500)
    text = 3000 * 2 * 600 * 6  # bytes more in the second file; garbage not yet collected is up to a megabyte
    assert many - few < text / 10
