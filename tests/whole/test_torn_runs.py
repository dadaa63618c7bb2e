"""Every file of a finished run cut, emptied, zeroed or removed: what reads runs is right, or says one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_run import hand_made_run

from cyclealign.cli.main import main

COMMANDS = (("status", "RUN"), ("report", "RUN"), ("export", "RUN", "--pairs", "all", "--out", "OUT"))
COMPARE = ("eval", "compare", "RUN", "OTHER", "--out", "compared.json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("whole", "other"):
        hand_made_run(folder / name, name=name, n_eval=4, n_train=3, interactions=2, k=3)
    return folder


def damages(content: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Ways to lose a part of a file; None: the file itself."""
    for share in (0.0, 0.6):
        yield f"cut at {share}", content[: int(len(content) * share)]
    yield "without its last byte", content[:-1]
    yield "zeros", bytes(len(content))
    yield "no text", b"\xff\xfe\xfa" + content[3:]
    yield "another value", b"[1, 2]\n"
    yield "deep", b"[" * 100_000 + b"\n"
    yield "removed", None


def files_of(run: Path) -> list[str]:
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and "adapter" not in p.parts)


NAMES = [
    *("config.yaml", "environment.json", "ledger.sqlite", "state.json", "timings.jsonl", "best/kept.json"),
    *("prompts/train.jsonl", "prompts/eval.jsonl"),
    *(f"evaluations/0001/{n}" for n in ("candidates.jsonl", "metrics.json")),
    *(
        f"interactions/0001/{n}.jsonl"
        for n in ("agreement", "black_box", "candidates", "demonstrations", "train", "white_box")
    ),
    "interactions/0001/summary.json",
]


def test_no_file_is_left_out(runs: Path) -> None:
    numbered = {f"{name.split('/')[0]}/{n:04d}/{Path(name).name}" for name in NAMES if "0001" in name for n in range(3)}
    assert set(files_of(runs / "whole")) <= {*NAMES, *numbered}


# All damages of all files are the long form; the short one takes two of each file, others from file to file.
SHORT = [(name, {n, (n + 4) % 8}) for n, name in enumerate(NAMES)]
LONG = [pytest.param(name, set(range(8)), marks=pytest.mark.long, id=f"{name}-all") for name in NAMES]


@pytest.mark.parametrize(("name", "chosen"), [*((name, {n % 8 for n in some}) for name, some in SHORT), *LONG])
def test_a_damaged_file(
    runs: Path,
    tmp_path: Path,
    name: str,
    chosen: set[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    content = (runs / "whole" / name).read_bytes()
    for what, damaged in (damage for n, damage in enumerate(damages(content)) if n in chosen):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(runs / "whole", run)
        if damaged is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(damaged)
        for command in (*COMMANDS, COMPARE):
            given = [{"RUN": str(run), "OTHER": str(runs / "other"), "OUT": "out"}.get(c, c) for c in command]
            code = main(given)
            said = capsys.readouterr().err
            assert "Traceback" not in said, (what, command, said)
            assert code in (0, 2), (what, command, said)
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert len(errors) == (code == 2), (what, command, said)


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b'{"format": 1, "stage": "tra', None])
def test_a_lost_state_costs_no_figure(
    runs: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "whole", run)
    if content is None:
        (run / "state.json").unlink()
    else:
        (run / "state.json").write_bytes(content)
    assert main(["status", str(run)]) == 0
    out = capsys.readouterr().out
    assert "stage: finished" in out
    assert "trained: 2 interactions" in out
    assert "spent: $" in out
