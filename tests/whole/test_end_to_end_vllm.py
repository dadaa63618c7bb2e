"""The main job with real engines: HH-RLHF prompts, vLLM generation in process, vLLM's own server as the judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import finish, ledger_content, records, start

pytestmark = [pytest.mark.vllm, pytest.mark.data, pytest.mark.slow]


@pytest.mark.timeout(1200)
def test_the_whole_loop_on_hh_rlhf_with_vllm_on_both_sides(tmp_path: Path, shared_data: Path, vllm_server: str) -> None:
    prompts = shared_data / "hh_rlhf" / "harmless_base_test.jsonl.gz"
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "-m")
    where = [f"black_box.base_url={vllm_server}", f"output_dir={tmp_path}"]
    arguments = [f"data.prompts={prompts}", "data.limit=8", *where]
    code, output = finish(start("run", "hh_rlhf_tiny", *arguments, launcher=launcher), timeout=1100)
    assert code == 0, output
    run = tmp_path / "hh-rlhf-tiny"
    found = records(run)
    first, second = found["interactions/0000/candidates.jsonl"], found["interactions/0001/candidates.jsonl"]
    assert len(first) == 8
    assert all(len(r["candidates"]) == 3 for r in first)
    by_prompt = {r["prompt_id"]: r["candidates"] for r in first}
    assert all(r["candidates"] != by_prompt[r["prompt_id"]] for r in second)  # sampled from the new adapter
    ranked = [r for r in found["interactions/0000/black_box.jsonl"] if "tiers" in r]
    assert len(ranked) >= 4
    assert all(sorted(i for t in r["tiers"] for i in t) == ["0", "1", "2"] for r in ranked)
    assert len(ledger_content(run)) >= len(ranked)
    for index in (0, 1):
        canary = json.loads((run / "interactions" / f"{index:04d}" / "canary.json").read_text())
        assert canary["gap"] <= 0.02
    losses = [row["loss"] for row in found["interactions/0001/train.jsonl"]]
    assert losses
    assert all(0 < loss < 20 for loss in losses)
