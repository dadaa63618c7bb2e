"""Margin-MSE through each adapter against sentence-transformers' own loss: same model and triples, same number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch

from cyclealign.losses import MarginMSE

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
QUERIES = ["a cat ?", "a dog ?", "a red bird ?"]
POSITIVES = ["the cat sleeps", "the dog runs", "a red bird sings"]
NEGATIVES = ["the dog runs", "a bird sings", "the blue dog"]
COLUMNS = (QUERIES, POSITIVES, NEGATIVES)
MARGINS = torch.tensor([2.0, -0.5, 1.25])  # the second disagrees with the label


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same_with_gradients(model: Any, theirs: Callable[[], Any], ours: Callable[[], Any]) -> None:
    found = []
    for loss in (theirs, ours):
        model.zero_grad()
        value = loss()
        value.backward()
        found.append((value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[0][0] > 0
    for theirs_grad, our_grad in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(our_grad, theirs_grad, atol=1e-5, rtol=1e-4)


def test_dense(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    from cyclealign.distill.adapters import DenseObjective

    model = tiny_encoders.dense(tmp_path / "m").eval()
    features = [model.preprocess(texts) for texts in COLUMNS]
    same_with_gradients(
        model,
        lambda: MarginMSELoss(model)([dict(f) for f in features], MARGINS),
        lambda: DenseObjective(model, MarginMSE())([dict(f) for f in features], MARGINS),
    )


def test_multi_vector(tmp_path: Path) -> None:
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMarginMSELoss

    from cyclealign.distill.adapters import MultiVectorObjective

    model = tiny_encoders.multi_vector(tmp_path / "m").eval()
    tasks = ("query", "document", "document")
    features = [model.preprocess(texts, task=task) for texts, task in zip(COLUMNS, tasks, strict=True)]
    same_with_gradients(
        model,
        lambda: MultiVectorMarginMSELoss(model)([dict(f) for f in features], MARGINS),
        lambda: MultiVectorObjective(model, MarginMSE())([dict(f) for f in features], MARGINS),
    )


@pytest.mark.parametrize("kind", ["cross_encoder", "prettr", "tk"])
def test_cross_encoder(kind: str, tmp_path: Path) -> None:
    from sentence_transformers.cross_encoder.losses import MarginMSELoss

    from cyclealign.distill.config import StudentConfig
    from cyclealign.distill.students import make_student

    folder = tiny_encoders.save_encoder(tmp_path / "m", layers=2, head=kind == "cross_encoder")
    config = StudentConfig.model_validate(
        {"model": str(folder), "kind": kind, "max_query_tokens": 8, "max_document_tokens": 16}
    )
    student = make_student(config, MarginMSE())
    model, columns = student.model.eval().cpu(), [list(texts) for texts in COLUMNS]
    same_with_gradients(
        model, lambda: MarginMSELoss(model)(columns, MARGINS), lambda: student.objective(columns, MARGINS)
    )
