"""Where an optional package is missing: one line before anything is written or trained."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclealign.cli.main import main
from cyclealign.training.embedding_teacher import EmbeddingTeacher
from cyclealign.types import UserError

Captured = pytest.CaptureFixture[str]
LISTS = "data.scores=scores.tsv"
COMMANDS = {
    "margin_mse": (LISTS,),
    "cprd": ("data.scores=lists.jsonl", "data.format=ntuples"),
    "pld_lists": ("data.scores=lists.jsonl",),
    "leaf": ("data.queries=texts.tsv", "data.documents=texts.tsv"),
    "idcm": tuple(f"{stage}.data.scores=scores.tsv" for stage in ("passages", "documents", "selection")),
    "quantidce": ("pretraining.data=levels.jsonl", "finetuning=null"),
}
EVALUATED = "evaluate={queries: texts.tsv, documents: texts.tsv, qrels: qrels.tsv}"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("scores.tsv").write_text("3\t1\ta cat ?\tthe cat sleeps\tthe dog runs\n")
    row = {"query": "a cat ?", "documents": ["the cat", "the dog", "a bird"], "scores": [3, 1, 0]}
    Path("lists.jsonl").write_text(json.dumps(row) + "\n")
    Path("texts.tsv").write_text("t0\ta cat ?\n")
    Path("qrels.tsv").write_text("t0\tt0\t1\n")
    levels = {"context": ["a cat ?"], "levels": [["the cat sleeps"], ["the dog runs"]]}
    Path("levels.jsonl").write_text(json.dumps(levels) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_students_need_sentence_transformers(name: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "sentence_transformers")
    assert main(["distill", name.partition("_lists")[0], f"distill/{name}", *COMMANDS[name]]) == 2
    said = "cyclealign distill needs the package sentence-transformers: pip install 'cyclealign[retrieval]'"
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_classifiers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "sentence_transformers")
    np.savez("train.npz", images=np.random.default_rng(0).random((8, 8, 8)), labels=np.arange(8) % 2)
    quick = ["steps=1", "teacher.steps=1", "training.use_cpu=true"]
    assert main(["distill", "pld", "distill/pld", "data.train=train.npz", *quick]) == 0


def test_retention_is_measured_last_and_its_package_asked_for_first(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "ir_measures")
    assert main(["distill", "leaf", "distill/leaf", *COMMANDS["leaf"], EVALUATED]) == 2
    said = "evaluate needs the package ir-measures: pip install 'cyclealign[eval]'"
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_ranker_made_of_modules_and_an_embedding_teacher_need_it_too(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "sentence_transformers")
    Path("metric").mkdir()
    Path("metric/modules.json").write_text("[]")
    Path("sets.jsonl").write_text(json.dumps({"prompt": "a cat ?", "candidates": ["the cat", "the dog"]}) + "\n")
    assert main(["rank", "sets.jsonl", "--ranker", "reward_model:metric", "--out", "out.jsonl"]) == 2
    assert "needs the package sentence-transformers: pip install 'cyclealign[retrieval]'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"leaf\.teacher needs the package sentence-transformers"):
        EmbeddingTeacher("teacher", torch.device("cpu"))
