"""sentence-transformers' trainers with our losses: values are the bare loss's, training works, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from learning import assert_below
from torch import Tensor

from cyclealign.distill.adapters import (
    CrossEncoderObjective,
    DenseObjective,
    EmbeddingObjective,
    ListObjective,
    MultiVectorObjective,
    uniform_labels,
)
from cyclealign.distill.loss_state import FILE, keeping_loss_state
from cyclealign.distill.ragged import RaggedCollator
from cyclealign.losses import (
    CPRD,
    KL,
    PLD,
    EmbeddingMatch,
    ListMLE,
    MarginMSE,
    MultiLevelRanking,
    RankedScores,
    RankingLoss,
)

st = pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
datasets = pytest.importorskip("datasets")

QUERIES = ["the red cat ?", "a dog", "the bird sings ?"]
DOCUMENTS = [
    ["a red cat sleeps", "the dog runs", "a bird"],
    ["the dog runs", "the green cat"],
    ["blue bird sings", "a cat", "the dog", "a bird runs"],
]
SCORES = [[3.0, -1.0, 0.5], [2.0, 1.0], [1.0, -2.0, 0.0, 0.9]]
RAGGED = {"query": QUERIES, "documents": DOCUMENTS, "scores": SCORES}
UNIFORM = {
    "query": QUERIES,
    "first": [row[0] for row in DOCUMENTS],
    "second": [row[1] for row in DOCUMENTS],
    "scores": [row[:2] for row in SCORES],
}
LOSSES = [MarginMSE(), CPRD(rank_cut=1)]


@pytest.fixture(autouse=True)
def ignored_deprecations() -> Iterator[None]:
    """The libraries' own warnings are no concern of these tests."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def dense_scores(model: Any, query: str, documents: list[str]) -> list[float]:
    return (model.encode([query]) @ model.encode(documents).T)[0].tolist()  # type: ignore[no-any-return]


def cross_scores(model: Any, query: str, documents: list[str]) -> list[float]:
    logits = model.predict([(query, d) for d in documents], activation_fn=torch.nn.Identity())
    return logits.tolist()  # type: ignore[no-any-return]


def maxsim_scores(model: Any, query: str, documents: list[str]) -> list[float]:
    q = model.encode_query([query])[0]
    return [float((q @ d.T).amax(dim=1).sum()) for d in model.encode_document(documents)]


class Family:
    """A kind of model with its adapter, its trainer, and how it scores by itself."""

    def __init__(
        self,
        make: Callable[[Path], Any],
        objective: type[ListObjective],
        names: tuple[str, str],
        scores: Callable[[Any, str, list[str]], list[float]],
        tasks: tuple[str | None, str | None] | None,
    ) -> None:
        self.make, self.objective, self.scores, self.tasks = make, objective, scores, tasks
        self.trainer, self.arguments = (getattr(st, name) for name in names)

    def train(self, model: Any, objective: Any, data: Mapping[str, Any], out: Path, **arguments: Any) -> Any:
        settings = {"max_steps": 3, "learning_rate": 1e-2, "save_strategy": "no", **arguments}
        args = self.arguments(
            output_dir=str(out),
            per_device_train_batch_size=3,
            logging_steps=1,
            lr_scheduler_type="constant",
            report_to=[],
            disable_tqdm=True,
            seed=1,
            use_cpu=True,
            **{k: v for k, v in settings.items() if k != "resume_from_checkpoint"},
        )
        ragged = data is RAGGED and self.tasks is not None
        trainer = keeping_loss_state(self.trainer)(
            model=model,
            args=args,
            train_dataset=datasets.Dataset.from_dict(dict(data)),
            loss=objective,
            data_collator=RaggedCollator(model.preprocess, tasks=self.tasks) if ragged else None,
        )
        trainer.train(resume_from_checkpoint=arguments.get("resume_from_checkpoint"))
        return trainer


