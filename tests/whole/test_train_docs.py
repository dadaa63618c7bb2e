"""docs/train.md against the code: its commands run in their order, its table has every key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cyclealign.cli.main import main
from cyclealign.config.schema import ListsConfig
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.run_dir import RunDir

DOC = (Path(__file__).resolve().parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^cyclealign (.*)$", DOC, re.M)


def test_every_key_of_lists_is_in_the_table_with_its_default() -> None:
    cells = [line.split("|")[1:3] for line in DOC.splitlines() if line.startswith("| `")]
    defaults = {key.strip(" `"): default.strip(" `") for key, default in cells}
    for name, field in ListsConfig.model_fields.items():
        shown = "" if field.is_required() else "null" if field.default is None else str(field.default)
        assert defaults[name] == shown, name


def test_the_commands_run_and_leave_the_files_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"number {n}", "responses": ["yes", "no", "maybe"], "scores": [n, 1, -n]} for n in range(2, 14)]
    write_jsonl(Path("lists.jsonl"), rows)
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        assert main(shlex.split(command)) == 0, command
    run = RunDir(Path("runs/lists"))
    tree = DOC.partition("runs/NAME/\n")[2].partition("```")[0]
    for folder, names in re.findall(r"^  (\S+/?)\s+(.*)$", tree, re.M):
        assert (run.path / folder).exists(), folder
        for name in re.findall(r"[a-z_]+\.jsonl", names):
            assert (run.path / folder / name).exists(), name
    assert (run.path / "export" / "preferences.jsonl").exists()
    assert (run.path / "export" / "adapter" / "README.md").exists()
