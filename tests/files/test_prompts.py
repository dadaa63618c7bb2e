"""Prompts and candidate sets from every format, and the line that is wrong."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cyclealign.config.schema import DataConfig
from cyclealign.cycle.prompts import EVAL_LIMIT, run_prompts
from cyclealign.files.prompts import load_candidate_sets, load_prompts
from cyclealign.files.run_dir import RunDir
from cyclealign.types import UserError

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
HH = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "


def write(path: Path, *rows: Any) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def failure(spec: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_prompts(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats ----------------------------------------------------------------------------------------------------


def test_hh_rlhf_prompt_is_all_up_to_the_last_assistant_turn(tmp_path: Path) -> None:
    [prompt] = load_prompts(write(tmp_path / "a.jsonl", {"chosen": HH + "good", "rejected": HH + " bad "}))
    assert [(m["role"], m["content"]) for m in prompt.messages] == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert (prompt.chosen, prompt.rejected) == ("good", "bad")


def test_hh_rlhf_pairs_that_do_not_share_the_prompt_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = HH.replace("b", "B")
    rows = [{"chosen": HH + "x", "rejected": other + "y"}, {"chosen": HH + "x", "rejected": HH + "y"}]
    with caplog.at_level(logging.WARNING):
        assert len(load_prompts(write(tmp_path / "a.jsonl", *rows))) == 1
    assert "skipped 1 rows that have chosen and rejected dialogues that do not share the prompt" in caplog.text


def test_hh_rlhf_ending_with_a_human_turn_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"chosen": HH + "x\n\nHuman: more", "rejected": HH + "y"}, {"chosen": HH + "x", "rejected": HH + "y"}]
    with caplog.at_level(logging.WARNING):
        assert len(load_prompts(write(tmp_path / "a.jsonl", *rows))) == 1
    assert "skipped 1 rows that end with a human turn" in caplog.text


def test_hh_rlhf_empty_turns_go_and_neighbours_are_joined(tmp_path: Path) -> None:
    text = "\n\nHuman: a\n\nAssistant:\n\nHuman: b\n\nHuman: c\n\nAssistant:"
    [prompt] = load_prompts(write(tmp_path / "a.jsonl", {"chosen": text + " x", "rejected": text + " y"}))
    assert prompt.messages == ({"role": "user", "content": "a\n\nb\n\nc"},)


def test_a_pair_with_an_empty_reply_keeps_the_prompt_without_labels(tmp_path: Path) -> None:
    [prompt] = load_prompts(write(tmp_path / "a.jsonl", {"chosen": HH + "good", "rejected": HH}))
    assert (prompt.chosen, prompt.rejected) == (None, None)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "unshared"), [("harmless_base_test", 2162, 5), ("helpful_base_test", 2202, 9)]
)
def test_real_hh_rlhf_files(
    shared_data: Path, name: str, rows: int, unshared: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts of the data's own README; every dialogue is one that chat templates accept."""
    with caplog.at_level(logging.WARNING):
        prompts = load_prompts(str(shared_data / "hh_rlhf" / f"{name}.jsonl.gz"))
    assert f"skipped {unshared} rows that have chosen and rejected dialogues that do not share" in caplog.text
    repeated = [int(r.getMessage().split()[2]) for r in caplog.records if "repeat an earlier prompt" in r.getMessage()]
    assert len(prompts) == rows - unshared - sum(repeated)
    assert len({p.id for p in prompts}) == len(prompts)
    for prompt in prompts:
        roles = [m["role"] for m in prompt.messages]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
        assert roles[-1] == "user"
        assert not any("\n\nHuman:" in m["content"] for m in prompt.messages)
    assert sum(p.chosen is not None for p in prompts) > 0.98 * len(prompts)


def test_openers_are_apart() -> None:
    train, held_out = run_prompts(DataConfig(prompts="builtin:openers-train", eval_prompts="builtin:openers-eval"))
    assert len(train) + len(held_out) >= 200
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert all(p.messages[-1]["role"] == "user" for p in (*train, *held_out))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi"},
        {"prompt": [USER]},
        {"messages": [USER]},
        {"prompt": "Hi", "completion": "Hello", "label": True},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:"},
        {"prompt": "Hi", "chosen": None, "rejected": None},
        {"prompt": [USER], "messages": None, "extra": 3},
    ],
)
def test_prompt_only_rows(tmp_path: Path, row: dict[str, Any]) -> None:
    [prompt] = load_prompts(write(tmp_path / "a.jsonl", row))
    assert prompt.messages == (USER,)
    assert (prompt.chosen, prompt.rejected) == (None, None)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "No"}]},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "No"}]},
    ],
)
@pytest.mark.parametrize("format", ["auto", "trl"])
def test_trl_preference_rows(tmp_path: Path, row: dict[str, Any], format: str) -> None:
    [prompt] = load_prompts(write(tmp_path / "a.jsonl", row), format=format)
    assert prompt.messages == (USER,)
    assert (prompt.chosen, prompt.rejected) == ("Hello", "No")


