"""``cyclealign distill margin_mse``: scores in, a trained student on disk; resuming; refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
from learning import assert_below
from stopping import stopped_at

from cyclealign.cli.main import main
from cyclealign.types import UserError

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
Captured = pytest.CaptureFixture[str]
# The teacher likes documents that name the query's animal.
LINES = [
    "4\t-1\ta cat ?\tthe cat sleeps\tthe dog runs",
    "5\t0\ta cat ?\tthe cat sleeps\ta bird sings",
    "4\t-1\ta dog ?\tthe dog runs\tthe cat sleeps",
    "3\t-2\ta bird ?\ta bird sings\tthe cat sleeps",
]
QUICK = ["steps=12", "training.learning_rate=0.01", "training.use_cpu=true", "training.logging_steps=1"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scores lie in the current directory; the libraries' own warnings are no concern here."""
    import warnings

    monkeypatch.chdir(tmp_path)
    Path("scores.tsv").write_text("\n".join(LINES) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def distill(*overrides: str) -> int:
    return main(["distill", "margin_mse", "distill/margin_mse", "data.scores=scores.tsv", *QUICK, *overrides])


def summary(name: str = "margin-mse") -> dict[str, float]:
    found: dict[str, float] = json.loads(Path(f"runs/{name}/summary.json").read_text())
    return found


@pytest.mark.learns
def test_a_dot_student_learns_the_margins_and_finds_the_documents() -> None:
    tiny_encoders.dense(Path("bert")).save("student")
    texts = {line.split("\t")[n] for line in LINES for n in (3, 4)}
    ids = {text: f"d{n}" for n, text in enumerate(sorted(texts))}
    Path("docs.tsv").write_text("".join(f"{key}\t{text}\n" for text, key in ids.items()))
    queries = ("a cat ?", "a dog ?", "a bird ?")
    Path("queries.tsv").write_text("".join(f"q{n}\t{q}\n" for n, q in enumerate(queries)))
    relevant = ("the cat sleeps", "the dog runs", "a bird sings")
    Path("qrels.tsv").write_text("".join(f"q{n}\t{ids[d]}\t1\n" for n, d in enumerate(relevant)))
    retrieval = "evaluate={queries: queries.tsv, documents: docs.tsv, qrels: qrels.tsv}"
    assert distill("student.model=student", retrieval, "steps=100") == 0
    found = summary()
    assert found["lists"] == 4
    assert found["pairs"] == 8
    assert_below(found["last_loss"], 0.05 * found["first_loss"])
    assert set(found["before"]) == set(found["after"]) == {"mrr@10", "ndcg@10", "recall@100"}  # type: ignore[call-overload]
    assert found["after"]["recall@100"] == 1.0  # type: ignore[index]
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/margin-mse/model", device="cpu")
    assert model.similarity_fn_name == "dot"
    for line in LINES:
        positive, negative, *told = line.split("\t")
        query, better, worse = model.encode(told)
        assert_below(abs(query @ (better - worse) - (float(positive) - float(negative))), 1.0)


@pytest.mark.learns
@pytest.mark.parametrize("kind", ["colbert", "cross_encoder", "cosine", "prettr", "tk"])
def test_other_students_lower_the_loss(kind: str) -> None:
    folder = tiny_encoders.save_encoder(Path("student"), layers=3, head=kind == "cross_encoder")
    loss = "loss={name: cprd, rank_cut: 1, temperature: 0.1}" if kind == "cosine" else "loss.name=margin_mse"
    short = ["student.max_query_tokens=8", "student.max_document_tokens=16"]
    if kind == "tk":  # its kernels come apart at the others' rate
        short += ["training.learning_rate=0.005", "steps=24"]
    assert distill(f"student.model={folder}", f"student.kind={kind}", "student.layers=2", loss, *short) == 0
    assert_below(summary()["last_loss"], summary()["first_loss"])
    config = json.loads(next(Path("runs/margin-mse/model").rglob("config.json")).read_text())
    assert config["num_hidden_layers"] == 2


def test_a_stopped_distillation_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    from cyclealign.distill import list_distiller

    student = f"student.model={tiny_encoders.save_encoder(Path('student'))}"
    whole = [student, "save_every=4", "student.learn_scale=true"]
    assert distill(*whole, "name=whole") == 0

    with monkeypatch.context() as once:
        once.setattr(list_distiller, "_trainer", stopped_at(9, list_distiller._trainer))
        assert distill(*whole, "name=part") == 130
    assert Path("runs/part/checkpoints/checkpoint-8").is_dir()
    Path("runs/part/checkpoints/checkpoint-9").mkdir()  # as a kill in the middle of saving leaves it
    assert distill(*whole, "name=part") == 0
    assert summary("part")["steps"] == summary("whole")["steps"] == 12
    weights = [(Path(f"runs/{name}/model") / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert distill(*whole, "name=part") == 0  # done: nothing is trained again
    assert distill(*whole, "name=part", "seed=7") == 2
    assert "holds a distillation with another config" in capsys.readouterr().err
    Path("scores.tsv").write_text("\n".join(LINES[:-1]) + "\n")  # under the same name, other data
    assert distill(*whole, "name=part") == 2
    assert "runs/part: scores.tsv has changed since this run began" in capsys.readouterr().err
    Path("runs/part/inputs.json").write_bytes(b"")
    assert distill(*whole, "name=part") == 2
    assert "inputs.json: cannot be read as JSON" in capsys.readouterr().err


@pytest.mark.learns
def test_levels_are_learned_in_the_teachers_direction() -> None:
    tiny_encoders.dense(Path("bert")).save("student")
    assert distill("student.model=student", "loss={name: quantidce, squash: sigmoid}", "steps=40") == 0
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/margin-mse/model", device="cpu")
    for line in LINES:
        query, better, worse = model.encode(line.split("\t")[2:])
        assert query @ better > query @ worse


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("student.modle=x",), "unknown key student.modle; did you mean student.model?"),
        (("student.kind=knrm",), "student.kind: expected one of dot, cosine, colbert, cross_encoder, prettr, tk"),
        (("student.split=1",), "student.split: only prettr splits, not dot"),
        (("data.qrels=qrels.tsv",), "data.qrels: labels are read only with data.teacher=labels"),
        (("data.teacher=labels",), "loss.name: margin_mse needs magnitudes, but scores.tsv gives an order alone"),
        (("data.format=foo",), "data.format: expected auto, margin_mse,"),
        # The default loss is Margin-MSE, which has none: no other one takes its place unnamed.
        (("loss.gamma_ratio=0.5",), "unknown key loss.gamma_ratio; loss margin_mse has"),
        (
            ("student.kind=tk", "evaluate={queries: q.tsv, documents: d.tsv, qrels: r.tsv}"),
            "evaluate: a tk has no vectors to search; give evaluate.candidates",
        ),
        (("loss.name=dpo",), "loss.student_score: log_ratio compares a policy with its reference"),
        (("student.model=./nowhere",), "student.model: cannot load './nowhere'"),
        (("data.scores=none.tsv",), "none.tsv: no such file"),
        (("training.learning_rte=1",), "training.learning_rte; did you mean training.learning_rate?"),
        (("data.format=margin_mse",), "scores.tsv:1: expected an id without spaces, got 'a cat ?'"),
        (("data.format=rankllm",), "loss.name: margin_mse needs magnitudes, but scores.tsv gives an order alone"),
    ],
)
def test_mistakes_are_one_line(capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    assert distill(*overrides) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists() or not list(Path("runs").glob("*/model"))


@pytest.mark.parametrize("kind", ["dot", "colbert", "cross_encoder", "tk"])
def test_more_tokens_than_the_encoder_has_positions(kind: str, capsys: Captured) -> None:
    student = tiny_encoders.save_encoder(Path("student"), head=kind == "cross_encoder")
    assert distill(f"student.model={student}", f"student.kind={kind}", "student.max_document_tokens=513") == 2
    assert "the encoder has 512 positions, got 5" in capsys.readouterr().err


def test_positions_that_roberta_keeps_for_padding_are_not_for_tokens() -> None:
    from types import SimpleNamespace

    import torch
    from transformers import RobertaConfig, RobertaModel

    from cyclealign.distill.students import check_length

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    encoder = RobertaModel(RobertaConfig(vocab_size=9, max_position_embeddings=20, **sizes))
    model = [SimpleNamespace(auto_model=encoder)]
    encoder(torch.full((1, 18), 5))
    check_length(model, 18, "tokens")
    with pytest.raises((IndexError, RuntimeError)):
        encoder(torch.full((1, 19), 5))
    with pytest.raises(UserError, match="tokens: the encoder has 18 positions, got 19 tokens"):
        check_length(model, 19, "tokens")


def test_grades_are_any_finite_numbers_and_a_header_is_none() -> None:
    from cyclealign.distill.relevance import read_judged

    Path("qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t0.5\nq1\td1\t1\nq1\td2\t0\n")
    assert read_judged(Path("qrels.tsv")) == {"q0": {"d0": 0.5}, "q1": {"d1": 1.0}}
    Path("qrels.tsv").write_text("q0\td0\tgrade1\nq1\td1\t1\n")
    with pytest.raises(UserError, match=r"qrels.tsv:1: expected a finite number as relevance, got 'grade1'"):
        read_judged(Path("qrels.tsv"))


def test_a_mistake_leaves_the_name_free() -> None:
    assert distill("student.model=./nowhere") == 2
    assert distill(f"student.model={tiny_encoders.save_encoder(Path('student'))}", "steps=1") == 0


@pytest.mark.parametrize("kind", ["dense", "multi_vector"])
def test_a_student_trains_on_texts_as_it_encodes_them(kind: str) -> None:
    """Behind its own prompts, which the saved student keeps."""
    from cyclealign.distill.config import StudentConfig
    from cyclealign.distill.students import make_student
    from cyclealign.losses import MarginMSE

    model = getattr(tiny_encoders, kind)(Path("bert"))
    model.prompts = {"query": "red ", "document": "blue blue "}
    model.save("student")
    student = make_student(StudentConfig(model="student", kind="dot" if kind == "dense" else "colbert"), MarginMSE())
    assert student.collator is not None
    rows = [{"query": "a cat ?", "documents": ["the dog runs", "a bird"], "scores": [1.0, 0.0]}]
    batch = student.collator(rows)
    for column, start in (("query", "red a cat"), ("documents", "blue blue the dog")):
        assert start in student.model.tokenizer.decode(batch[f"{column}_input_ids"][0])
    assert student.model.prompts["document"] == "blue blue "


@pytest.mark.learns
def test_a_loss_that_stands_still_is_told(caplog: pytest.LogCaptureFixture) -> None:
    student = f"student.model={tiny_encoders.save_encoder(Path('student'))}"
    assert distill(student, "name=learns") == 0
    assert caplog.text == ""
    assert distill(student, "name=stands", "training.learning_rate=1e-9") == 0
    first = summary("stands")["first_loss"]
    assert (
        f"the loss stood still: {first:.4g} in the first quarter of the steps, {first:.4g} in the last" in caplog.text
    )


def test_layers_that_are_not_there(capsys: Captured) -> None:
    folder = tiny_encoders.save_encoder(Path("student"))
    assert distill(f"student.model={folder}", "student.layers=2") == 2
    assert "student.layers: the encoder has 1 layers, got 2" in capsys.readouterr().err


def test_a_student_without_layers(capsys: Captured) -> None:
    folder = tiny_encoders.save_encoder(Path("student"))
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    words = StaticEmbedding(Tokenizer.from_file(str(folder / "tokenizer.json")), embedding_dim=8)
    SentenceTransformer(modules=[words], device="cpu").save("static")
    assert distill("student.model=static") == 2
    said = "student.model: expected a transformer encoder, got 'static', a StaticEmbedding"
    assert said in capsys.readouterr().err


def test_prettr_needs_layers_on_both_sides_of_the_split(capsys: Captured) -> None:
    folder = tiny_encoders.save_encoder(Path("student"), layers=2)
    assert distill(f"student.model={folder}", "student.kind=prettr", "student.split=2") == 2
    assert "student: PreTTR: expected a split in 1 .. 1, got 2" in capsys.readouterr().err


RUN = ["q0 Q0 d1 1 3.0 bm25", "q0 Q0 d2 2 2.0 bm25", "q1 Q0 d0 1 1.5 bm25", "q2 Q0 d0 1 1.5 bm25"]
QUERIES = ("a cat ?", "a dog ?", "a bird ?")
DOCUMENTS = ("the cat sleeps", "the dog runs", "a bird sings")


def write_collection() -> str:
    """A first stage that puts wrong documents first; q2 has no judgement. Returns what names the files."""
    Path("run.trec").write_text("\n".join(RUN) + "\n")
    Path("queries.tsv").write_text("".join(f"q{n}\t{text}\n" for n, text in enumerate(QUERIES)))
    Path("docs.tsv").write_text("".join(f"d{n}\t{text}\n" for n, text in enumerate(DOCUMENTS)))
    Path("qrels.tsv").write_text("query\tdocument\trelevance\nq0\td0\t2\nq0\td2\t1\nq0\td1\t0\nq1\td1\t1\n")
    return "queries: queries.tsv, documents: docs.tsv, qrels: qrels.tsv"


def test_labelled_lists_begin_with_the_best_judged_documents() -> None:
    from cyclealign.distill.config import ScoresConfig
    from cyclealign.distill.list_rows import training_rows

    write_collection()
    files = {"queries": Path("queries.tsv"), "documents": Path("docs.tsv"), "qrels": Path("qrels.tsv")}
    rows = training_rows(ScoresConfig(scores=Path("run.trec"), teacher="labels", **files))
    assert rows["query"] == ["a cat ?", "a dog ?"]  # of q2 nothing is known
    assert rows["documents"] == [["the cat sleeps", "a bird sings", "the dog runs"], ["the dog runs", "the cat sleeps"]]
    assert rows["scores"] == [[2.0, 1.0, 0.0], [1.0, 0.0]]
    rows = training_rows(ScoresConfig(scores=Path("scores.tsv"), teacher="labels"))
    assert rows["scores"] == [[1.0, 0.0]] * 4  # the file's positives, its scores unread


@pytest.mark.learns
def test_a_teacher_is_trained_from_labels_and_re_ranks_the_first_stage() -> None:
    files = write_collection()
    # Both queries prefer the same documents, so that nothing hangs on when a tiny encoder leaves the saddle at which
    # it reads the document alone: that moment differs with the processor's rounding.
    Path("run.trec").write_text("\n".join([*RUN[:2], "q1 Q0 d1 1 1.5 bm25", RUN[3]]) + "\n")
    Path("qrels.tsv").write_text("q0\td0\t2\nq0\td2\t1\nq0\td1\t0\nq1\td0\t1\n")
    folder = tiny_encoders.save_encoder(Path("student"), head=True)
    config = ["distill", "margin_mse", "distill/bert_cat", f"student.model={folder}", "data={scores: run.trec, "]
    config[-1] += f"teacher: labels, {files}}}"
    evaluate = f"evaluate={{{files}, candidates: run.trec}}"
    assert main([*config, evaluate, *QUICK]) == 0
    found: Any = summary("bert-cat")
    assert found["lists"] == 2
    assert_below(found["last_loss"], 0.5 * found["first_loss"])
    # Of q0 the run has one relevant document, at best first; of q1 none.
    assert found["before"].keys() == found["after"].keys() == {"rerank_mrr@10", "rerank_ndcg@10"}
    assert found["after"]["rerank_mrr@10"] == pytest.approx(0.5)


def test_a_querys_candidates_may_stand_apart() -> None:
    from cyclealign.distill.config import EffectivenessConfig, StudentConfig
    from cyclealign.distill.effectiveness import effectiveness
    from cyclealign.distill.students import make_student
    from cyclealign.losses import RankNet

    write_collection()
    Path("apart.trec").write_text("\n".join([RUN[1], RUN[2], RUN[0]]) + "\n")  # d2, the relevant one, before q1
    folder = tiny_encoders.save_encoder(Path("student"), head=True)
    student = make_student(StudentConfig(model=str(folder), kind="cross_encoder"), RankNet())
    files = {"queries": Path("queries.tsv"), "documents": Path("docs.tsv"), "qrels": Path("qrels.tsv")}
    found = [
        effectiveness(EffectivenessConfig(**files, candidates=Path(name)), student, Path())
        for name in ("run.trec", "apart.trec")
    ]
    assert found[0] == found[1]
    assert found[0]["rerank_mrr@10"] > 0
