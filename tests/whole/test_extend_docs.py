"""docs/extend.md: its files are written and its commands run, as they stand there; each file is short."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from links import ROOT
from page_blocks import blocks

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.cycle.starting import resumed_cycle
from cyclealign.files.jsonl import read_jsonl
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import CodeUsed, Versions
from cyclealign.rankers.own_code import read_code
from cyclealign.types import UserError

FOUND = blocks(ROOT / "docs" / "extend.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page has been followed."""
    here = tmp_path_factory.mktemp("extend")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("XDG_STATE_HOME", str(here / "state"))
        for block in FOUND:
            if block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
            for line in block.text.splitlines() if block.language == "sh" else ():
                assert main(shlex.split(line)[1:]) == 0, line
    return here


def test_every_block_is_a_file_or_a_command() -> None:
    assert [b.title or b.language for b in FOUND] == [
        "lists.jsonl", "margins.py", "sh", "brief.py", "sh", "overlap.py", "sh"
    ]  # fmt: skip
    assert all(len(b.text.splitlines()) <= 30 for b in FOUND)


def test_ranker_and_scorer_say_what_the_page_says(folder: Path) -> None:
    orders = [row["tiers"] for row in read_jsonl(folder / "order.jsonl")]
    assert orders == [[["2"], ["0"], ["1"]]] * 2
    scores = [row["scores"] for row in read_jsonl(folder / "scores.jsonl")]
    assert scores == [{"0": 0.0, "1": 1 / 6, "2": 0.0}, {"0": 1.0, "1": 0.25, "2": 0.0}]


def test_the_run_keeps_its_loss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = RunDir(folder / "runs" / "own-loss")
    rows = [json.loads(line) for line in run.interaction(0).train_log.read_text("utf-8").splitlines()]
    assert rows[0]["loss"] > 0
    code = read_code("margins.py:margins", "x")
    assert (run.prompts / "loss.py").read_bytes() == code.source
    used = read_record(Versions, run.prompts / "versions.json")
    assert used == Versions(loss=CodeUsed(source="margins.py:margins", sha256=code.digest))
    assert load_config(run.config).loss.needs == "magnitude"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "another"))
    with pytest.raises(UserError, match=r"loss\.py: the run would run this Python \(margins, .*--trust-code"):
        resumed_cycle(run.path)
    (run.prompts / "loss.py").write_text("def margins(student, teacher):\n    return student.sum()\n")
    with pytest.raises(UserError, match=r"loss\.py: is not what the run began with"):
        resumed_cycle(run.path, trust_code=True)
