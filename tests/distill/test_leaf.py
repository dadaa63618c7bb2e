"""``cyclealign distill leaf``: a student in the teacher's space, the Router on disk, retention; resuming, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders
from learning import assert_below
from stopping import stopped_at

from cyclealign.cli.main import main

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
Captured = pytest.CaptureFixture[str]
QUERIES = ("a cat ?", "a dog ?", "a bird ?")
DOCUMENTS = ("the cat sleeps", "the dog runs", "a bird sings", "red blue green", "the red bird", "green dog sleeps")
QUICK = ["steps=60", "training.learning_rate=0.01", "training.use_cpu=true", "training.logging_steps=1"]
FILES = ["data.queries=queries.tsv", "data.documents=docs.tsv"]
EVALUATE = "evaluate={queries: queries.tsv, documents: docs.tsv, qrels: qrels.tsv, widths: [8]}"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Texts and a teacher of two layers lie in the current directory; the libraries' own warnings are no concern."""
    import warnings

    monkeypatch.chdir(tmp_path)
    Path("queries.tsv").write_text("".join(f"q{n}\t{text}\n" for n, text in enumerate(QUERIES)))
    Path("docs.tsv").write_text("".join(f"d{n}\t{text}\n" for n, text in enumerate(DOCUMENTS)))
    Path("qrels.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teacher().save("teacher")
        yield


def teacher(*, seed: int = 0, unit: bool = True, prompt: str = "red ") -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    encoder = Transformer(str(tiny_encoders.save_encoder(Path(f"bert{seed}{unit}"), layers=2, seed=seed)))
    modules = [encoder, Pooling(tiny_encoders.WIDTH, pooling_mode="cls"), *([Normalize()] if unit else [])]
    prompts = {"query": prompt, "document": ""}
    return SentenceTransformer(modules=modules, prompts=prompts, device="cpu")


def distill(*overrides: str) -> int:
    start = ["distill", "leaf", "distill/leaf", "teacher.model=teacher", "student.layers=1", "student.max_tokens=32"]
    return main([*start, *FILES, *QUICK, *overrides])


def loaded(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")


@pytest.mark.learns
def test_the_student_answers_in_the_teachers_space() -> None:
    assert distill(EVALUATE) == 0
    summary = json.loads(Path("runs/leaf/summary.json").read_text())
    assert summary["texts"] == len(QUERIES) + len(DOCUMENTS)
    assert_below(summary["last_loss"], 0.05 * summary["first_loss"])
    whole, student, router = loaded("teacher"), loaded("runs/leaf/model"), loaded("runs/leaf/router")
    assert [type(m).__name__ for m in student] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert student[2].linear.bias is None
    for mine, theirs in (
        (student.encode_query(QUERIES), whole.encode_query(QUERIES)),
        (student.encode_document(DOCUMENTS), whole.encode_document(DOCUMENTS)),
    ):
        assert_below(1 - (mine * theirs).sum(axis=1).min(), 0.05)
        np.testing.assert_allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(router.encode_query(QUERIES), student.encode_query(QUERIES), atol=1e-6)
    np.testing.assert_allclose(router.encode_document(DOCUMENTS), whole.encode_document(DOCUMENTS), atol=1e-6)
    # The teacher's prompt stands before queries, on both sides.
    np.testing.assert_allclose(student.encode_query("a cat ?"), student.encode_document("red a cat ?"), atol=1e-6)


def test_the_report_compares_with_the_teacher_at_the_same_precision() -> None:
    assert distill(EVALUATE) == 0
    summary = json.loads(Path("runs/leaf/summary.json").read_text())
    points = {"float32", "width 8", "int8", "binary"}
    assert {n: set(at) for n, at in summary["ndcg10"].items()} == dict.fromkeys(
        ("teacher", "standard", "asymmetric", "undistilled"), points
    )
    for name, at in summary["retention"].items():
        for point, share in at.items():
            expected = summary["ndcg10"][name][point] / summary["ndcg10"]["teacher"][point]
            assert share == pytest.approx(expected)
    by_query = json.loads(Path("runs/leaf/retention.json").read_text())
    for name, values in by_query.items():
        assert np.mean(list(values.values())) == pytest.approx(summary["ndcg10"][name]["float32"])
    assert summary["cosine"]["queries"] > 0.95
    assert set(summary["queries_per_second"]) == {"batch 1", "batch 32"}
    documents = loaded("teacher").encode_document(list(DOCUMENTS))
    ranges = np.load("runs/leaf/router/int8_ranges.npy")
    np.testing.assert_allclose(ranges, [documents.min(axis=0), documents.max(axis=0)], atol=1e-6)


def test_int8_and_binary_keep_what_their_codes_stand_for() -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    from cyclealign.distill.leaf_retention import at_precision, ranges_of

    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    vectors[:, 3] = 1.0  # a dimension without a range
    step = np.ptp(vectors, axis=0) / 255
    assert (abs(at_precision(vectors, "int8", ranges_of(vectors)) - vectors) <= step / 2 + 1e-6).all()
    signs = at_precision(vectors, "binary")
    hamming = ((vectors[0] > 0) != (vectors[1] > 0)).sum()
    assert signs[0] @ signs[1] == 16 - 2 * hamming
    # Raw codes are offset by 128 and would prefer the document of zeros.
    ranges = np.array([[0, 0], [25.5, 255]], dtype=np.float32)
    query, documents = np.array([[1.0, 2.0]], np.float32), np.array([[20.0, 10.0], [0.0, 0.0]], np.float32)
    mine, theirs = (quantize_embeddings(v, "int8", ranges=ranges).astype(int) for v in (query, documents))
    assert (mine @ theirs.T).argmax() == 1
    assert (at_precision(query, "int8", ranges) @ at_precision(documents, "int8", ranges).T).argmax() == 0


def test_ndcg_by_hand() -> None:
    from cyclealign.distill.leaf_retention import Collection, System, ndcg

    collection = Collection({"q": "", "r": ""}, {"a": "", "b": "", "c": ""}, {"q": {"b": 1}, "r": {"a": 1, "c": 1}})
    documents = np.array([[1, 0], [0.5, 0.5], [0, 1]], dtype=np.float32)
    found = ndcg(System(np.array([[1, 0.2], [1, 0]], dtype=np.float32), documents), collection)
    assert found["q"] == pytest.approx(1 / np.log2(3))
    assert found["r"] == pytest.approx((1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3)))


def test_a_teacher_that_does_not_normalise_has_a_student_that_does_not() -> None:
    teacher(seed=1, unit=False).save("raw")
    assert distill("teacher.model=raw", "steps=2") == 0
    assert [type(m).__name__ for m in loaded("runs/leaf/model")] == ["Transformer", "Pooling", "Dense"]


def test_another_student_is_projected_to_the_teachers_width() -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    BertTokenizerFast("bert0True/vocab.txt", model_max_length=32).save_pretrained("narrow")
    words = len(Path("bert0True/vocab.txt").read_text().split("\n"))
    config = BertConfig(
        vocab_size=words, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained("narrow")
    for name in ("one", "again"):
        own = ("student.model=narrow", "student.layers=null", "student.dropout=0.25")
        assert distill(*own, "steps=2", f"name={name}") == 0
    models = [loaded(f"runs/{name}/model") for name in ("one", "again")]
    assert models[0][0].auto_model.config.hidden_dropout_prob == 0.25
    found = [model.encode("a cat ?") for model in models]
    assert found[0].shape == (tiny_encoders.WIDTH,)
    np.testing.assert_array_equal(found[0], found[1])


def test_the_schedule_falls_linearly_in_every_cycle() -> None:
    from cyclealign.distill.leaf_training import cyclic_decay

    factors = [cyclic_decay(n, steps=9, cycles=3, end=0.1) for n in range(9)]
    assert factors == pytest.approx([1, 0.55, 0.1] * 3)
    assert [cyclic_decay(n, steps=2, cycles=2, end=0.0) for n in range(2)] == [1.0, 1.0]
    assert cyclic_decay(9, steps=10, cycles=1, end=0.25) == pytest.approx(0.25)
    assert distill("steps=6") == 0
    history = json.loads(Path("runs/leaf/checkpoints/checkpoint-6/trainer_state.json").read_text())["log_history"]
    rates = [row["learning_rate"] for row in history if "learning_rate" in row]
    assert rates == pytest.approx([0.01, 0.001] * 3)


def test_a_stopped_distillation_goes_on_and_computes_no_vector_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclealign.distill import leaf_training, teacher_vectors

    whole = ["steps=12", "save_every=4"]
    assert distill(*whole, "name=whole") == 0
    with monkeypatch.context() as once:
        once.setattr(leaf_training, "leaf_trainer", stopped_at(9, leaf_training.leaf_trainer))
        assert distill(*whole, "name=part") == 130
    asked: list[str] = []
    encode = teacher_vectors.TeacherVectors._encode

    def counted(self: Any, texts: Any, task: Any) -> Any:
        asked.extend(texts)
        return encode(self, texts, task)

    monkeypatch.setattr(teacher_vectors.TeacherVectors, "_encode", counted)
    assert distill(*whole, "name=part") == 0
    assert asked == [teacher_vectors.PROBE]
    weights = [Path(f"runs/{name}/model/model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]
    asked.clear()
    assert distill(*whole, "name=part") == 0  # done: not even the teacher is loaded
    assert not asked
    assert distill(*whole, "name=part", "seed=7") == 2


def test_cached_vectors_are_the_teachers_by_task_length_and_prompt() -> None:
    from cyclealign.distill.teacher_vectors import TeacherVectors

    model = teacher(seed=3)
    cache = TeacherVectors(Path("v.sqlite"), model)
    texts = ["a cat ?", "the dog runs", "a cat ?"]
    np.testing.assert_allclose(cache.vectors(texts, "query"), model.encode_query(texts), atol=1e-6)
    np.testing.assert_allclose(cache.vectors(texts, "document"), model.encode_document(texts), atol=1e-6)
    model.prompts = {"query": "a bird ", "document": "the "}
    np.testing.assert_allclose(cache.vectors(texts, "query"), model.encode_query(texts), atol=1e-6)
    model.max_seq_length = 4
    np.testing.assert_allclose(cache.vectors(texts, "document"), model.encode_document(texts), atol=1e-6)
    cache.close()


def test_vectors_of_another_teacher_are_refused(capsys: Captured) -> None:
    assert distill("steps=1", "teacher.vectors=v.sqlite") == 0
    teacher(seed=2).save("other")
    assert distill("steps=1", "name=other", "teacher.model=other", "teacher.vectors=v.sqlite") == 2
    assert "v.sqlite: holds another teacher's vectors" in capsys.readouterr().err
    Path("v.txt").write_text("no database, but long enough to be looked at" * 9)
    assert distill("steps=1", "name=third", "teacher.vectors=v.txt") == 2
    assert "v.txt: expected a file of teacher's vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("teacher.modle=x",), "unknown key teacher.modle; did you mean teacher.model?"),
        (("match.power=3",), "match.power: expected"),
        (("match.widhts=[2]",), "match.widhts"),
        (("match.widths=[8,17]",), "match.widths: the teacher's vectors have 16 dimensions, got 17"),
        ((EVALUATE.replace("[8]", "[8, 0]"),), "evaluate.widths.1: expected a value >= 1, got 0"),
        ((EVALUATE.replace("[8]", "[-3]"),), "evaluate.widths.0: expected a value >= 1, got -3"),
        ((EVALUATE.replace("[8]", "[17]"),), "evaluate.widths: the teacher's vectors have 16 dimensions, got 17"),
        (("teacher.model=./nowhere",), "teacher.model: cannot load './nowhere'"),
        (("student.model=./nowhere",), "student.model: cannot load './nowhere'"),
        (("student.layers=3",), "student.layers: the encoder has 2 layers, got 3"),
        (("student.max_tokens=513",), "student.max_tokens: the encoder has 512 positions, got 513 tokens"),
        (("teacher.max_tokens=513",), "teacher.max_tokens: the encoder has 512 positions, got 513 tokens"),
        (("data={}",), "give data.queries, data.documents, or (better) both"),
        (("data.queries=none.tsv",), "none.tsv: cannot be read"),
        (("training.lr_scheduler_type=linear",), "leaf has a schedule of its own; set cycles and cycle_end"),
        ((EVALUATE.replace("qrels.tsv", "docs.tsv"),), "docs.tsv:2: expected a finite number as relevance"),
    ],
)
def test_mistakes_are_one_line(capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    assert distill(*overrides) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("runs/leaf/model").exists()
