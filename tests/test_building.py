"""What a new run writes down before anything heavy is imported or paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclealign import building
from cyclealign.config import Config
from cyclealign.config_loading import load_config
from cyclealign.demonstration_files import content_version
from cyclealign.demonstrations import load_demonstrations
from cyclealign.rank_template import load_template
from cyclealign.run_dir import RunDir, read_json


def test_a_run_records_which_demonstrations_and_template_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hash as the pool's own, so that runs and measurements of one set can be found by it."""

    def begun(_: Config, run: RunDir) -> RunDir:
        run.unlock()
        return run

    monkeypatch.setattr(building, "_unlocked_on_failure", begun)
    run = building.new_cycle(load_config("quickstart", [f"output_dir={tmp_path}"]))
    assert isinstance(run, RunDir)
    found = load_demonstrations(run.prompts / "demonstrations.jsonl")
    assert read_json(run.prompts / "versions.json") == {
        "demonstrations": {"source": "builtin:rank", "version": content_version(found), "count": len(found)},
        "template": {"source": "rank", "version": load_template("rank").version},
    }
