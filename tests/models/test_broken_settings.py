"""JSON that stands beside weights, cut, emptied, of another kind or without what it should say: one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclealign.distill.idcm_model import IDCM
from cyclealign.models.classifier import Classifier, ClassifierConfig
from cyclealign.models.cross_encoders import load_cross_encoder
from cyclealign.models.policy_files import adapter_base
from cyclealign.types import UserError

DAMAGE = {"empty": b"", "zeros": bytes(40), "cut": b'{"esm": "c', "a number": b"7", "a list": b"[1]", "nothing": b"{}"}
READERS: dict[str, Callable[[Path], object]] = {
    "adapter_config.json": adapter_base,
    "modules.json": lambda folder: load_cross_encoder(str(folder)),
    "idcm.json": IDCM.load,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_settings_that_cannot_be_read_are_one_line(tmp_path: Path, name: str, damage: str) -> None:
    (tmp_path / name).write_bytes(DAMAGE[damage])
    with pytest.raises(UserError, match=name) as refused:
        READERS[name](tmp_path)
    assert "copy" in str(refused.value)


@pytest.mark.parametrize("damage", [*DAMAGE, '{"kind": "cnn", "width": -1, "shape": [1, 8, 8], "classes": 2}'])
def test_a_classifiers_too(tmp_path: Path, damage: str) -> None:
    Classifier(ClassifierConfig(), (1, 8, 8), 2).save(tmp_path)
    (tmp_path / "classifier.json").write_bytes(DAMAGE.get(damage, damage.encode()))
    with pytest.raises(UserError, match="expected a classifier"):
        Classifier.load(tmp_path)


def test_a_classifier_of_other_weights_is_refused(tmp_path: Path) -> None:
    Classifier(ClassifierConfig(), (1, 8, 8), 2).save(tmp_path)
    head = json.loads((tmp_path / "classifier.json").read_bytes())
    (tmp_path / "classifier.json").write_text(json.dumps(head | {"classes": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="expected a classifier"):
        Classifier.load(tmp_path)
