"""``leaf`` beside the ranking loss of ``cyclealign distill margin_mse``: by value, on disk, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders
import torch
from learning import assert_below

from cyclealign.cli.main import main

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
Captured = pytest.CaptureFixture[str]
LINES = [
    "4\t-1\ta cat ?\tthe cat sleeps\tthe dog runs",
    "5\t0\ta cat ?\tthe cat sleeps\ta bird sings",
    "4\t-1\ta dog ?\tthe dog runs\tthe cat sleeps",
]
QUICK = ["steps=12", "training.learning_rate=0.01", "training.use_cpu=true", "training.logging_steps=1"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scores, a student and an embedding teacher lie in the current directory."""
    import warnings

    monkeypatch.chdir(tmp_path)
    Path("scores.tsv").write_text("\n".join(LINES) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_encoders.dense(Path("bert0")).save("student")
        tiny_encoders.dense(Path("bert1"), seed=1).save("teacher")
        yield


def distill(*overrides: str) -> int:
    start = ["distill", "margin_mse", "distill/margin_mse", "data.scores=scores.tsv", "student.model=student"]
    return main([*start, *QUICK, *overrides])


def history(name: str) -> list[dict[str, float]]:
    (state,) = Path(f"runs/{name}/checkpoints").glob("checkpoint-12/trainer_state.json")
    return [row for row in json.loads(state.read_text())["log_history"] if "loss" in row]


def test_the_loss_is_the_sum_of_both_terms() -> None:
    from sentence_transformers import SentenceTransformer

    from cyclealign.config.schema import LeafAuxiliary
    from cyclealign.distill.adapters import DenseObjective
    from cyclealign.distill.leaf_beside import MatchedObjective
    from cyclealign.losses import MarginMSE

    model = SentenceTransformer("student", device="cpu")
    leaf = LeafAuxiliary(teacher="t", weight=0.3)
    objective = MatchedObjective(model, MarginMSE(), leaf=leaf, width=16)
    torch.testing.assert_close(objective.projection.weight, torch.eye(16))
    texts = (["a cat ?"], ["the cat sleeps", "the dog runs"])
    targets = [torch.randn(len(t), 16, generator=torch.Generator().manual_seed(n)) for n, t in enumerate(texts)]
    features = [{**model.preprocess(t), "target": v} for t, v in zip(texts, targets, strict=True)]
    labels = torch.tensor([[4.0, -1.0]])
    found = objective(features, labels)
    plain: list[Any] = [model.preprocess(t) for t in texts]
    torch.testing.assert_close(found["rank_loss"], DenseObjective(model, MarginMSE())(plain, labels))
    vectors = torch.tensor(np.concatenate([model.encode(t, normalize_embeddings=True) for t in texts]))
    cosines = (vectors * torch.nn.functional.normalize(torch.cat(targets), dim=1)).sum(dim=1)
    torch.testing.assert_close(found["leaf"], 0.3 * (2 - 2 * cosines).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.learns
def test_the_student_moves_into_the_teachers_space_and_keeps_its_modules() -> None:
    from sentence_transformers import SentenceTransformer

    assert distill("name=alone") == 0
    assert distill("name=beside", "leaf={teacher: teacher, weight: 5.0}") == 0
    rows = history("beside")
    assert_below(rows[-1]["leaf"], 0.5 * rows[0]["leaf"])
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["leaf"] + rows[-1]["rank_loss"], rel=1e-3)
    assert "leaf" not in history("alone")[0]
    model = SentenceTransformer("runs/beside/model", device="cpu")
    assert [type(m).__name__ for m in model] == ["Transformer", "Pooling"]
    assert Path("runs/beside/checkpoints/checkpoint-12/loss.safetensors").exists()
    assert Path("runs/beside/teacher_vectors.sqlite").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("leaf={teacher: teacher}", "student.kind=colbert"), "leaf: a colbert has no vector of a text to match"),
        (("leaf={teacher: ./nowhere}",), "leaf.teacher: cannot load './nowhere'"),
        (("leaf={teachr: x}",), "unknown key leaf.teachr; did you mean leaf.teacher?"),
        (("leaf={teacher: teacher, weight: 0}",), "leaf.weight: expected a value > 0"),
    ],
)
def test_mistakes(capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    assert distill(*overrides) == 2
    assert message in capsys.readouterr().err


def test_a_known_positive_stays_known_beside_leaf() -> None:
    from cyclealign.distill.config import ListDistillConfig
    from cyclealign.distill.leaf_beside import with_leaf
    from cyclealign.distill.students import make_student

    config = ListDistillConfig.model_validate(
        {
            "name": "x",
            "student": {"model": "student"},
            "data": {"scores": "scores.tsv"},
            "loss": {"name": "pld"},
            "leaf": {"teacher": "teacher"},
        }
    )
    config.run_dir.mkdir(parents=True)
    student = make_student(config.student, config.loss, positive_first=True)
    rows = {"query": ["a cat ?"], "documents": [["the cat sleeps", "the dog runs"]]}
    assert with_leaf(config, student, rows).objective.positive_first
