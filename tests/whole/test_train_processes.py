"""``cyclealign train`` as a program: killed at any moment and resumed, on two processes, over files of any size."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import finish, finish_ranks, kill, start, start_ranks
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


FIGURES = ("interactions/0000/train.jsonl", "evaluations/0000/lists.jsonl", "evaluations/0001/lists.jsonl")


def results(run: Path, names: Sequence[str] = FIGURES) -> dict[str, Any]:
    """What a run learned and measured."""
    return {name: list(read_jsonl(run / name)) for name in names}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run / "best").glob("*/*.safetensors")))


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


PLAIN = ("training.optim=sgd", "training.learning_rate=0.1")  # Adam makes a whole step of what is rounding near 0
HALVED = "training.per_device_train_batch_size=1"
CUT = ("training.fsdp=full_shard", "training.fsdp_config={version: 2}")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    return write_ultrafeedback(tmp_path_factory.mktemp("lists") / "lists.jsonl", shared_data, 16)


def one_process(folder: Path, source: Path, *more: str) -> Path:
    code, output = finish(start(*arguments(source, folder, *PLAIN, *more)))
    assert code == 0, output
    return folder / "r"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("machines", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_processes_are_one(tmp_path: Path, source: Path, machines: int) -> None:
    code, output = finish_ranks(2, *arguments(source, tmp_path / "two", *PLAIN, HALVED), machines=machines)
    assert code == 0, output
    assert_alike(one_process(tmp_path / "one", source), tmp_path / "two" / "r")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_weights_that_are_cut_are_killed_and_resumed_as_one_process(tmp_path: Path, source: Path, lora: bool) -> None:
    """FSDP2 on two processes: killed at a checkpoint, resumed, exported as an ordinary model."""
    whole = () if lora else ("policy.lora=null",)
    one, two = one_process(tmp_path / "one", source, *whole), tmp_path / "two" / "r"
    started = start_ranks(2, *arguments(source, tmp_path / "two", *PLAIN, HALVED, *CUT, *whole))
    wait_for(MOMENTS[4], two, started[0])
    for process in started:
        kill(process)
    assert not (two / "interactions" / "0000" / "train.jsonl").exists()
    code, output = finish_ranks(2, "resume", str(two))
    assert code == 0, output
    assert_alike(one, two)
    for run in (one, two):
        code, output = finish(start("export", str(run), f"--out={run.parent / 'out'}", "--merged"))
        assert code == 0, output
    exported = [load_file(next((run.parent / "out").rglob("model.safetensors"))) for run in (one, two)]
    assert exported[0].keys() == exported[1].keys()
    for name, tensor in exported[0].items():
        torch.testing.assert_close(exported[1][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_ends_the_others_and_one_process_goes_on(tmp_path: Path, source: Path, dies: int) -> None:
    run = tmp_path / "two" / "r"
    processes = start_ranks(2, *arguments(source, tmp_path / "two", *PLAIN, HALVED))[::-1]
    wait_for(MOMENTS[4], run, processes[0])
    kill(processes[dies])
    code, output = finish(processes[1 - dies], timeout=60)
    assert code == 1, output
    assert "Traceback" not in output, output
    if dies == 1:
        assert "one of the 2 processes ended before its work was done; continue with: cyclealign resume" in output
    code, output = finish(start("resume", str(run)))
    assert code == 2
    assert "takes 2 lists" in output, output
    code, output = finish(start("resume", str(run), "training.gradient_accumulation_steps=2"))
    assert code == 0, output
    assert_alike(one_process(tmp_path / "one", source), run)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_cycle_with_weights_that_are_cut(tmp_path: Path) -> None:
    """One interaction: the main process samples with a model of its own, all rank by the one that is cut, and train."""
    settings = ("cycle.max_interactions=1", "data.limit=8", "data.eval_prompts=null", "generator.candidates=3")
    step = ("cycle.scorer=null", "training.per_device_train_batch_size=2", *PLAIN)
    common = ("run", "quickstart", "name=r", *settings, "generator.max_new_tokens=12", *step)
    code, output = finish(start(*common, f"output_dir={tmp_path / 'one'}"))
    assert code == 0, output
    code, output = finish_ranks(2, *common, f"output_dir={tmp_path / 'two'}", HALVED, *CUT)
    assert code == 0, output
    one, two = tmp_path / "one" / "r", tmp_path / "two" / "r"
    ranked = [read_jsonl(run / "interactions" / "0000" / "white_box.jsonl") for run in (one, two)]
    for mine, theirs in zip(*ranked, strict=True):
        assert theirs["scores"] == pytest.approx(mine["scores"], abs=1e-4)
    assert_alike(one, two, "interactions/0000/train.jsonl")


@pytest.mark.long
def test_weights_to_cut_need_a_launcher(tmp_path: Path, source: Path) -> None:
    code, output = finish(start(*arguments(source, tmp_path, *CUT)))
    assert code == 2
    assert "training.fsdp: needs processes to cut the weights over: torchrun" in output


def assert_alike(one: Path, two: Path, *names: str) -> None:
    """The same figures in the files of these names (else in all of a run over lists), and the same weights."""
    for name, rows in results(one, names or FIGURES).items():
        for mine, theirs in zip(rows, results(two, names or FIGURES)[name], strict=True):
            assert mine.pop("prompt_id", None) == theirs.pop("prompt_id", None)
            for count in ("first", "pairs", "tau", "accuracy"):  # of orders, which rounding may turn
                mine.pop(count, None), theirs.pop(count, None)
            assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-4)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-5)