def test_trl_implicit_prompts_must_be_shared(tmp_path: Path) -> None:
    row = {"chosen": [USER, ASSISTANT], "rejected": [{"role": "user", "content": "Ho"}, ASSISTANT]}
    assert "holds no prompt" in failure(write(tmp_path / "a.jsonl", row))


def test_system_message_stays(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    [prompt] = load_prompts(write(tmp_path / "a.jsonl", {"messages": [system, USER]}))
    assert prompt.messages == (system, USER)


def test_gzip_glob_and_directory(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl.gz", {"prompt": "two"}, {"prompt": "three"})
    write(tmp_path / "a.jsonl", {"prompt": "one"}, "", {"prompt": "two"})
    (tmp_path / "README.md").write_text("not data")
    for spec in (str(tmp_path), str(tmp_path / "*.jsonl*")):
        assert [p.messages[0]["content"] for p in load_prompts(spec)] == ["one", "two", "three"]


def test_limit_counts_distinct_prompts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write(tmp_path / "a.jsonl", *({"prompt": text} for text in "aabbcc"))
    with caplog.at_level(logging.WARNING):
        assert [p.messages[0]["content"] for p in load_prompts(spec, limit=2)] == ["a", "b"]
    assert "skipped 1 rows that repeat an earlier prompt" in caplog.text


@pytest.mark.parametrize("format", ["auto", "parquet"])
def test_parquet(tmp_path: Path, format: str) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "No"}]}]
    path = tmp_path / ("a.parquet" if format == "auto" else "a.data")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    [prompt] = load_prompts(str(path), format=format)
    assert (prompt.messages, prompt.chosen, prompt.rejected) == ((USER,), "Hello", "No")


def test_parquet_with_text_that_is_no_utf8(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"fine", b"\xff\xfe"], type=pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column}), path)
    assert "a.parquet: cannot be read in the 1024 rows after row 0: 'utf-8' codec" in failure(str(path))


