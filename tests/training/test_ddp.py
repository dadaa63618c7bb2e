"""Two processes are one process with the same global batch: losses, scores, final weights; and sharded weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from safetensors.torch import load_file
from tiny_policy import save_tiny

from cyclealign.training.embedding_teacher import FILE

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"


def torchrun(processes: int, script: str, *arguments: str) -> str:
    """What the script prints. (`accelerate launch --cpu --num_processes 2` starts one process, accelerate 1.15.)"""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)]), "OMP_NUM_THREADS": "1"}
    command += [str(HELPERS / script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def launch(model: Path, out: Path, settings: dict[str, Any], processes: int) -> list[dict[str, Any]]:
    out.mkdir()
    torchrun(processes, "ddp_fit.py", str(model), str(out), json.dumps(settings))
    return [json.loads((out / f"result-{i}.json").read_text()) for i in range(processes)]


@pytest.mark.parametrize("case", ["lora_cached_checkpointing", "lora_leaf", "full_padded_dpo_anchor"])
def test_two_processes_train_as_one(tmp_path: Path, case: str) -> None:
    model = save_tiny(tmp_path / "model")
    if case == "lora_cached_checkpointing":
        settings: dict[str, Any] = {"layout": "cached_prefix"}
        training: dict[str, Any] = {"learning_rate": 1e-2, "gradient_checkpointing": True}
        training["num_train_epochs"] = 2
    elif case == "lora_leaf":
        pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
        tiny_encoders.dense(tmp_path / "bert").save(str(tmp_path / "teacher"))
        settings = {"leaf": {"teacher": str(tmp_path / "teacher"), "weight": 0.5}}
        training = {"learning_rate": 1e-2, "num_train_epochs": 2}
    else:
        settings = {"layout": "padded", "policy": {"lora": None}}
        settings |= {"loss": {"name": "dpo"}, "anchor": {"weight": 0.3}}
        training = {"learning_rate": 1e-3}
    one = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    two = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    (alone,) = launch(model, tmp_path / "one", settings | {"training": training | one}, 1)
    first, second = launch(model, tmp_path / "two", settings | {"training": training | two}, 2)
    assert first == second
    assert first["steps"] == alone["steps"] == (6 if case.startswith("lora") else 3)
    for mine, theirs in zip(first["logs"], alone["logs"], strict=True):
        # Log-ratios to the start model are rounding noise at the first step: no order to compare.
        names = mine.keys() - ({"accuracy"} if case.startswith("full") else set())
        assert {n: mine[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-3, abs=1e-5)
    assert len(first["scores"]) == 5
    for mine, theirs in zip(first["scores"], alone["scores"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert first["nll"] == pytest.approx(alone["nll"], abs=1e-5)
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "one")[name], rtol=1e-3, atol=2e-4)
    if case == "lora_leaf":
        found = [load_file(tmp_path / name / "1" / "checkpoint" / FILE)["weight"] for name in ("one", "two")]
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=2e-4)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next((out / "1").glob("*/*.safetensors")))


def test_sharded_weights_give_the_same_gradients() -> None:
    """FSDP2's fully_shard, two processes: both layouts, with and without LoRA, gradient checkpointing."""
    errors = json.loads(torchrun(2, "fsdp_step.py").splitlines()[-1])
    assert len(errors) == 4
    assert max(errors) < 1e-5
