"""``cyclealign train`` as a program: killed at any moment and resumed, on two processes, over files of any size."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import finish, finish_ranks, kill, start
from safetensors.torch import load_file
from ultrafeedback import write_ultrafeedback

from cyclealign.files.jsonl import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.data]
SETTINGS = (
    *("quickstart", "name=r", "loss.name=listnet", "lists.held_out=0.25", "lists.checkpoint_steps=2"),
    *("policy.max_prompt_tokens=64", "training.per_device_train_batch_size=2"),
)
Moment = Callable[[Path], bool]
MOMENTS: tuple[Moment, ...] = (
    lambda run: (run / "began.json").exists(),
    lambda run: (run / ".lists").exists() or (run / "lists.json").exists(),
    lambda run: (run / "lists.json").exists(),
    lambda run: (run / "evaluations" / "0000" / "lists.jsonl").exists(),
    lambda run: any((run / "interactions" / "0000" / ".fit").glob("checkpoint-*")),
    lambda run: any((run / "interactions" / "0000" / ".fit").glob("checkpoint-[4-9]*")),
    lambda run: (run / "interactions" / "0000" / "adapter").exists(),
    lambda run: (run / "interactions" / "0000" / "train.jsonl").exists(),
    lambda run: (run / "evaluations" / "0001" / "lists.jsonl").exists(),
    lambda run: (run / "best" / "kept.json").exists(),
)


def arguments(source: Path, folder: Path, *more: str) -> tuple[str, ...]:
    config, *settings = SETTINGS
    return ("train", config, str(source), *settings, f"output_dir={folder}", *more)


def results(run: Path) -> dict[str, Any]:
    """What a run learned and measured."""
    names = ("interactions/0000/train.jsonl", "evaluations/0000/lists.jsonl", "evaluations/0001/lists.jsonl")
    return {name: list(read_jsonl(run / name)) for name in names}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best" / "adapter" / "adapter_model.safetensors")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("moments", "count"), [((4,), 24), pytest.param(range(10), 24, marks=pytest.mark.long)])
def test_kills_change_nothing(tmp_path: Path, shared_data: Path, moments: tuple[int, ...], count: int) -> None:
    source = write_ultrafeedback(tmp_path / "lists.jsonl", shared_data, count)
    code, output = finish(start(*arguments(source, tmp_path / "whole")))
    assert code == 0, output
    whole, run, chance = tmp_path / "whole" / "r", tmp_path / "killed" / "r", random.Random(7)
    process = start(*arguments(source, tmp_path / "killed"))
    for moment in moments:
        wait_for(MOMENTS[moment], run, process)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is None:
            kill(process)
            process = start("resume", str(run))
    code, output = finish(process)
    assert code == 0, output
    assert results(run) == results(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())


def wait_for(moment: Moment, run: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not moment(run):
        time.sleep(0.01)


@pytest.mark.timeout(900)
def test_two_processes_are_one(tmp_path: Path, shared_data: Path) -> None:
    """By plain gradient descent: Adam makes a whole step of what is rounding in a gradient near 0."""
    plain = ("training.optim=sgd", "training.learning_rate=0.1")
    source = write_ultrafeedback(tmp_path / "lists.jsonl", shared_data, 16)
    code, output = finish(start(*arguments(source, tmp_path / "one", *plain)))
    assert code == 0, output
    halved = "training.per_device_train_batch_size=1"
    code, output = finish_ranks(2, *arguments(source, tmp_path / "two", *plain, halved))
    assert code == 0, output
    one, two = tmp_path / "one" / "r", tmp_path / "two" / "r"
    for name, rows in results(one).items():
        for mine, theirs in zip(rows, results(two)[name], strict=True):
            assert mine.pop("prompt_id", None) == theirs.pop("prompt_id", None)
            for count in ("first", "pairs", "tau", "accuracy"):  # of orders, which rounding may turn
                mine.pop(count, None), theirs.pop(count, None)
            assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-4)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-5)
