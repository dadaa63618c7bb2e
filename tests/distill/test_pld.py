"""``cyclealign distill pld``: a classifier into a smaller one, a ranker into another, resuming, refusals."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders
import torch
from learning import assert_below

from cyclealign.cli.main import main
from cyclealign.config.loading import load_sections
from cyclealign.distill.pld_classifier import ranking_objective
from cyclealign.distill.pld_config import PLDConfig
from cyclealign.losses import PLD
from cyclealign.models.classifier import (
    Classifier,
    ClassifierConfig,
    LabelledImages,
    logits_of,
    read_images,
    shifted_views,
)
from cyclealign.types import UserError

Captured = pytest.CaptureFixture[str]
QUICK = ["steps=40", "teacher.steps=60", "teacher.width=8", "student.width=4", "data.train=train.npz"]
CPU = [
    "training.use_cpu=true",
    "training.logging_steps=1",
    "training.per_device_train_batch_size=16",
    "training.learning_rate=0.01",
]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bars: which eighth of the image is bright is the class, drawn in noise."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, copies in (("train", 12), ("test", 4)):
        labels = np.tile(np.arange(4), copies)
        images = rng.integers(0, 60, (len(labels), 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 2] += 150
        np.savez(f"{name}.npz", images=images, labels=labels.astype(np.int16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def distill(*overrides: str) -> int:
    return main(["distill", "pld", "distill/pld", *QUICK, *CPU, *overrides])


def summary(name: str = "pld") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/{name}/summary.json").read_text())
    return found


def test_the_objective_is_the_papers_with_the_label_first() -> None:
    """The reference sheet's vector: label 1, teacher's favourite 0."""
    student, teacher = torch.tensor([[0.2, 1.0, -0.5, 0.3]]), torch.tensor([[2.0, 1.5, 0.1, -1.0]])
    for temperature, expected in ((1.0, 0.8865315533), (4.0, 0.7954257167)):
        loss = ranking_objective(PLD(teacher_temperature=temperature))(student, teacher, torch.tensor([1]))
        assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.learns
@pytest.mark.parametrize("student", ["kind=cnn", "kind=mlp student.width=16"])
def test_a_student_learns_from_a_teacher_that_the_run_trains(student: str) -> None:
    views = ["data.test=test.npz", "data.views=2", "data.shift=0"]
    assert distill(*f"student.{student}".split(), *views, "loss.teacher_temperature=1") == 0
    found = summary()
    assert found["images"] == 2 * 48
    assert found["teacher_accuracy"] == 1.0
    assert_below(1 - found["student_accuracy"], 0.1)
    assert_below(found["last_loss"], 0.5 * found["first_loss"])
    assert found["teacher_parameters"] > found["student_parameters"]
    # The teacher of one run serves another.
    assert distill("name=second", "teacher.model=runs/pld/teacher", "steps=1") == 0
    assert not Path("runs/second/teacher").exists()


def test_a_stopped_distillation_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    assert distill("name=whole", "save_every=8", "steps=20") == 0
    made = Trainer.training_step
    steps = iter(range(10**6))

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(steps) == 12:
            raise KeyboardInterrupt
        return made(self, *arguments, **options)

    part = ["name=part", "save_every=8", "steps=20", "teacher.model=runs/whole/teacher"]
    with monkeypatch.context() as once:
        once.setattr(Trainer, "training_step", killed)
        assert distill(*part) == 130
    assert Path("runs/part/checkpoints/checkpoint-8").is_dir()
    assert distill(*part) == 0
    weights = [Path(f"runs/{name}/model/model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("teacher", ["cnn", "mlp"])
def test_an_mlp_leaves_out_a_last_batch_of_one_image(teacher: str) -> None:
    """Nine images in batches of eight: batch norm has no variance of the ninth. One batch an epoch."""
    rng = np.random.default_rng(0)
    np.savez("nine.npz", images=rng.random((9, 8, 8)), labels=np.arange(9) % 2)
    eight = ["data.train=nine.npz", "data.views=1", "training.per_device_train_batch_size=8", "steps=3"]
    kinds = ["student.kind=mlp", f"teacher.kind={teacher}", "teacher.steps=3"]
    assert distill(*eight, *kinds) == 0
    state = json.loads(Path("runs/pld/checkpoints/checkpoint-3/trainer_state.json").read_text())
    assert state["epoch"] == 3.0


def pixels_of(name: str, images: Any) -> Any:
    np.savez(name, images=images, labels=np.zeros(len(images), dtype=np.int64))
    return read_images(Path(name)).pixels[:, 0]


def test_pixels_do_not_depend_on_the_rest_of_the_file() -> None:
    bright = pixels_of("bright.npz", np.array([[[255, 100]]], np.uint8))
    dark = pixels_of("dark.npz", np.array([[[50, 100]]], np.uint8))
    np.testing.assert_allclose(bright, [[[1.0, 100 / 255]]])
    np.testing.assert_allclose(dark, [[[50 / 255, 100 / 255]]])
    np.testing.assert_allclose(pixels_of("wide.npz", np.array([[[65535, 257]]], np.uint16)), [[[1.0, 1 / 255]]])
    for kind in (bool, np.uint8, np.int64, np.float64):  # zeros and ones, whatever they are written as
        assert pixels_of("binary.npz", np.array([[[0, 1]]], kind)).tolist() == [[[0.0, 1.0]]]
    np.testing.assert_allclose(pixels_of("float.npz", np.array([[[0.25, 0.5]]])), [[[0.25, 0.5]]])


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.array([[[0, 255]]]), "int64 in 0 ... 255"),
        (np.array([[[0.0, 1.5]]]), "float64 in 0 ... 1.5"),
        (np.array([[[-1.0, 1.0]]], np.float32), "float32 in -1 ... 1"),
        (np.array([[[0.5, np.nan]]]), "float64 in nan ... nan"),
        (np.array([[["a", "b"]]]), "<U1"),
    ],
)
def test_pixels_of_no_known_range_are_refused(images: Any, got: str) -> None:
    said = f"images.npz: expected uint8, uint16, bool, or floats in 0 ... 1 as images, got {got}"
    with pytest.raises(UserError, match=re.escape(said)):
        pixels_of("images.npz", images)


def test_a_section_in_part_keeps_the_other_defaults() -> None:
    for name, lines in (("none", ""), ("part", "teacher: {steps: 5}\nstudent: {kind: mlp}\n")):
        Path(f"{name}.yaml").write_text(f"name: {name}\ndata: {{train: train.npz}}\n{lines}")
        config = load_sections(PLDConfig, f"{name}.yaml", [])
        assert (config.teacher.width, config.student.width) == (32, 8)
    assert (config.teacher.steps, config.teacher.kind, config.student.kind) == (5, "cnn", "mlp")


def test_a_saved_classifier_is_the_same_one() -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(kind="cnn", width=2), (3, 9, 10), 5)
    model.save(Path("saved"))
    pixels = torch.rand(4, 3, 9, 10)
    torch.testing.assert_close(logits_of(Classifier.load(Path("saved")), pixels), logits_of(model, pixels))


def test_views_are_the_image_and_shifts_of_it() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1.0
    views = shifted_views(LabelledImages(image, torch.tensor([3])), 100, 1, seed=0)
    assert torch.equal(views.pixels[0], image[0])
    assert views.labels.tolist() == [3] * 100
    places = {tuple(p[0].nonzero()[0].tolist()) for p in views.pixels}
    assert places == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}
    assert all(p.sum() == 1 for p in views.pixels)


@pytest.mark.learns
@pytest.mark.parametrize("kind", ["cosine", "cross_encoder"])
def test_a_ranker_learns_a_rankers_lists(kind: str) -> None:
    pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
    folder = tiny_encoders.save_encoder(Path("student"), head=kind == "cross_encoder")
    rows = [
        {"query": "a cat ?", "documents": ["the cat sleeps", "the dog runs", "a bird sings"], "scores": [3, 0, -1]},
        {"query": "a dog ?", "documents": ["a bird sings", "the dog runs", "the cat sleeps"], "scores": [0, 4, 1]},
    ]
    Path("lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["distill", "pld", "distill/pld_lists", "data.scores=lists.jsonl", f"student.model={folder}"]
    quick = ["steps=30", "student.scale=10", f"student.kind={kind}"]
    assert main([*command, *quick, *CPU]) == 0
    found = summary("pld-lists")
    assert found["lists"] == 2
    assert_below(found["last_loss"], 0.9 * found["first_loss"])  # 0.61 of it where it reads the document alone


def test_a_known_positive_goes_before_the_teachers_favourite() -> None:
    """A teacher that is sure of the second document, and a list whose first one is known to be best."""
    pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
    from sentence_transformers import CrossEncoder

    folder = tiny_encoders.save_encoder(Path("student"), head=True)
    documents = ["the cat sleeps", "the dog runs"]
    Path("lists.jsonl").write_text(json.dumps({"query": "a cat ?", "documents": documents, "scores": [0, 1]}) + "\n")
    command = ["distill", "pld", "distill/pld_lists", "data.scores=lists.jsonl", f"student.model={folder}", "steps=30"]
    best = []
    for name, first in (("teacher", "false"), ("known", "true")):
        assert main([*command, *CPU, f"name={name}", f"positive_first={first}"]) == 0
        model = CrossEncoder(f"runs/{name}/model", device="cpu")
        best.append(int(model.predict([("a cat ?", d) for d in documents]).argmax()))
    assert best == [1, 0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("student.kind=vit",), "student.kind: expected one of cnn, mlp"),
        (("data.train=none.npz",), "none.npz: expected an npz with images and labels"),
        (("loss.name=dpo",), "loss.student_score: log_ratio compares a policy with its reference"),
        (("teacher.model=nowhere",), "nowhere: expected a classifier of cyclealign distill pld"),
        (("data.test=other.npz",), "other.npz: expected images of the size and the classes of train.npz"),
        (("data.scores=lists.jsonl",), "unknown key"),
        (
            ("student.kind=mlp", "training.per_device_train_batch_size=1"),
            "training.per_device_train_batch_size: an mlp needs two images a batch, got 1",
        ),
    ],
)
def test_mistakes_are_one_line(capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    np.savez("other.npz", images=np.ones((2, 9, 9)), labels=np.zeros(2, dtype=np.int64))
    assert distill(*overrides) == 2
    assert message in capsys.readouterr().err