FAMILIES = {
    "dense": Family(
        tiny_encoders.dense,
        DenseObjective,
        ("SentenceTransformerTrainer", "SentenceTransformerTrainingArguments"),
        dense_scores,
        (None, None),
    ),
    "cross": Family(
        tiny_encoders.cross,
        CrossEncoderObjective,
        ("CrossEncoderTrainer", "CrossEncoderTrainingArguments"),
        cross_scores,
        None,
    ),
    "multi_vector": Family(
        tiny_encoders.multi_vector,
        MultiVectorObjective,
        ("MultiVectorEncoderTrainer", "MultiVectorEncoderTrainingArguments"),
        maxsim_scores,
        ("query", "document"),
    ),
}
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def bare(
    loss: RankingLoss, family: Family, model: Any, documents: list[list[str]], teacher: list[list[float]]
) -> float:
    """The loss from the scores that the model gives by itself."""
    student = [torch.tensor(family.scores(model, q, d)) for q, d in zip(QUERIES, documents, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    valid = pad([torch.ones(len(row), dtype=torch.bool) for row in student], batch_first=True)
    scores = RankedScores(
        student=pad(student, batch_first=True),
        teacher=pad([torch.tensor(row) for row in teacher], batch_first=True),
        valid=valid,
    )
    return loss(scores).loss.item()


@pytest.mark.learns
@families
@pytest.mark.parametrize("ragged", [False, True], ids=["uniform", "ragged"])
def test_trainer_sees_the_bare_loss_and_lowers_it(family: Family, ragged: bool, tmp_path: Path) -> None:
    # A cross-encoder scores all pairs alike at first, and leaves that point slowly.
    pace = {"max_steps": 100, "learning_rate": 3e-3} if family is FAMILIES["cross"] else {}
    for number, loss in enumerate(LOSSES):
        model = family.make(tmp_path / f"model{number}")
        documents = DOCUMENTS if ragged else [row[:2] for row in DOCUMENTS]
        expected = bare(loss, family, model, documents, SCORES if ragged else [row[:2] for row in SCORES])
        trainer = family.train(
            model, family.objective(model, loss), RAGGED if ragged else UNIFORM, tmp_path / "out", **pace
        )
        logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        assert logged[0] == pytest.approx(expected, abs=2e-4), loss.name
        assert_below(logged[-1], logged[0])


@families
def test_margins_say_the_same_as_scores(family: Family, tmp_path: Path) -> None:
    model = family.make(tmp_path / "model")
    margins = {**UNIFORM, "scores": [row[0] - row[1] for row in SCORES]}
    logs = []
    for data in (UNIFORM, margins):
        trainer = family.train(model, family.objective(model, MarginMSE()), data, tmp_path / "out", learning_rate=0.0)
        logs.append(trainer.state.log_history[0]["loss"])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_uniform_labels() -> None:
    assert uniform_labels(torch.tensor([2.0, -1.0]), 2).tolist() == [[0.0, -2.0], [0.0, 1.0]]
    assert uniform_labels(torch.tensor([[2.0, 3.0]]), 3).tolist() == [[0.0, -2.0, -3.0]]
    assert uniform_labels(torch.tensor([[2.0, 3.0]]), 2).tolist() == [[2.0, 3.0]]
    for labels, k in ((torch.zeros(2), 3), (torch.zeros(2, 4), 3), (torch.zeros(2, 2, 2), 2)):
        with pytest.raises(ValueError, match=rf"labels: expected {k} scores or {k - 1} margins"):
            uniform_labels(labels, k)


@families
def test_the_losss_own_parameters_survive_a_checkpoint(family: Family, tmp_path: Path) -> None:
    """Four steps in one go equal two steps, a checkpoint, and two more in a new process's objects."""

    def objective(folder: Path) -> tuple[Any, ListObjective]:
        model = family.make(folder)
        return model, family.objective(model, KL(), scale=3.0, learn_scale=True)

    model, whole = objective(tmp_path / "a")
    family.train(model, whole, UNIFORM, tmp_path / "whole", max_steps=4, save_strategy="steps", save_steps=2)
    assert whole.log_scale.item() != pytest.approx(torch.tensor(3.0).log().item(), abs=1e-4)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert (checkpoint / FILE).exists()
    fresh_model, fresh = objective(tmp_path / "b")
    family.train(fresh_model, fresh, UNIFORM, tmp_path / "rest", max_steps=4, resume_from_checkpoint=str(checkpoint))
    assert fresh.log_scale.item() == pytest.approx(whole.log_scale.item(), abs=1e-6)
    (checkpoint / FILE).unlink()
    again_model, again = objective(tmp_path / "c")
    with pytest.raises(ValueError, match=r"expected the loss's parameters \['loss.log_scale'\], got \[\]"):
        family.train(again_model, again, UNIFORM, tmp_path / "x", max_steps=4, resume_from_checkpoint=str(checkpoint))


def test_a_loss_without_parameters_adds_no_file(tmp_path: Path) -> None:
    family = FAMILIES["dense"]
    model = family.make(tmp_path / "model")
    objective = family.objective(model, MarginMSE())
    family.train(model, objective, UNIFORM, tmp_path / "out", max_steps=1, save_strategy="steps", save_steps=1)
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
    assert not (tmp_path / "out" / "checkpoint-1" / FILE).exists()


def test_levels_and_positives(tmp_path: Path) -> None:
    family = FAMILIES["dense"]
    model = family.make(tmp_path / "model")
    embeddings = [torch.randn(2, 4, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    student = torch.stack([(embeddings[0] * e).sum(dim=1) for e in embeddings[1:]], dim=1)
    levels = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    got = DenseObjective(model, MultiLevelRanking()).compute_loss_from_embeddings(embeddings, levels)
    scores = RankedScores(student=student, teacher=-levels, valid=torch.ones(2, 3).bool(), levels=levels.long())
    torch.testing.assert_close(got, MultiLevelRanking()(scores).loss)
    teacher = torch.tensor([[0.1, 2.0, 1.0], [0.0, 1.0, 2.0]])
    got = DenseObjective(model, PLD(), positive_first=True).compute_loss_from_embeddings(embeddings, teacher)
    scores = RankedScores(
        student=student, teacher=teacher, valid=torch.ones(2, 3).bool(), positive=torch.zeros(2, dtype=torch.long)
    )
    torch.testing.assert_close(got, PLD()(scores).loss)


def test_cosine_and_scale(tmp_path: Path) -> None:
    model = FAMILIES["dense"].make(tmp_path / "model")
    embeddings = [torch.randn(5, 4, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    cosine = torch.stack([torch.cosine_similarity(embeddings[0], e) for e in embeddings[1:]], dim=1)
    labels = torch.randn(5, 2)
    objective = DenseObjective(model, ListMLE(), similarity="cosine", scale=20.0)
    got = objective.compute_loss_from_embeddings(embeddings, labels)
    scores = RankedScores(student=20 * cosine, teacher=labels, valid=torch.ones(5, 2).bool())
    torch.testing.assert_close(got, ListMLE()(scores).loss, rtol=1e-5, atol=1e-5)
    assert objective.get_config_dict()["similarity"] == "cosine"
    with pytest.raises(ValueError, match="similarity: expected dot or cosine, got 'l2'"):
        DenseObjective(model, ListMLE(), similarity="l2")  # type: ignore[arg-type]


def test_matryoshka_goes_around_the_dense_objective(tmp_path: Path) -> None:
    """Also where there are as many candidates as dimensions: labels are no embeddings."""
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    family = FAMILIES["dense"]
    model = family.make(tmp_path / "model")
    wrapped = MatryoshkaLoss(model, DenseObjective(model, MarginMSE()), [16, 8, 2])
    trainer = family.train(model, wrapped, UNIFORM, tmp_path / "out")
    assert all(row["loss"] > 0 for row in trainer.state.log_history if "loss" in row)


def test_the_cross_encoder_adapter_never_raises_a_type_error(tmp_path: Path) -> None:
    """The trainer would swallow it and run the step again without the prompt."""
    model = FAMILIES["cross"].make(tmp_path / "model")
    objective = CrossEncoderObjective(model, MarginMSE())
    calls = []

    def broken(*_: object, **__: object) -> Tensor:
        calls.append(1)
        raise TypeError("inner fault")

    objective._scores = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="inner fault"):
        FAMILIES["cross"].train(model, objective, UNIFORM, tmp_path / "out")
    assert len(calls) == 1


def test_embeddings_of_the_teacher_are_labels(tmp_path: Path) -> None:
    family = FAMILIES["dense"]
    model, teacher = family.make(tmp_path / "model"), family.make(tmp_path / "same")
    vectors = torch.tensor(teacher.encode(QUERIES))
    data = {"text": QUERIES, "label": vectors.tolist()}
    trainer = family.train(model, EmbeddingObjective(model, EmbeddingMatch()), data, tmp_path / "out", max_steps=1)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0, abs=1e-5)
    columns = [torch.randn(3, 4), torch.randn(3, 4)]
    objective = EmbeddingObjective(model, EmbeddingMatch(power=1))
    target = torch.randn(3, 2, 4)
    got = objective.compute_loss_from_embeddings(columns, target)
    expected = torch.stack([(c - target[:, n]).norm(dim=1).mean() for n, c in enumerate(columns)]).mean()
    torch.testing.assert_close(got, expected)


def test_ragged_rows_that_do_not_fit(tmp_path: Path) -> None:
    model = FAMILIES["dense"].make(tmp_path / "model")
    collate = RaggedCollator(model.preprocess)
    with pytest.raises(ValueError, match="scores: expected one for each document, 2, got 1"):
        collate([{"query": "a", "documents": ["b", "c"], "scores": [1.0]}])
    with pytest.raises(ValueError, match="ragged rows: expected query, documents and labels, got query, documents"):
        collate([{"query": "a", "documents": ["b", "c"]}])
    objective = DenseObjective(model, MarginMSE())
    with pytest.raises(ValueError, match="labels: expected one for each of 3 documents, got 2"):
        objective.compute_loss_from_embeddings([torch.zeros(2, 4), torch.zeros(3, 4)], torch.zeros(2, 1))
    with pytest.raises(ValueError, match="labels: expected a list of scores"):
        objective.compute_loss_from_embeddings([torch.zeros(2, 4), torch.zeros(2, 4)], torch.zeros(2))
