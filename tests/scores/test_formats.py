"""Score files by value: what is read from published layouts, what is written, and both ways round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cyclealign.scores.formats import READERS, WRITERS, detect, write
from cyclealign.scores.jsonl_formats import read_texts
from cyclealign.scores.score_list import Item, ScoreList
from cyclealign.types import UserError, sha256_hex


def saved(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def plain(lists: Sequence[ScoreList]) -> list[tuple[object, ...]]:
    """Texts where there are any, else ids."""
    return [
        (
            item.query.text or item.query.id,
            [d.text or d.id for d in item.documents],
            None if item.scores is None else list(item.scores),
            item.positives,
        )
        for item in lists
    ]


LITTLE = {
    "margin_mse": ("a.tsv", "7.5\t-1.25\tq1\td1\td2\n", [("q1", ["d1", "d2"], [7.5, -1.25], 1)]),
    "margin_mse_text": (
        "a.tsv",
        '1\t2.5\twhat is "it\tthe one\tnot\tis\n'.replace("\tis\n", "\n"),
        [('what is "it', ["the one", "not"], [1.0, 2.5], 1)],
    ),
    "margin_mse_text-chunks": (
        "a.tsv",
        "1\t2.5\tq\tpos\tneg\t0.5 1.0\t2.5 0.1\n",
        [("q", ["pos", "neg"], [1.0, 2.5], 1)],
    ),
    "triples": ("a.tsv", "q\tpos\tneg\n\nr\tp\tn\r\n", [("q", ["pos", "neg"], None, 1), ("r", ["p", "n"], None, 1)]),
    "rerank": (
        "a.tsv",
        "q1\td1\thow\tone\nq1\td2\thow\ttwo\nq2\td1\twhy\tone\n",
        [("how", ["one", "two"], None, 0), ("why", ["one"], None, 0)],
    ),
    "trec": (
        "a.run",
        "q1 Q0 d1 1 3.5 tag\nq1 Q0 d2 2 1e-2 tag\nq2 Q0 d1 1 0 tag\n",
        [("q1", ["d1", "d2"], [3.5, 0.01], 0), ("q2", ["d1"], [0.0], 0)],
    ),
    "trec-3": ("a.run", "q1\td1\t3.5\nq1\td2\t2\n", [("q1", ["d1", "d2"], [3.5, 2.0], 0)]),
    "bge": (
        "a.jsonl",
        '{"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [0.9], "neg_scores": [0.1, 0.2]}\n'
        '{"query": "r", "pos": ["a", "b"], "neg": ["c"]}\n',
        [("q", ["a", "b", "c"], [0.9, 0.1, 0.2], 1), ("r", ["a", "b", "c"], None, 2)],
    ),
    "rankllm": (
        "a.jsonl",
        '{"query": {"text": "q", "qid": 7}, "candidates": [{"docid": "x", "score": 0.1, "doc": {"contents": "first"}},'
        ' {"docid": "y", "score": 9.0, "doc": {"segment": "second"}}]}\n',
        [("q", ["first", "second"], [1.0, 0.0], 0)],
    ),
    "rankllm-array": (
        "a.json",
        '[{"query": {"text": "q", "qid": "7"}, "candidates": [{"docid": "x", "score": 0.1, "doc": "first"}]}]',
        [("q", ["first"], [0.0], 0)],
    ),
    "ntuples": (
        "a.jsonl",
        '{"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "label": [3.0, 2.0, 1.0]}\n'
        '{"anchor": "q", "positive": "a", "negative": "b", "label": 1.5}\n'
        '{"query": "q", "docs": ["a", "b", "c"], "labels": [3, 2.5, 1]}\n'
        '{"query": "q", "positive": "a", "negative": "b"}\n',
        [
            ("q", ["a", "b", "c"], [3.0, 2.0, 1.0], 1),
            ("q", ["a", "b"], [0.0, -1.5], 1),
            ("q", ["a", "b", "c"], [3.0, 2.5, 1.0], 1),
            ("q", ["a", "b"], None, 1),
        ],
    ),
    "sets": (
        "a.jsonl",
        '{"prompt": "hello", "candidates": ["a", {"id": "z", "text": "b"}]}\n',
        [("hello", ["a", "b"], None, 0)],
    ),
}


@pytest.mark.parametrize("name", LITTLE)
def test_reads_the_published_layout(name: str, tmp_path: Path) -> None:
    file, content, expected = LITTLE[name]
    path = saved(tmp_path / file, content)
    format = name.partition("-")[0]
    assert plain(list(READERS[format](path))) == expected
    assert detect(path, ids=format == "margin_mse") == format


def lighton(folder: Path, *, encoded: bool) -> Path:
    folder.mkdir()
    ids, scores = ["1", "2"], [0.5, -1.5]
    row = {"query_id": "q", "document_ids": ids, "scores": scores}
    if encoded:
        row = {"query_id": "q", "document_ids": json.dumps(ids), "scores": json.dumps(scores)}
    saved(folder / "train.jsonl", json.dumps(row) + "\n")
    saved(folder / "queries.jsonl", '{"query_id": "q", "text": "how"}\n')
    saved(folder / "documents.jsonl", '{"document_id": "1", "text": "one"}\n{"document_id": "2", "text": "two"}\n')
    return folder


@pytest.mark.parametrize("encoded", [False, True])
def test_reads_three_tables_with_lists_or_their_strings(encoded: bool, tmp_path: Path) -> None:
    folder = lighton(tmp_path / "kd", encoded=encoded)
    assert detect(folder, ids=False) == "lighton"
    assert plain(list(READERS["lighton"](folder))) == [("how", ["one", "two"], [0.5, -1.5], 0)]


def test_an_id_for_a_text_is_its_hash(tmp_path: Path) -> None:
    (item,) = READERS["triples"](saved(tmp_path / "a.tsv", "q\tpos\tneg\n"))
    assert item.documents[0] == Item(sha256_hex("pos")[:32], "pos")


SCORED = [
    ScoreList(
        query=Item("q1", "how\tmany"),
        documents=(Item("d1", "one"), Item("d2", "two\nlines"), Item("d3", "three")),
        scores=(0.1 + 0.2, -1.0, 1e-17),
        positives=1,
    ),
    ScoreList(query=Item("q2", "why"), documents=(Item("d1", "one"), Item("d4", "so")), scores=(2.0, 1.0), positives=1),
]


def test_written_margin_mse_has_each_positive_with_each_other_and_every_digit(tmp_path: Path) -> None:
    write("margin_mse", tmp_path / "ids.tsv", SCORED)
    assert (tmp_path / "ids.tsv").read_text() == (
        "0.30000000000000004\t-1.0\tq1\td1\td2\n0.30000000000000004\t1e-17\tq1\td1\td3\n2.0\t1.0\tq2\td1\td4\n"
    )
    write("margin_mse_text", tmp_path / "texts.tsv", SCORED)
    assert (tmp_path / "texts.tsv").read_text().splitlines()[0] == "0.30000000000000004\t-1.0\thow many\tone\ttwo lines"


def test_written_run_is_sorted(tmp_path: Path) -> None:
    write("trec", tmp_path / "a.run", SCORED)
    assert (tmp_path / "a.run").read_text().splitlines()[:3] == [
        "q1 Q0 d1 1 0.30000000000000004 cyclealign",
        "q1 Q0 d3 2 1e-17 cyclealign",
        "q1 Q0 d2 3 -1.0 cyclealign",
    ]


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_written_is_read_back(format: str, tmp_path: Path) -> None:
    name = {"lighton": "kd", "margin_mse": "a.tsv", "margin_mse_text": "a.tsv", "trec": "a.run"}.get(format, "a.jsonl")
    lists = SCORED[1:]
    write(format, tmp_path / name, lists)
    assert detect(tmp_path / name, ids=format == "margin_mse") == format
    (got,) = READERS[format](tmp_path / name)
    ids_only = format in ("margin_mse", "trec")
    texts = [d.id if ids_only else d.text for d in lists[0].documents]
    assert [d.id if ids_only else d.text for d in got.documents] == texts
    assert got.scores == ((1.0, 0.0) if format == "rankllm" else (2.0, 1.0))


def test_write_touches_nothing_that_stands_aside_already(tmp_path: Path) -> None:
    """Of another process that writes the same, or of nobody's here."""
    saved_aside = tmp_path / ".kd.part"
    saved_aside.mkdir()
    saved(saved_aside / "notes.txt", "mine")
    write("lighton", tmp_path / "kd", SCORED)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".kd.part", "kd"]
    assert (saved_aside / "notes.txt").read_text() == "mine"


