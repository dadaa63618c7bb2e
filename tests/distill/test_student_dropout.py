"""``student.dropout`` of the distillers: what trains, and what later stages load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch

from cyclealign.distill.config import StudentConfig
from cyclealign.losses import RankNet

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")
KINDS = ("dot", "cosine", "colbert", "cross_encoder", "prettr", "tk")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """One whose own rates are 0.3."""
    folder = tiny_encoders.save_encoder(tmp_path / "bert", layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict.fromkeys(RATES, 0.3)))
    return folder


def student(encoder: Path, kind: Any, dropout: float | None) -> Any:
    from cyclealign.distill.students import make_student

    short = {"max_query_tokens": 8, "max_document_tokens": 16}
    return make_student(StudentConfig(model=str(encoder), kind=kind, dropout=dropout, **short), RankNet()).model


def rates(folder: Path) -> set[float]:
    found = [json.loads(path.read_text()) for path in folder.rglob("config.json")]
    return {config[name] for config in found for name in RATES if name in config}


def spread(model: Any) -> float:
    """Of the last layer over two passes in training mode."""
    from transformers import PreTrainedModel

    inner = next(m for m in model.train().modules() if isinstance(m, PreTrainedModel)).base_model
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = (inner(torch.arange(5, 12)[None]).last_hidden_state for _ in range(2))
    return float((first - second).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_trains_with_the_rate_asked_for(kind: str, encoder: Path) -> None:
    assert spread(student(encoder, kind, 0.0)) == 0.0
    assert spread(student(encoder, kind, None)) > 0.01  # the encoder's own


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_student_keeps_the_rate(kind: str, encoder: Path, tmp_path: Path) -> None:
    model = student(encoder, kind, 0.25)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    model.save_pretrained(str(tmp_path / "saved"))
    assert rates(tmp_path / "saved") == {0.25}
