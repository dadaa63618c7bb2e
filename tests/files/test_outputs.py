"""An output eats no input, and one process writes it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cyclealign.cli.main import main
from cyclealign.files.locks import Lock
from cyclealign.files.outputs import hold, output, release
from cyclealign.files.records import write_record
from cyclealign.rankers.verdict_file import MadeBy, Verdicts
from cyclealign.types import UserError

RUN = "q1 Q0 d1 1 2.0 r\nq1 Q0 d2 2 1.0 r\n"


@pytest.fixture
def trec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("qrels").write_text("q1 0 d1 1\n")
    Path("run.json").write_text(RUN)
    return tmp_path


def test_a_result_written_over_an_input_or_a_strange_file(trec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "run.json"]) == 2
    assert "choose another name" in capsys.readouterr().err
    assert Path("run.json").read_text() == RUN
    Path("package.json").write_text('{"name": "mine"}')
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "package.json"]) == 2
    assert "no result of cyclealign" in capsys.readouterr().err
    assert Path("package.json").read_text() == '{"name": "mine"}'
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "one.json"]) == 0
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "one.json"]) == 0  # our own may be made anew
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "two.json"]) == 0
    before = Path("one.json").read_bytes()
    assert main(["eval", "compare", "one.json", "two.json", "--out", "one.json"]) == 2
    assert Path("one.json").read_bytes() == before
    assert not list(trec.glob(".*"))


def test_a_result_in_use(trec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = Lock(trec / ".one.json.lock", "x")
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "one.json"]) == 2
    assert capsys.readouterr().err == "error: --out one.json is in use by another process\n"
    assert not Path("one.json").exists()
    lock.close(remove=True)
    assert main(["eval", "retrieval", "qrels", "run.json", "--out", "one.json"]) == 0


def test_a_store_in_use_or_an_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, store = tmp_path / "sets.jsonl", tmp_path / "s.sqlite"
    file.write_text(json.dumps({"prompt": "p", "candidates": ["a", "bb"]}) + "\n")
    command = ["score", str(file), "--teacher", "overlap", "--store"]
    assert main([*command, str(file)]) == 2
    assert "is an input" in capsys.readouterr().err
    with output(store, []):
        assert main([*command, str(store)]) == 2
        assert "in use by another process" in capsys.readouterr().err


def test_what_a_command_holds_is_given_back(tmp_path: Path) -> None:
    hold(tmp_path / "o", [])
    with pytest.raises(UserError, match="in use"):
        hold(tmp_path / "o", [])
    release()
    hold(tmp_path / "o", [])
    release()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(UserError, match="--out x: cannot be locked: No locks available; use a local disk"):
        Lock(tmp_path / "lock", "--out x")


def test_a_strange_file_beside_verdicts_is_not_written_over(tmp_path: Path) -> None:
    made_by = MadeBy(input="i", ranker="r", seed=1, settings="s")
    beside = tmp_path / "out.jsonl.about.json"
    beside.write_text('{"name": "mine"}')
    with pytest.raises(UserError, match=r"out\.jsonl\.about\.json: "):
        Verdicts(tmp_path / "out.jsonl", made_by)
    assert beside.read_text() == '{"name": "mine"}'
    write_record(beside, made_by)  # ours, of verdicts that were removed
    assert Verdicts(tmp_path / "out.jsonl", made_by).kept == {}
