"""Files of others: encodings, line ends, compression and bombs, each by what is read or by the line that refuses it."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.files.foreign import FREE, MAX_RECORD, lines, read_text
from cyclealign.files.foreign_json import MAX_DEPTH, MAX_DIGITS, json_rows, parse_json
from cyclealign.files.strict_yaml import MAX_REPEATED, read_yaml
from cyclealign.files.trec import best_first, finite, read_qrels, read_run
from cyclealign.types import UserError

ROWS = [{"text": "é\u2028\x85\x0b漢", "n": 0}, {"text": "two", "n": [1.5, None]}, {"text": "\ufeff", "n": {}}]
JSONL = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def put(tmp_path: Path, content: bytes, name: str = "a.jsonl") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in json_rows(path)]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(json_rows(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix(str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("array", [False, True])
def test_rows_are_the_same_however_they_are_written(
    tmp_path: Path, encoding: str, end: str, packed: bool, array: bool
) -> None:
    text = "[" + JSONL.replace("\n", ",\n") + "]" if array else JSONL
    content = (text.replace("\n", end) + end).encode(encoding)
    assert read(put(tmp_path, gzip.compress(content) if packed else content, "a.data")) == ROWS


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=40) | st.floats(allow_nan=False), max_size=4)),
    array=st.booleans(),
    escape=st.booleans(),
)
def test_what_python_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, array: bool, escape: bool
) -> None:
    rows = json.loads(json.dumps(rows).replace("Infinity", "1.5"))
    written = [json.dumps(row, ensure_ascii=escape) for row in rows]
    text = f"[{', '.join(written)}]" if array else "\n".join(written)
    path = put(tmp_path_factory.mktemp("rows"), text.encode())
    assert read(path) == rows


def test_files_put_behind_each_other_have_no_mark_inside(tmp_path: Path) -> None:
    marked = '{"a": 1}\n'.encode("utf-8-sig")
    assert read(put(tmp_path, marked + marked)) == [{"a": 1}, {"a": 1}]
    assert read(put(tmp_path, gzip.compress(marked) + gzip.compress(marked) + bytes(9))) == [{"a": 1}, {"a": 1}]


def test_a_lone_surrogate_becomes_a_replacement_and_a_pair_its_character(tmp_path: Path) -> None:
    assert read(put(tmp_path, b'{"a": "\\ud800x \\ud83d\\ude00"}')) == [{"a": "\ufffdx \U0001f600"}]


def test_rows_stand_in_large_arrays_across_the_pieces_that_are_read(tmp_path: Path) -> None:
    rows = [{"n": n, "t": "x" * (n * 7919 % 300_000)} for n in range(20)]
    assert read(put(tmp_path, json.dumps(rows).encode())) == rows
    assert next(place for place, row in json_rows(put(tmp_path, b'[\n{"a": 1},\n{"a": 2}]')) if row["a"] == 2).endswith(
        "a.jsonl:3 (item 2)"
    )


REFUSED: dict[str, tuple[bytes, str]] = {
    "latin 1": ('{"a": 1}\n{"a": "é"}'.encode("latin-1"), ":2: not UTF-8 text: 0xe9 at byte 16; save it as UTF-8"),
    "cut in a letter": (b'{"a": "\xe2\x80', ":1: not UTF-8 text: 0xe2 at byte 7; save it as UTF-8"),
    "a surrogate in UTF-16": (b"\xff\xfe\x00\xd8a\x00", ":1: not UTF-16 text: 0x00 at byte 2; save it as UTF-8"),
    "UTF-16 without its mark": ('{"a": 1}'.encode("utf-16-le"), ":1: holds a NUL character"),
    "zeros where a disk was full": (b'{"a": 1}\n' + bytes(4096), ":2: holds a NUL character"),
    "a cut download": (gzip.compress(b'{"a": 1}\n' * 999)[:-9], "cannot be read as gzip: it ends in the middle"),
    "junk after gzip": (gzip.compress(b'{"a": 1}\n') + b"junk", "cannot be read as gzip"),
    "zip": (b"PK\x03\x04" + bytes(20), ": is a zip archive; unpack it first"),
    "zstd": (gzip.compress(b"\x28\xb5\x2f\xfd" + bytes(20)), ": is compressed by zstd"),
    "NaN": (b'{"a": 1}\n{"a": NaN}', ":2: not JSON: NaN is no JSON number"),
    "infinity": (b'{"a": -Infinity}', ":1: not JSON: -Infinity is no JSON number"),
    "1e999": (b'[{"a": 1e999}]', ":1 (item 1): not JSON: the number 1e999 is too large"),
    "5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", ":1: not JSON: a number of 5000 digits; at most 300"),
    "5,000 decimals": (b'{"a": 0.' + b"9" * 5000 + b"}", ":1: not JSON: a number of 5002 digits; at most 300"),
    "deep": (b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}", f":1: not JSON: nested more than {MAX_DEPTH} deep"),
    "as deep as can be": (b'{"a":' * 99_999, f":1: not JSON: nested more than {MAX_DEPTH} deep"),
    "a key twice": (b'{"a": 1, "b": 2, "a": 3}', ":1: not JSON: the key 'a' stands twice in one object"),
    "a torn line": (b'{"a": 1}\n{"a"', ":2: not JSON: Expecting ':' delimiter at column 5; expected one JSON object a"),
    "two on a line": (b'{"a": 1} {"a": 2}', ":1: not JSON: Extra data at column 10"),
    "a torn array": (b'[{"a": 1},\n{"a": ', ":2 (item 2): not JSON: Expecting value"),
    "an open array": (b'[{"a": 1}', ":1: not JSON: expected ']' after item 1, got the end of the file"),
    "more after an array": (b'[{"a": 1}]\n{"a": 2}', ":2: more text after the end of the array"),
    "a comma too many": (b'[{"a": 1},]', ":1 (item 2): not JSON: Expecting value"),
    "no objects": (b"[1, 2]", ":1 (item 1): expected one JSON object a line, got int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_file_is_one_line_that_names_the_place(tmp_path: Path, name: str) -> None:
    content, says = REFUSED[name]
    assert says in refusal(put(tmp_path, content))


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": cannot be read: Is a directory"
    assert refusal(tmp_path / "none") == ": cannot be read: No such file or directory"
    assert read(put(tmp_path, b"")) == read(put(tmp_path, b"\xef\xbb\xbf\n \n")) == []


@pytest.mark.parametrize("filler", [b"\0", b"a", b" ", b"\n", b'{"a": 1}\n', b'[{"a": 1},'])
def test_a_gzip_bomb_is_refused_after_its_first_bytes(
    tmp_path: Path, filler: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FREE == 2**24
    monkeypatch.setattr("cyclealign.files.foreign.FREE", 2**20)
    path = put(tmp_path, gzip.compress(filler * (2**23 // len(filler))), "bomb.gz")
    with pytest.raises(UserError, match=r"inflates to more than 200 times|NUL character"):
        for _ in lines(path):
            pass


def test_repetition_below_the_bound_is_data(tmp_path: Path) -> None:
    path = put(tmp_path, gzip.compress(b'{"a": 1}\n' * 9_999))
    assert path.stat().st_size * 200 < 9 * 9_999  # far more than the bound allows a large file
    assert len(read(path)) == 9_999


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        tracemalloc.start()
        for _ in json_rows(path):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    row = {"text": "word " * 200}
    for array in (False, True):
        sizes = []
        for count in (1_000, 4_000):
            written = (json.dumps({**row, "n": n}) for n in range(count))
            text = "[" + ",".join(written) + "]" if array else "\n".join(written)
            sizes.append(peak(put(tmp_path, text.encode())))
        assert sizes[1] < 1.3 * sizes[0]


def test_a_record_has_a_bound_and_a_file_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclealign.files.foreign.MAX_RECORD", 2**20)
    monkeypatch.setattr("cyclealign.files.foreign_json.MAX_RECORD", 2**20)
    assert MAX_RECORD == 2**26
    large = b'{"a": "' + b"x" * 2**21 + b'"}'
    assert ":1: a line of more than 1 MiB" in refusal(put(tmp_path, large))
    assert ":1: an item of more than 1 MiB" in refusal(put(tmp_path, b"[" + large * 3 + b"]"))
    assert len(read(put(tmp_path, (b'{"a": "' + b"x" * 999 + b'"}\n') * 4_000))) == 4_000


def test_only_files_without_line_feeds_end_lines_by_carriage_returns_where_fields_are_texts(tmp_path: Path) -> None:
    def fields(content: bytes) -> list[str]:
        return [line for _, line in lines(put(tmp_path, content), texts=True)]

    assert fields(b"q\ta\rb\nr\tc\r\n") == ["q\ta\rb", "r\tc"]
    assert fields(b"q\ta\rr\tb\r") == ["q\ta", "r\tb"]


# YAML ---------------------------------------------------------------------------------------------------------


def yaml_refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        read_yaml(text, "c.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def levels(form: str) -> Iterator[str]:
    yield "a0: &a0 {k: [x, x, x, x, x, x, x, x, x, x]}\n"
    for n in range(1, 10):
        yield f"a{n}: &a{n} " + form % ", ".join([f"*a{n - 1}"] * 10) + "\n"


@pytest.mark.parametrize("form", ["[%s]", "{<<: [%s]}"])
def test_aliases_of_aliases_are_refused(form: str) -> None:
    assert f"aliases repeat more than {MAX_REPEATED:,} values" in yaml_refusal("".join(levels(form)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("b: !!bool no", "this is no bool"),
        ("b: !!bool maybe", "this is no bool"),
        ("b: !!float ''", "this is no float"),
        ("b: !!int [1]", "this is no int"),
        ("b: !!null x", "this is no null"),
        ("b: !!timestamp soon", "values tagged !!timestamp are not read"),
        ("b: !!set {x}", "values tagged !!set are not read"),
        ("b: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_a_tag_that_its_value_does_not_fit_is_refused(text: str, says: str) -> None:
    assert f"c.yaml:2: not valid YAML: {says}" in yaml_refusal(f"a: 1\n{text}\n")


def test_tags_that_say_what_a_value_is_anyway_are_read() -> None:
    assert read_yaml("[!!bool true, !!int 010, !!float 1, !!float .5, !!str 1, !!null ~]", "c.yaml") == [
        True, 10, 1.0, 0.5, "1", None,
    ]  # fmt: skip


def test_aliases_and_numbers_as_people_use_them_stay() -> None:
    text = "base: &b {x: 1, y: [1, 2]}\n" + "".join(f"k{n}: {{<<: *b, z: {n}}}\n" for n in range(500))
    assert read_yaml(text, "c.yaml")["k499"] == {"x": 1, "y": [1, 2], "z": 499}
    assert read_yaml("a: " + "9" * MAX_DIGITS, "c.yaml") == {"a": int("9" * MAX_DIGITS)}
    assert "c.yaml:2: not valid YAML: a number of 5000 digits" in yaml_refusal("b: 1\na: " + "9" * 5000)
    assert "holds it" in yaml_refusal("a: &a [1, *a]")
    assert "nested more than 64 deep" in yaml_refusal("[" * 2_000)


def test_a_config_is_read_as_other_files_are(tmp_path: Path) -> None:
    from cyclealign.config.loading import load_config

    text = "name: x\r\ndata: {prompts: p.jsonl}\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        assert read_text(put(tmp_path, text.encode(encoding), "c.yaml")) == text.replace("\r\n", "\n")
    bomb = put(tmp_path, "".join(levels("[%s]")).encode(), "bomb.yaml")
    with pytest.raises(UserError, match="aliases repeat"):
        load_config(bomb)


def test_json_in_a_column_has_the_same_bounds() -> None:
    for text in ("[NaN]", "[" * 99 + "]" * 99, f"[{'1' * 999}]"):
        with pytest.raises(UserError, match=r"a\.tsv:3: not JSON"):
            parse_json(text, "a.tsv:3")


# TREC ---------------------------------------------------------------------------------------------------------


def test_a_mark_costs_no_query(tmp_path: Path) -> None:
    text = "q1 0 d1 1\nq2\t0\td\u00a02\t2\r\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        found = read_qrels(put(tmp_path, text.encode(encoding)))
        assert found == {"q1": {"d1": 1.0}, "q2": {"d\u00a02": 2.0}}
    assert read_qrels(put(tmp_path, gzip.compress(b"query-id\tcorpus-id\tscore\nq\td\t0.5\n"))) == {"q": {"d": 0.5}}


@pytest.mark.parametrize("grade", ["nan", "inf", "1_0", "1e999", "9" * 5000, "one1", "\u0661"])
def test_a_grade_that_is_no_finite_number_is_refused(tmp_path: Path, grade: str) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl:1: expected a finite number as relevance"):
        read_qrels(put(tmp_path, f"q1 0 d1 {grade}\n".encode()))


def test_marks_that_part_files_are_no_part_of_a_number() -> None:
    assert finite("0.5\x1d") == finite("\x1c0.5\x0c") == 0.5


def test_a_space_in_an_id_between_tabs_is_no_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl:2: expected an id without spaces, got 'doc one'"):
        read_qrels(put(tmp_path, b"q1\td1\t1\nq1\tdoc one\t1\n"))
    assert read_qrels(put(tmp_path, b"q1\t0\td1 1\nq1 0\td2 \t2\n")) == {"q1": {"d1": 1.0, "d2": 2.0}}


def test_lists_of_a_run_that_stand_apart_are_one(tmp_path: Path) -> None:
    run = b"q1 Q0 d1 1 2.5 x\nq2 Q0 d4 1 3 x\nq1 Q0 d2 2 1.5 x\nq2 Q0 d5 2 2 x\n"
    assert read_run(put(tmp_path, run)) == {"q1": {"d1": 2.5, "d2": 1.5}, "q2": {"d4": 3.0, "d5": 2.0}}
    with pytest.raises(UserError, match=r"a\.jsonl:5: document d1 stands twice for query q1"):
        read_run(put(tmp_path, run + b"q1 Q0 d1 3 1 x\n"))
    with pytest.raises(UserError, match=r"a\.jsonl:2: document d1 of query q1 has the grade 1 already"):
        read_qrels(put(tmp_path, b"q1 0 d1 1\nq1 0 d1 2\n"))


def test_equal_scores_stand_as_trec_eval_has_them() -> None:
    assert best_first({"d3": 1.0, "d1": 1.0, "d2": 1.0, "a": 2.0}) == ["a", "d3", "d2", "d1"]


@pytest.mark.parametrize(("value", "number"), [("1e3", 1000.0), ("-.5", -0.5), (0, 0.0), ("1_0", None), (True, None)])
def test_numbers(value: Any, number: float | None) -> None:
    assert finite(value) == number
    assert finite(10**400) is None
