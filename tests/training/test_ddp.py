"""Two processes are one process with the same global batch: losses, scores, final weights; and sharded weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from processes import ENVIRONMENT, finish_ranks
from safetensors.torch import load_file
from tiny_policy import save_tiny

from cyclealign.training.embedding_teacher import FILE

HELPERS = Path(__file__).resolve().parents[1] / "helpers"


def ranks(count: int, script: str, *arguments: str) -> str:
    """What the script prints as so many processes."""
    code, output = finish_ranks(count, str(HELPERS / script), *arguments)
    assert code == 0, output[-3000:]
    return output


LORA = {"learning_rate": 1e-2, "num_train_epochs": 2}
CASES: dict[str, dict[str, Any]] = {
    "lora_cached_checkpointing": {
        "layout": "cached_prefix",
        "responses_per_pass": 2,
        "training": LORA | {"gradient_checkpointing": True},
    },
    "lora_leaf": {"leaf": {"teacher": "", "weight": 0.5}, "training": LORA},
    "full_padded_dpo_anchor": {
        "layout": "padded",
        "policy": {"lora": None},
        "loss": {"name": "dpo"},
        "anchor": {"weight": 0.3},
        "training": {"learning_rate": 1e-3},
    },
    # The last: accelerate keeps in a process's environment that its models are cut.
    "lora_cut": {
        "layout": "cached_prefix",
        "responses_per_pass": 2,
        "policy": {"lora": {"r": 1}},
        "training": LORA,
    },
    "full_cut": {"policy": {"lora": None}, "loss": {"name": "dpo"}, "training": {"learning_rate": 1e-3}},
}
CUT = {"fsdp": "full_shard", "fsdp_config": {"version": 2}}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases by one process, and by two with half the batch each: a launch loads everything anew."""
    folder = tmp_path_factory.mktemp("ddp")
    # Weights with 65 rows are not halved, an adapter of rank 1 leaves the second process nothing.
    model = save_tiny(folder / "model", intermediate_size=65, tie_word_embeddings=True)
    cases = dict(CASES)
    if importlib.util.find_spec("sentence_transformers"):
        tiny_encoders.dense(folder / "bert").save(str(folder / "teacher"))
        cases["lora_leaf"] = cases["lora_leaf"] | {"leaf": {"teacher": str(folder / "teacher"), "weight": 0.5}}
    else:
        del cases["lora_leaf"]
    for name, processes, size in (("one", 1, 2), ("two", 2, 1)):
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 2}
        given = {case: values | {"training": values["training"] | batch} for case, values in cases.items()}
        for values in (v for c, v in given.items() if c.endswith("_cut") and processes == 2):
            values["training"] |= CUT
        for case in cases:
            (folder / name / case).mkdir(parents=True)
        ranks(processes, "ddp_fit.py", str(model), str(folder / name), json.dumps(given))
    return folder


def results(out: Path, processes: int) -> list[dict[str, Any]]:
    return [json.loads((out / f"result-{i}.json").read_text()) for i in range(processes)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(launched: Path, case: str) -> None:
    if case == "lora_leaf":
        pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
    one, two = launched / "one" / case, launched / "two" / case
    (alone,) = results(one, 1)
    first, second = results(two, 2)
    held = first.pop("held"), second.pop("held")
    assert first == second
    if case.endswith("_cut"):  # half of the weights each, during every step
        assert len(held[0]) == first["steps"]
        assert all(0.4 < share < 0.6 for shares in held for share in shares)
    else:
        assert set(held[0] + held[1]) == {1.0}
    assert first["steps"] == alone["steps"] == (6 if case.startswith("lora") else 3)
    for mine, theirs in zip(first["logs"], alone["logs"], strict=True):
        # Log-ratios to the start model are rounding noise at the first step: no order to compare.
        names = mine.keys() - ({"accuracy"} if case.startswith("full") else set())
        assert {n: mine[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-3, abs=1e-5)
    assert len(first["scores"]) == 5
    for mine, theirs in zip(first["scores"], alone["scores"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert first["nll"] == pytest.approx(alone["nll"], abs=1e-5)
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, weights(one)[name], rtol=1e-3, atol=2e-4)
    if case == "lora_leaf":
        found = [load_file(folder / "1" / "checkpoint" / FILE)["weight"] for folder in (one, two)]
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=2e-4)


@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    """DeepSpeed on its CPU accelerator, over gloo; it compiles an extension at its first run."""
    pytest.importorskip("deepspeed", reason="pip install deepspeed")
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
    settings = {"zero_optimization": zero, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    case = {"layout": "padded", "policy": {"lora": None}}
    model, training = save_tiny(tmp_path / "model", intermediate_size=65), {"learning_rate": 1e-3}
    monkeypatch.setitem(ENVIRONMENT, "DS_ACCELERATOR", "cpu")
    for processes, more in ((1, {}), (2, {"deepspeed": settings | dict.fromkeys(names, "auto")})):
        monkeypatch.setitem(ENVIRONMENT, "ACCELERATE_USE_DEEPSPEED", str(processes > 1).lower())
        (tmp_path / str(processes) / "zero").mkdir(parents=True)
        batch = {"per_device_train_batch_size": 2 // processes}
        given = {"zero": case | {"training": training | batch | more}}
        ranks(processes, "ddp_fit.py", str(model), str(tmp_path / str(processes)), json.dumps(given))
    (alone,) = results(tmp_path / "1" / "zero", 1)
    for found in results(tmp_path / "2" / "zero", 2):
        for mine, theirs in zip(found["logs"], alone["logs"], strict=True):
            for name in ("loss", "grad_norm"):
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4)
        assert all((0.4 < share < 0.6) == (stage == 3) for share in found["held"])
    saved = weights(tmp_path / "2" / "zero")
    for name, tensor in weights(tmp_path / "1" / "zero").items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=2e-4)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next((out / "1").glob("*/*.safetensors")))


def test_sharded_weights_give_the_same_gradients() -> None:
    """FSDP2's fully_shard, two processes: both layouts, with and without LoRA, all responses at once and two."""
    errors = json.loads(ranks(2, "fsdp_step.py").splitlines()[-1])
    assert len(errors) == 8
    assert max(errors) < 1e-5