def test_write_leaves_nothing_half_done(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a known positive"):
        write("margin_mse", tmp_path / "a.tsv", [*SCORED, ScoreList(query=Item("q"), documents=(), scores=())])
    nameless = ScoreList(query=Item("q"), documents=(Item("d"),), scores=(1.0,))
    with pytest.raises(UserError, match="a text is missing"):
        write("lighton", tmp_path / "kd", [*SCORED, nameless])
    assert list(tmp_path.iterdir()) == []
    saved(tmp_path / "a.tsv", "mine")
    with pytest.raises(UserError, match="is there already"):
        write("margin_mse", tmp_path / "a.tsv", SCORED)


WRONG = [
    ("margin_mse", "a.tsv", "1\t2\tq\td\n", "a.tsv:1: expected 5 tab-separated columns, got 4"),
    ("margin_mse", "a.tsv", "1\tnan\tq\td\te\n", "a.tsv:1: expected a finite score, got 'nan'"),
    ("triples", "a.tsv", "q\tp\tn\nq\tp\n", "a.tsv:2: expected 3 tab-separated columns, got 2"),
    ("trec", "a.run", "q Q0 d 1 2\n", "a.run:1: expected 6 columns"),
    ("bge", "a.jsonl", '{"query": 3, "pos": [], "neg": []}\n', "a.jsonl:1: query: expected text, got 3"),
    (
        "bge",
        "a.jsonl",
        '{"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1], "neg_scores": []}\n',
        "a.jsonl:1: neg_scores: expected a score for each of 1 documents, got 0",
    ),
    (
        "bge",
        "a.jsonl",
        '{"query": "q", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [1], "neg_scores": [2, 3]}\n',
        "a.jsonl:1: pos_scores: expected a score for each of 2 documents, got 1",
    ),
    (
        "bge",
        "a.jsonl",
        '{"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1]}\n',
        "a.jsonl:1: neg_scores: expected a score for each of 1 documents, got 0",
    ),
    ("rankllm", "a.jsonl", '{"query": "q", "candidates": []}\n', "a.jsonl:1: expected query {text, qid}"),
    (
        "rankllm",
        "a.jsonl",
        '{"query": {"text": "q"}, "candidates": [{"docid": 1, "doc": ["x"]}]}\n',
        "a.jsonl:1: candidates: doc: expected text or an object with one, got list",
    ),
    (
        "rankllm",
        "a.jsonl",
        '{"query": {"text": 5, "qid": 1}, "candidates": []}\n',
        "a.jsonl:1: query: text: expected text, got 5",
    ),
    ("ntuples", "a.jsonl", '{"query": "q", "label": 1}\n', "a.jsonl:1: expected a query and documents"),
    ("ntuples", "a.jsonl", '{"query": "q", "pos": "x", "neg": "y", "label": [1, 2, 3]}\n', "a score for each of 2"),
    (
        "ntuples",
        "a.jsonl",
        '{"query": "q", "documents": ["a", "b", "c"], "scores": [3, 1]}\n',
        "each of 3 documents, got 2",
    ),
    ("ntuples", "a.jsonl", '{"query": "q", "documents": ["a"], "scores": []}\n', "each of 1 documents, got 0"),
]


@pytest.mark.parametrize(("format", "name", "content", "message"), WRONG, ids=lambda v: str(v)[:20])
def test_a_wrong_line_is_named(format: str, name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        list(READERS[format](saved(tmp_path / name, content)))
    assert message in str(error.value)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"q\tp\tn\nq\t\xff\tn\n")
    with pytest.raises(UserError, match=r"a\.tsv:2: not UTF-8 text"):
        list(READERS["triples"](tmp_path / "a.tsv"))
    with pytest.raises(UserError, match=r"b\.tsv: no such file"):
        detect(tmp_path / "b.tsv", ids=False)
    with pytest.raises(UserError, match=r"c\.txt: no known format; name it by --format"):
        detect(saved(tmp_path / "c.txt", "just words\n"), ids=False)


@pytest.mark.parametrize(
    "row",
    [
        {"query": "a ?", "response": "b", "human": [4, 5]},
        {"prompt": "a ?", "response": "b", "rating": 4},
        {"messages": [{"role": "user", "content": "a ?"}], "response": "b"},
        {"query": "a ?", "levels": [["b"], ["c"]]},
        {"context": ["a ?"], "response": "b"},
    ],
)
def test_dialogues_are_seen_in_every_form_that_their_readers_take(row: dict[str, object], tmp_path: Path) -> None:
    path = saved(tmp_path / "d.jsonl", json.dumps(row) + "\n")
    assert detect(path, ids=False) == "dialogues"
    (found,) = READERS["dialogues"](path)
    assert found.query.text == "a ?"
    assert found.documents[0].text == "b"


def test_collections_of_texts(tmp_path: Path) -> None:
    assert list(read_texts(saved(tmp_path / "q.tsv", "1\thow\n2\twhy\n"))) == [("1", "how"), ("2", "why")]
    beir = saved(tmp_path / "c.jsonl", '{"_id": "1", "title": "Cats", "text": "They sleep."}\n')
    assert list(read_texts(beir)) == [("1", "Cats. They sleep.")]
    with pytest.raises(UserError, match="expected an id and a text"):
        list(read_texts(saved(tmp_path / "w.jsonl", '{"text": "x"}\n')))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"id": "1", "url": "u", "text": "t"}, "t"),
        ({"id": "1", "url": "u", "passage": "t"}, "t"),
        ({"query_id": "1", "lang": "en", "question": "t"}, "t"),
        ({"_id": "1", "query": "q", "text": "t"}, "t"),
        ({"id": "1", "fact": "t", "year": 3, "source": None}, "t"),
        ({"source_id": "wiki", "id": "1", "fact": "t"}, "t"),
    ],
)
def test_the_text_is_the_column_that_is_named_so(row: dict[str, object], text: str, tmp_path: Path) -> None:
    assert list(read_texts(saved(tmp_path / "c.jsonl", json.dumps(row) + "\n"))) == [("1", text)]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "url": "u", "abstract": "a"},
        {"id": "1", "query": "q", "passage": "p"},
        {"id": "1", "url": "u", "text": None},
        {"id": "1", "url": "u", "passage": None},
        {"id": "1", "title": "t"},
    ],
)
def test_no_text_is_guessed_among_several_columns(row: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        list(read_texts(saved(tmp_path / "c.jsonl", json.dumps(row) + "\n")))
    assert str(error.value) == (
        f"{tmp_path / 'c.jsonl'}:1: expected an id and a text, of several one named text, contents, content, body,"
        f" segment, passage, document, query, question or claim; got the columns {', '.join(row)}"
    )


# Other people's columns ------------------------------------------------------------------------------------------

TUPLES: list[tuple[dict[str, object], list[str], list[float] | None]] = [
    ({"query": "q", "positive": "cat", "negative": "dog", "source": "wiki", "scores": [4, 1]}, ["cat", "dog"], [4, 1]),
    ({"source": "wiki", "id": "7", "negative": "dog", "query": "q", "positive": "cat", "scores": [1, 4]},
     ["cat", "dog"], [4, 1]),
    ({"anchor": "q", "lang": "en", "positive": "cat", "negatives": ["dog", "cow"], "label": [4, 1, 0]},
     ["cat", "dog", "cow"], [4, 1, 0]),
    ({"query": "q", "negative": "dog", "positive": "cat", "label": 0}, ["cat", "dog"], [0, 0]),
    ({"query": "q", "positive": "cat", "negative_1": None, "negative_2": "dog"}, ["cat", "dog"], None),
]  # fmt: skip


@pytest.mark.parametrize(("row", "texts", "scores"), TUPLES)
def test_columns_of_tuples_are_told_by_name(
    row: dict[str, object], texts: list[str], scores: list[float] | None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    assert plain(list(READERS["ntuples"](path))) == [("q", texts, scores, 1)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": "q", "positive": "cat", "negative": "dog", "comment": "nice"}, "column 'comment' may be a document"),
        (
            {"query": "q", "positive": "cat", "distractor": "dog", "scores": [1]},
            "column 'distractor' may be a document",
        ),
        ({"query": "q", "positive": "cat", "margin": 0.5}, "column 'margin' may be a document"),
        ({"a": "q", "b": "cat", "c": "dog"}, "expected a query and documents: one column of query, anchor"),
        ({"query": "q", "anchor": "q", "positive": "cat"}, "expected a query and documents"),
    ],
)
def test_a_column_that_could_be_anything_is_refused(row: dict[str, object], says: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: ") as error:
        list(READERS["ntuples"](path))
    assert says in str(error.value)


def test_an_id_is_what_is_there_and_zero_is_one(tmp_path: Path) -> None:
    rows = '{"query": {"text": "q", "qid": %s}, "candidates": [{"docid": 0, "doc": "x"}]}\n'
    path = saved(tmp_path / "a.jsonl", rows % "0" + rows % "null")
    assert [(i.query.id, i.documents[0].id) for i in READERS["rankllm"](path)] == [
        ("0", "0"),
        (Item.of_text("q").id, "0"),
    ]
    with pytest.raises(UserError, match="objects with docid"):
        list(READERS["rankllm"](saved(tmp_path / "b.jsonl", (rows % "1").replace("0", "null"))))
    assert list(read_texts(saved(tmp_path / "c.jsonl", '{"_id": 0, "text": "x"}\n'))) == [("0", "x")]
    with pytest.raises(UserError, match=r"d\.jsonl:1: expected an id and a text"):
        list(read_texts(saved(tmp_path / "d.jsonl", '{"_id": null, "text": "x"}\n')))


@pytest.mark.parametrize(
    ("format", "line", "says"),
    [
        ("margin_mse_text", "9.5\t1.2\twhat sleeps\tthe cat\tsleeps\ta dog\truns", "a text may hold no tab"),
        ("margin_mse_text", "9.5\t1.2\tq\tp\tn\t0.5\t[1, x]", "got '[1, x]'; a text may hold no tab"),
        ("margin_mse", "9.5\t1.2\twhat sleeps\td1\td2", "expected an id without spaces, got 'what sleeps'"),
        ("rerank", "what\tsleeps here\ta cat\ta dog", "expected an id without spaces, got 'sleeps here'"),
        ("margin_mse", "9_5\t1.2\tq\td1\td2", "expected a finite score, got '9_5'"),
    ],
)
def test_a_tab_inside_a_text_is_found(format: str, line: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.tsv:1: ") as error:
        list(READERS[format](saved(tmp_path / "a.tsv", line + "\n")))
    assert says in str(error.value)


def test_seven_columns_with_numbers_at_the_end_are_five(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tsv", "9.5\t1.2\tq\tp\tn\t0.5 0.25\t[1, 2]\n")
    assert plain(list(READERS["margin_mse_text"](path))) == [("q", ["p", "n"], [9.5, 1.2], 1)]


def test_an_interleaved_run_is_one_list_a_query_and_is_written_so(tmp_path: Path) -> None:
    run = "q1 Q0 d1 1 3 x\nq2 Q0 d4 1 3 x\nq1 Q0 d2 2 2 x\nq2 Q0 d5 2 2 x\n"
    lists = list(READERS["trec"](saved(tmp_path / "a.run", run)))
    assert [(i.query.id, [d.id for d in i.documents], i.scores) for i in lists] == [
        ("q1", ["d1", "d2"], (3.0, 2.0)),
        ("q2", ["d4", "d5"], (3.0, 2.0)),
    ]
    apart = [
        ScoreList(query=Item("q"), documents=(Item(d), Item("e")), scores=(s, 1.0)) for d, s in (("a", 1), ("f", 2))
    ]
    write("trec", tmp_path / "b.run", apart)
    assert [line.split()[:4] for line in (tmp_path / "b.run").read_text().splitlines()] == [
        ["q", "Q0", "f", "1"],
        ["q", "Q0", "e", "2"],
        ["q", "Q0", "a", "3"],
    ]
    with pytest.raises(UserError, match=r"a\.tsv:3: query q came before; put its lines together"):
        list(READERS["rerank"](saved(tmp_path / "a.tsv", "q\ta\tx\ty\nr\ta\tx\ty\nq\tb\tx\tz\n")))
