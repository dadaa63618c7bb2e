"""Weights that are none: cut, not finite, lacking, or another model's. None is kept, exported or loaded in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from finished_run import finished_run
from safetensors.torch import load_file, save_file
from tiny_policy import tiny_llama

from cyclealign.cli.main import main
from cyclealign.models.checkpoints import check_base, check_weights, load_weights, save_policy
from cyclealign.types import UserError

Change = Callable[[dict[str, torch.Tensor]], object]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def changed(file: Path, change: Change) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


def first(state: dict[str, torch.Tensor]) -> str:
    return sorted(state)[0]


def not_a_number(state: dict[str, torch.Tensor]) -> None:
    state[first(state)].view(-1)[3] = torch.nan


def infinite(state: dict[str, torch.Tensor]) -> None:
    state[first(state)].view(-1)[-1] = -torch.inf


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "damaged or cut short"),
    "empty": (lambda f: f.write_bytes(b""), "damaged or cut short"),
    "zeros": (lambda f: f.write_bytes(bytes(f.stat().st_size)), "damaged or cut short"),
    "NaN": (lambda f: changed(f, not_a_number), "NaN or infinite"),
    "infinity": (lambda f: changed(f, infinite), "NaN or infinite"),
    "gone": (lambda f: f.unlink(), "no weights"),
}
TENSORS: dict[str, Change] = {
    "lacking": lambda s: s.pop(first(s)),
    "of another shape": lambda s: s.update({first(s): torch.ones(3, 5)}),
    "one too many": lambda s: s.update(other=torch.ones(2)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    finished_run(folder)
    save_policy(tiny_llama(), folder / "model")
    return folder


@pytest.mark.parametrize("damage", FILES)
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_damaged_file(whole: Path, tmp_path: Path, kind: str, damage: str) -> None:
    weights = tmp_path / kind
    shutil.copytree(whole / "model" if kind == "model" else whole / "run" / "best" / "adapter", weights)
    check_weights(weights)
    break_it, said = FILES[damage]
    break_it(next(weights.glob("*.safetensors")))
    with pytest.raises(UserError, match=said):
        check_weights(weights)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 100_000])
def test_a_torn_index_of_shards_is_one_line(whole: Path, tmp_path: Path, text: str) -> None:
    weights = tmp_path / "model"
    shutil.copytree(whole / "model", weights)
    (weights / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="put it back from a copy"):
        check_weights(weights)


@pytest.mark.parametrize("text", ["", "[]", "null"])
def test_settings_that_are_none_are_one_line(whole: Path, tmp_path: Path, text: str) -> None:
    weights = tmp_path / "adapter"
    shutil.copytree(whole / "run" / "best" / "adapter", weights)
    (weights / "adapter_config.json").write_text(text)
    for check in (check_weights, lambda folder: check_base(folder, "tiny")):
        with pytest.raises(UserError, match=r"adapter_config\.json: .*put it back from a copy"):
            check(weights)


@pytest.mark.parametrize("kind", ["adapter", "model"])
@pytest.mark.parametrize("damage", TENSORS)
def test_tensors_of_another_model_are_not_loaded(whole: Path, tmp_path: Path, kind: str, damage: str) -> None:
    from peft import LoraConfig, get_peft_model

    weights = tmp_path / kind
    shutil.copytree(whole / "model" if kind == "model" else whole / "run" / "best" / "adapter", weights)
    model = tiny_llama()
    if kind == "adapter":
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    load_weights(model, weights)
    changed(next(weights.glob("*.safetensors")), TENSORS[damage])
    with pytest.raises(UserError, match=r"of another model|lack "):
        load_weights(model, weights)


@pytest.mark.parametrize("damage", FILES)
@pytest.mark.parametrize("how", ["--adapter", "--merged"])
def test_a_broken_product_is_not_exported(
    whole: Path, tmp_path: Path, damage: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole / "run", run)
    break_it, said = FILES[damage]
    break_it(run / "best" / "adapter" / "adapter_model.safetensors")
    assert main(["export", str(run), how, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_model_is_not_exported(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole / "run", run)
    settings = run / "best" / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "other/model"}))
    assert main(["export", str(run), "--adapter", "--out", str(tmp_path / "out")]) == 2
    assert "is an adapter of other/model" in capsys.readouterr().err
    settings.write_text("{")
    assert main(["export", str(run), "--merged", "--out", str(tmp_path / "out")]) == 2
    assert "adapter_config.json: cannot be read" in capsys.readouterr().err
    shutil.rmtree(run / "best" / "adapter")
    assert main(["export", str(run), "--adapter", "--out", str(tmp_path / "out")]) == 2
    assert "the kept weights are not there" in capsys.readouterr().err