def test_a_local_dataset_of_the_hub_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What load_dataset gives, with the split of ``@``; the network is not asked."""
    import datasets

    asked = []

    def load(name: str, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list([{"prompt": "Hi"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_prompts("some/set", split="train")[0].messages == (USER,)
    assert load_prompts("some/set@test", split="train")[0].messages == (USER,)
    assert asked == [("some/set", "train"), ("some/set", "test")]


# Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "expected one JSON object a line, got list"),
        ({}, "expected columns prompt, messages, or chosen and rejected; got none"),
        ({"text": "x"}, "expected columns prompt, messages, or chosen and rejected; got text"),
        ({"prompt": 3}, "expected a list of messages"),
        ({"prompt": ""}, "empty turn"),
        ({"prompt": []}, "expected a list of messages"),
        ({"prompt": [USER, ASSISTANT]}, "must end with a user turn"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 0: expected a role of system, user, assistant"),
        ({"messages": [{"role": "user"}]}, "message 0: expected a role"),
        ({"messages": [USER, {"role": "system", "content": "x"}, USER]}, "a system message may only stand first"),
        ({"messages": ["Hi"]}, "message 0: expected a role"),
        ({"chosen": "Hi", "rejected": HH}, "chosen: expected an HH-RLHF dialogue"),
        ({"chosen": "\n\nHuman: Hi", "rejected": HH}, "chosen: no '\\n\\nAssistant:' turn"),
        ({"chosen": HH, "rejected": 3}, "rejected: expected text, got int"),
        ({"prompt": "Hi", "chosen": [USER], "rejected": "x"}, "chosen: expected one assistant message"),
        ({"prompt": "Hi", "chosen": 3, "rejected": "x"}, "chosen: expected text, got int"),
    ],
)
def test_wrong_rows_name_file_and_line(tmp_path: Path, row: Any, says: str) -> None:
    spec = write(tmp_path / "a.jsonl", {"prompt": "fine"}, row)
    message = failure(spec)
    assert message.startswith(f"{spec}:2: ")
    assert says in message


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n{"prompt": "\xff"}\n')
    assert failure(str(path)) == f"{path}:2: not UTF-8 text: 0xff at byte 31; save it as UTF-8"


@pytest.mark.parametrize("cut", [10, 40])
def test_broken_gzip_names_the_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "fine"}\n' * 50)[:cut])
    assert failure(str(path)).startswith(f"{path}:")


def test_text_that_is_called_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text('{"prompt": "x"}')
    assert len(load_prompts(str(path))) == 1


def test_text_that_is_called_parquet(tmp_path: Path) -> None:
    assert "cannot be read as Parquet" in failure(write(tmp_path / "a.parquet", {"prompt": "x"}))


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": "x"}, "hh_rlhf"),
        ({"messages": [USER]}, "trl"),
        ({"chosen": HH + "x", "rejected": HH + "y"}, "jsonl"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "jsonl"),
    ],
)
def test_a_demanded_format_is_demanded(tmp_path: Path, row: dict[str, Any], format: str) -> None:
    assert f"not a row of data.format {format}" in failure(write(tmp_path / "a.jsonl", row), format=format)


@pytest.mark.parametrize("name", ["./none.jsonl", "none.jsonl", "a/b/c", "none.txt"])
def test_missing_file(name: str) -> None:
    assert f"no file {name}" in failure(name)


def test_glob_without_match(tmp_path: Path) -> None:
    assert "no file matches" in failure(str(tmp_path / "*.jsonl"))


def test_empty_directory_and_empty_file(tmp_path: Path) -> None:
    assert "holds no .jsonl" in failure(str(tmp_path))
    assert "holds no prompt" in failure(write(tmp_path / "a.jsonl"))


def test_hub_dataset_that_is_not_there() -> None:
    """Offline (tests/conftest.py sets it), in one line that says both things that it could have been."""
    message = failure("no-one/such-set")
    assert "'no-one/such-set' is no file here, and as a hub dataset (split train)" in message


def test_unknown_builtin() -> None:
    assert "builtin:openers-train" in failure("builtin:opener")


def test_held_out_prompts_are_held_out(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", *({"prompt": f"t{i}"} for i in range(5)))
    both = write(tmp_path / "b.jsonl", *({"prompt": f"t{i}"} for i in range(5)), {"prompt": "new"})
    _, held_out = run_prompts(DataConfig(prompts=train, eval_prompts=both))
    assert [p.messages[0]["content"] for p in held_out] == ["new"]
    with pytest.raises(UserError, match=r"every prompt of .* is a training prompt"):
        run_prompts(DataConfig(prompts=train, eval_prompts=train))
    many = write(tmp_path / "c.jsonl", *({"prompt": f"e{i}"} for i in range(EVAL_LIMIT + 9)))
    assert len(run_prompts(DataConfig(prompts=train, eval_prompts=many))[1]) == EVAL_LIMIT


def test_a_prompt_that_folding_repeats_is_one(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Brief."}
    folded = {"role": "user", "content": "Brief.\n\nHi"}
    spec = write(tmp_path / "a.jsonl", {"messages": [system, USER]}, {"messages": [folded]}, {"prompt": "b"})
    train, _ = run_prompts(DataConfig(prompts=spec, system_turns="fold"))
    assert [p.messages[0]["content"] for p in train] == [folded["content"], "b"]


def test_held_out_prompts_are_looked_for_behind_what_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More rows of the eval data than an evaluation takes cannot be used; what was left out before the last one that is
    taken is said, and a row behind it, which is broken, is not read."""
    train = write(tmp_path / "a.jsonl", {"prompt": "t"})
    system = {"role": "system", "content": "Brief."}
    unusable = [{"messages": [system, {"role": "user", "content": str(n)}]} for n in range(EVAL_LIMIT + 9)]
    new = [{"prompt": f"e{n}"} for n in range(EVAL_LIMIT)]
    spec = write(tmp_path / "b.jsonl", *unusable, {"prompt": "t"}, *new)
    with Path(spec).open("a") as file:
        file.write("no JSON\n")
    with caplog.at_level("WARNING"):
        _, held_out = run_prompts(DataConfig(prompts=train, eval_prompts=spec, system_turns="skip"))
    assert [p.messages[0]["content"] for p in held_out] == [row["prompt"] for row in new]
    assert f"{EVAL_LIMIT + 9} of {2 * EVAL_LIMIT + 10} prompts have a system turn" in caplog.text


