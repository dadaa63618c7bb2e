"""A built wheel works from any directory: prompts, configs and embedded models travel inside it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cyclealign.files.packaged import PACKAGE

ROOT = PACKAGE.parent


@pytest.mark.skipif(not importlib.util.find_spec("hatchling"), reason="hatchling is not installed (extra dev)")
def test_the_wheel_runs_where_no_checkout_is(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "from cyclealign.cli.main import main; main()", "run", "quickstart", "--dry-run"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "builtin:tiny-chat" in done.stdout
    for packaged in (
        "prompts/rank.yaml",
        "prompts/judge_lists.jsonl",
        "configs/accelerate/fsdp2.yaml",
        "assets/local_ranker/model.safetensors",
    ):
        assert (installed / "cyclealign" / packaged).is_file()
