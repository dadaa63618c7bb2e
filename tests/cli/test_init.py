"""``cyclealign init``: what it writes loads, runs dry after the edits it names, and has every key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.strict_yaml import read_yaml

Captured = pytest.CaptureFixture[str]
RANKER = "def rank(prompt, responses):\n    return [-len(r) for r in responses]\n"


@pytest.mark.parametrize("judge", ["openai", "local", "python"])
def test_after_the_named_edits_it_runs_dry(
    judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine.yaml", "--judge", judge]) == 0
    said = capsys.readouterr().out.splitlines()
    edits = {"data.prompts": "own.jsonl", "black_box.model": "gpt-x", "black_box.path": "own.py:rank"}
    text = Path("mine.yaml").read_text("utf-8")
    for line in said:
        if line.startswith("edit "):
            key, _, placeholder = line.removeprefix("edit ").partition(": ")
            assert text.count(f" {placeholder}\n") == 1
            text = text.replace(f" {placeholder}\n", f" {edits[key]}\n")
    Path("mine.yaml").write_text(text, "utf-8")
    write_jsonl(Path("own.jsonl"), [{"prompt": f"What is {n}?"} for n in range(4)])
    Path("own.py").write_text(RANKER, "utf-8")
    assert main(said[-1].removeprefix("then: cyclealign ").split()) == 0
    assert "prompts: 4 to train on" in capsys.readouterr().out
    schema = json.loads(Path("cyclealign.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(read_yaml(text, "mine.yaml"))
    assert text.startswith("# yaml-language-server: $schema=cyclealign.schema.json\n")


def test_what_is_commented_out_is_every_other_key_with_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--prompts", "p.jsonl", "--model", "m"]) == 0
    text = Path("run.yaml").read_text("utf-8")
    Path("all.yaml").write_text(re.sub(r"^( *)#(?=\S)", r"\1", text, flags=re.M), "utf-8")
    written = load_config("all.yaml")
    assert written == load_config("run.yaml")
    assert (written.data.prompts, written.policy.model) == ("p.jsonl", "m")
    raw = read_yaml(Path("all.yaml").read_text("utf-8"), "all.yaml")
    assert set(raw) == set(Config.model_fields)
    for name in ("data", "policy", "generator", "black_box", "demonstrations", "anchor", "cycle", "drift"):
        assert set(raw[name]) == set(type(getattr(written, name)).model_fields), name


def test_nothing_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("mine", "utf-8")
    assert main(["init"]) == 2
    assert "run.yaml: is there already" in capsys.readouterr().err
    assert Path("run.yaml").read_text("utf-8") == "mine"
    assert not Path("cyclealign.schema.json").exists()
    assert main(["init", "nowhere/run.yaml"]) == 2
    assert "there is no directory nowhere" in capsys.readouterr().err