def peak(path: Path, count: int) -> int:
    """Most bytes that Python holds while prompts are read from Parquet, made distinct and put into a run directory."""
    texts = [f"Question {n}: {'word ' * 400}" for n in range(count)]
    pq.write_table(pa.table({"prompt": [*texts, *texts[:100]]}), path, row_group_size=500)
    del texts
    tracemalloc.start()
    try:
        data = DataConfig(prompts=str(path), eval_prompts=str(path.with_name("eval.jsonl")), limit=None)
        train, held_out = run_prompts(data)
        run = RunDir(path.with_suffix(".run"))
        run.create("{}", train, held_out)
        run.unlock()
        assert len(train) == len(run.train_prompts()) == count
        assert train[count - 1] == run.train_prompts()[count - 1]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_prompts_are_streamed_into_a_run(tmp_path: Path) -> None:
    """A place each is held, of 2,000 bytes of text each."""
    write(tmp_path / "eval.jsonl", {"prompt": "Question 1: " + "word " * 400}, {"prompt": "new"})
    peak(tmp_path / "first.parquet", 500)  # what is imported on the way
    few, many = peak(tmp_path / "few.parquet", 1_500), peak(tmp_path / "many.parquet", 9_000)
    assert many - few < 4_000_000  # of 15 MB; garbage not yet collected is up to a megabyte or two


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: of what waits, and of the names that were seen."""
    write(tmp_path / "a.jsonl", *({"prompt": f"{n} {'word ' * 20}"} for n in range(2000)))
    program = (
        "import resource, signal, sys\n"
        "from cyclealign.config.schema import DataConfig\n"
        "from cyclealign.cycle.prompts import run_prompts\n"
        "from cyclealign.files.seen import Seen\n"
        "from cyclealign.types import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "for work in (lambda: run_prompts(DataConfig(prompts='a.jsonl', limit=None)),\n"
        "             lambda seen=Seen(): [seen.add(f'{n:032}') for n in range(200_000)]):\n"
        "    try:\n"
        "        work()\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["prompts", "names"], done.stderr
    assert "File too large" in done.stdout
    assert "TMPDIR" in done.stdout


# Candidate sets ---------------------------------------------------------------------------------------------


def test_candidate_sets(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "a.jsonl",
        {"prompt": "Hi", "candidates": ["x", "y"]},
        {
            "messages": [{"role": "user", "content": "Ho"}],
            "responses": [{"id": "b", "text": "x"}, {"id": 3, "text": "y"}],
        },
    )
    first, second = load_candidate_sets(spec)
    assert [(c.id, c.text) for c in first.candidates] == [("0", "x"), ("1", "y")]
    assert [(c.id, c.text) for c in second.candidates] == [("b", "x"), ("3", "y")]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Hi"}, "expected candidates (or responses)"),
        ({"prompt": "Hi", "candidates": []}, "expected candidates"),
        ({"prompt": "Hi", "candidates": "x"}, "expected candidates"),
        ({"prompt": "Hi", "candidates": ["x", 3]}, "candidate 1: expected text or {id, text}"),
        ({"prompt": "Hi", "candidates": [{"id": "a"}]}, "candidate 0: expected text"),
        ({"prompt": "Hi", "candidates": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, "ids are not distinct"),
        ({"candidates": ["x"]}, "expected columns prompt, messages, or chosen and rejected; got candidates"),
        ({"prompt": "one", "candidates": ["x"]}, "same prompt as"),
    ],
)
def test_wrong_candidate_sets(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    spec = write(tmp_path / "a.jsonl", {"prompt": "one", "candidates": ["x", "y"]}, row)
    with pytest.raises(UserError) as caught:
        load_candidate_sets(spec)
    assert str(caught.value).startswith(f"{spec}:2: ")
    assert says in str(caught.value)


def test_a_runs_own_candidates_file(tmp_path: Path) -> None:
    from cyclealign.files.jsonl import write_jsonl
    from cyclealign.files.run_records import set_record
    from cyclealign.types import Candidate, CandidateSet, Prompt

    item = CandidateSet(Prompt(({"role": "user", "content": "Hi"},)), (Candidate("a", "x"), Candidate("b", "y")), 2)
    write_jsonl(tmp_path / "candidates.jsonl", [set_record(item)])
    [found] = load_candidate_sets(tmp_path / "candidates.jsonl")
    assert (found.prompt.id, found.candidates) == (item.prompt.id, item.candidates)
