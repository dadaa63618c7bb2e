"""docs/run_directory.md against what a run writes: every file is described, every example line has the real fields."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import config_in, make_cycle

from cyclealign.files.began import Began
from cyclealign.files.jsonl import read_json, read_jsonl
from cyclealign.files.records import decode, read_record
from cyclealign.files.run_figures import CascadeFit, Metrics, Summary
from cyclealign.files.run_records import VerdictRecord, verdict_record
from cyclealign.files.run_state import Canary, Kept, ListsTaken, State, Versions

DOC = (Path(__file__).resolve().parents[2] / "docs" / "run_directory.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(line) for block in re.findall(r"```json\n(.*?)```", DOC, re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_in(tmp_path_factory.mktemp("run"), demonstrations={"gate": -1.0})
    return make_cycle(config, n_prompts=3).run()


def described(fields: set[str]) -> bool:
    return any(set(e) == fields for e in EXAMPLES)


@pytest.mark.parametrize(
    "name",
    [
        *("state.json", "timings.jsonl", "best/kept.json"),
        *(f"evaluations/0000/{f}" for f in ("candidates.jsonl", "metrics.json")),
        *(f"interactions/0000/{f}" for f in ("canary.json", "candidates.jsonl", "white_box.jsonl", "agreement.jsonl")),
        *(f"interactions/0000/{f}" for f in ("demonstrations.jsonl", "summary.json")),
    ],
)
def test_examples_have_the_fields_of_the_records(run: Path, name: str) -> None:
    path = run / name
    record: dict[str, Any] = read_json(path) if path.suffix == ".json" else next(iter(read_jsonl(path)))
    optional = {"stopped"} if name == "state.json" else set()  # only of a run that has finished
    assert described(set(record) - optional), f"{name}: {sorted(record)}"


def test_verdict_examples_are_verdicts() -> None:
    verdicts = [e for e in EXAMPLES if "tiers" in e or "detail" in e]
    assert len(verdicts) == 4
    for example in verdicts:
        assert json.loads(json.dumps(verdict_record(decode(VerdictRecord, example).verdict))) == example


def test_examples_of_whole_files_are_read_by_their_records(tmp_path: Path) -> None:
    kinds = (Began, State, Kept, Canary, Versions, Summary, Metrics, CascadeFit, ListsTaken)
    read = []
    for number, example in enumerate(e for e in EXAMPLES if "format" in e):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(example), encoding="utf-8")
        fits = [kind for kind in kinds if set(example) <= {"format", *(f.name for f in dataclasses.fields(kind))}]
        read += [type(read_record(kind, path)) for kind in fits]
    assert sorted(k.__name__ for k in read) == sorted(k.__name__ for k in kinds)


def test_every_file_of_a_run_is_described(run: Path) -> None:
    for path in run.rglob("*"):
        if path.is_file() and path.name not in ("config.json", "weights"):  # the fakes' own
            assert path.name in DOC, path.relative_to(run)
