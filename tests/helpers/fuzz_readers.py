"""Fuzz target: every reader of other people's files.

Beside the errors: a file reads the same with a byte order mark, with other line ends and compressed; what is read has
no half of a surrogate pair and no number that is not finite.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

from fuzzing import Broken, check_sound, closed, folder, opened

from cyclealign.evaluation.responses import load_responses
from cyclealign.files.dialogues import read_levels, read_ratings
from cyclealign.files.foreign import lines, read_text
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.labelled import load_labelled
from cyclealign.files.prompts import load_candidate_sets, load_prompts
from cyclealign.files.trec import read_qrels, read_run
from cyclealign.judge.demonstration_files import load_demonstrations
from cyclealign.rankers.replay import ReplayRanker
from cyclealign.scores.formats import READERS, detect
from cyclealign.scores.jsonl_formats import read_texts
from cyclealign.types import UserError

Reader = Callable[[Path], object]
SUFFIXES = (".jsonl", ".tsv", ".json", ".gz")
TABLES = ("train.jsonl", "queries.jsonl", "documents.jsonl")
MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"\xef\xbb\xbf")
MAGIC = (b"PAR1", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"ARROW1", b"SQLite format 3", b"\x1f\x8b")


def _detected(path: Path) -> object:
    return list(READERS[detect(path, ids=False)](path))


def _score_reader(name: str) -> Reader:
    return lambda path: list(READERS[name](path))


def _prompts(format: str) -> Reader:
    return lambda path: load_prompts(str(path), format=format)


WAYS: tuple[Reader, ...] = (
    lambda path: [line for _, line in lines(path)],
    lambda path: [line for _, line in lines(path, texts=True)],
    read_text,
    lambda path: [row for _, row in json_rows(path)],
    *(_prompts(name) for name in ("auto", "hh_rlhf", "trl", "jsonl")),
    load_candidate_sets,
    lambda path: load_labelled(str(path)),
    lambda path: list(read_levels(path)),
    lambda path: list(read_ratings(path)),
    read_qrels,
    read_run,
    load_demonstrations,
    lambda path: list(read_texts(path)),
    load_responses,
    lambda path: vars(ReplayRanker(path)),
    _detected,
    *(_score_reader(name) for name in READERS if name != "lighton"),
)
NAMES = (
    "lines", "lines of texts", "text", "rows", "prompts", "HH-RLHF", "TRL", "JSONL prompts", "sets", "labelled",
    "levels", "ratings", "qrels", "run", "demonstrations", "texts", "responses", "replay", "detected",
    *(name for name in READERS if name != "lighton"),
)  # fmt: skip


def target(data: bytes) -> None:
    """Choice: the reader; options: the name, and what else the file must read the same as."""
    given = opened(data)
    if given.choice % (len(WAYS) + 1) == len(WAYS):
        _lighton(given.parts(b"\0\0"))
        return
    read = WAYS[given.choice % (len(WAYS) + 1)]
    suffix = SUFFIXES[given.options & 3]
    found = _outcome(read, given.body, suffix)
    for bit, twin in ((4, _marked), (8, gzip.compress), (16, _other_ends)):
        if given.options & bit and _is_plain(given.body) and len(given.body) < 2**15:
            again = _outcome(read, twin(given.body), suffix)
            if again != found:
                raise Broken(f"{twin.__name__}: {str(again)[:200]} for {str(found)[:200]}")


def _outcome(read: Reader, content: bytes, suffix: str) -> object:
    """What is read; None where it is refused."""
    with folder() as made:
        path = made / f"file{suffix}"
        path.write_bytes(content)
        try:
            found = read(path)
        except UserError as error:
            if not str(error).strip() or len(str(error)) > 5000:
                raise Broken(f"a message of {len(str(error))} characters") from error
            return None
        check_sound(found)
        return str(found).replace(str(made), "")


def _is_plain(body: bytes) -> bool:
    """Whether it is text without a mark, of one kind of line ends."""
    return not body.startswith((*MAGIC, *MARKS)) and b"\r" not in body


def _marked(body: bytes) -> bytes:
    return b"\xef\xbb\xbf" + body


def _other_ends(body: bytes) -> bytes:
    return body.replace(b"\n", b"\r\n")


def _lighton(parts: list[bytes]) -> None:
    with folder() as made:
        for name, content in zip(TABLES, [*parts, b"", b"", b""], strict=False):
            (made / name).write_bytes(content)
        try:
            check_sound(list(READERS["lighton"](made)))
        except UserError:
            return


ROWS = (
    '{"prompt": "what is a cat", "chosen": "an animal", "rejected": "a plant"}\n',
    '{"prompt": [{"role": "user", "content": "hello"}], "chosen": [{"role": "assistant", "content": "hi"}],'
    ' "rejected": [{"role": "assistant", "content": "go"}]}\n',
    '{"chosen": "\\n\\nHuman: hello\\n\\nAssistant: hi", "rejected": "\\n\\nHuman: hello\\n\\nAssistant: go"}\n',
    '{"instruction": "translate", "input": "cat", "output": "chat", "system": "be brief", "history": [["a", "b"]]}\n',
    '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n',
    '{"input": "a", "output_1": "b", "output_2": "c", "label": 2}\n',
    '{"instruction": "a", "response1": "b", "response2": "c", "annotators": [1, 2, 0]}\n',
    '{"instruction": "a", "completions": [{"response": "b", "overall_score": 0}, {"response": "c", "rank": 4}]}\n',
    '{"prompt": "a", "candidates": ["b", "c"], "grades": [1, 0.5]}\n',
    '{"prompt": "a", "responses": [{"id": "x", "text": "b"}, {"id": 2, "text": "c\\ud83d"}]}\n',
    '[{"prompt": "a"}, {"prompt": "b", "score": 1e-3}]',
    '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "response": "b"}\n',
)
DIALOGUES = (
    '{"context": ["a", "b", "c"], "levels": [["d"], ["e", "f"]]}\n',
    '{"context": ["a"], "positive_responses": ["b"], "adversarial_negative_responses": ["c"],'
    ' "random_negative_responses": []}\n',
    '{"query": "a", "response": "b", "ratings": [1, 2.5]}\n{"context": ["a"], "response": "c", "human": 3}\n',
)
SCORED = (
    '{"query": "a", "pos": ["b"], "neg": ["c", "d"], "pos_scores": [2], "neg_scores": "[1, 0.5]"}\n',
    '{"query": {"text": "a", "qid": 1}, "candidates": [{"docid": "x", "score": 1, "doc": {"text": "b"}}]}\n',
    '{"query": "a", "positive": "b", "negative_1": "c", "source": "web", "scores": [4, 1]}\n',
    '{"anchor": "a", "documents": ["b", "c"], "label": [0.1, 1]}\n',
    "9.5\t1.2\twhat is it\ta cat\ta dog\n",
    "9.5\t1.2\tq1\td1\td2\n",
    "what\ta cat\ta dog\n",
    "q1\td1\twhat\ta cat\nq1\td2\twhat\ta dog\n",
)
TREC = ("q1 0 d1 1\nq1 0 d2 0.5\nq2\t0\td3\t-1\n", "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        "q1 Q0 d1 1 2.5 run\nq2 Q0 d2 1 1e-3 run\nq1 Q0 d3 2 0 run\n", "q1 d1 0.5\n")  # fmt: skip
OURS = (
    '{"messages": [{"role": "user", "content": "a"}], "responses": ["b", "c"], "order": [1, 0], "tags": ["t"]}\n',
    '{"prompt_id": "p", "candidates": [{"id": "0", "text": "a"}, {"id": "1", "text": "b"}], "tiers": [["1", "0"]]}\n',
    '{"prompt_id": "p", "scores": {"0": 1, "1": 1}}\n{"prompt_id": "q", "unranked": "refusal"}\n',
    '{"_id": "d1", "title": "t", "text": "b"}\n',
)


def seeds() -> list[bytes]:
    way = {name: n for n, name in enumerate(NAMES)}
    found = [closed(way[name], row, 0x1C) for name in ("rows", "prompts", "labelled") for row in ROWS]
    found += [closed(way[name], row) for name in ("HH-RLHF", "TRL", "JSONL prompts", "responses") for row in ROWS[:3]]
    found += [closed(way[name], row) for name in ("sets", "responses") for row in ROWS[8:]]
    found += [closed(way[name], row, 4) for name in ("levels", "ratings", "dialogues") for row in DIALOGUES]
    found += [closed(way["detected"], row, n) for row in (*SCORED, *DIALOGUES, *TREC) for n in (0, 1)]
    of_format = {"bge": 0, "rankllm": 1, "ntuples": 2, "margin_mse_text": 4, "margin_mse": 5, "triples": 6, "rerank": 7}
    found += [closed(way[name], SCORED[n], 0x1D) for name, n in of_format.items()]
    found += [closed(way[name], text, 0x1D) for name in ("qrels", "run", "trec") for text in TREC]
    found += [closed(way[name], row) for name in ("demonstrations", "replay", "texts") for row in OURS]
    found += [
        closed(way["lines"], text.encode(code)) for text in TREC[:1] for code in ("utf-16", "utf-32", "utf-8-sig")
    ]
    found += [bytes((way[name], 0, 0xFC)) + b'{"a": 1}\n[[[[[[[[' for name in ("rows", "text", "lines")]
    found += [closed(way["lines"], gzip.compress(b"q1 0 d1 1\n" * 9, mtime=0)[:n]) for n in (None, 20)]
    tables = '{"query_id": 1, "document_ids": [2], "scores": [0.5]}\0\0{"id": 1, "text": "a"}\0\0{"id": 2, "text": "b"}'
    return [*found, closed(len(WAYS), tables)]
