"""The same seed, files and machine: the same run, byte by byte, but for its times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import arguments, finish, judge_server, start

pytestmark = pytest.mark.slow
# Written in order of completion, which a server decides.
BY_COMPLETION = ("candidates.jsonl", "black_box.jsonl")
COMPARED = ("interactions/**/*", "evaluations/**/*", "best/**/*", "prompts/*")
TIMED = ("canary.json", "training_args.bin")  # a gap between two engines; transformers' own, with the output's path


def contents(run: Path) -> dict[str, bytes | list[bytes]]:
    """Every file of a run that says what came of it."""
    found: dict[str, bytes | list[bytes]] = {}
    for path in sorted({p for pattern in COMPARED for p in run.glob(pattern) if p.is_file()}):
        data = path.read_bytes()
        if path.name not in TIMED and "checkpoint" not in path.parts:
            found[str(path.relative_to(run))] = sorted(data.splitlines()) if path.name in BY_COMPLETION else data
    return found


@pytest.mark.timeout(900)
def test_two_runs_of_one_seed_are_the_same(tmp_path: Path) -> None:
    asked = tmp_path / "held_out.jsonl"
    asked.write_text("".join(json.dumps({"prompt": f"What is {n} and {n}?"}) + "\n" for n in range(6)))
    small = ("data.limit=8", f"data.eval_prompts={asked}", "cycle.scorer=overlap", "cycle.max_interactions=1")
    runs = []
    with judge_server(tmp_path / "log.jsonl") as url:
        for name in ("first", "second"):
            code, output = finish(start("run", *arguments(tmp_path / name, url, *small), anew=name == "second"))
            assert code == 0, output
            runs.append(contents(tmp_path / name / "r"))
    first, second = runs
    assert {Path(name).name for name in first} >= {
        *BY_COMPLETION,
        *("white_box.jsonl", "agreement.jsonl", "demonstrations.jsonl", "train.jsonl", "summary.json", "metrics.json"),
        *("adapter_model.safetensors", "kept.json"),
    }
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
