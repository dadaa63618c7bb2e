"""The scripts of ``evals/`` and ``benchmarks/``: each starts and says what it takes, and what takes hours is reported.

All in this process: torch is loaded once.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p.relative_to(ROOT).as_posix() for f in ("evals", "benchmarks") for p in (ROOT / f).rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_and_says_how(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / script
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    if 'if __name__ == "__main__":' not in path.read_text(encoding="utf-8"):
        importlib.import_module(path.stem)  # a neighbour of scripts
        return
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert f"python {script}" in capsys.readouterr().out
