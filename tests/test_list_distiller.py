"""``cyclealign distill margin_mse``: scores in, a trained student on disk; resuming; refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders

from cyclealign.cli import main

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
    assert distill("student.model=student", retrieval, "steps=40") == 0
    found = summary()
    assert found["lists"] == 4
    assert found["pairs"] == 8
    assert found["last_loss"] < 0.05 * found["first_loss"]
    assert set(found["before"]) == set(found["after"]) == {"mrr@10", "ndcg@10", "recall@100"}  # type: ignore[call-overload]
    assert found["after"]["recall@100"] == 1.0  # type: ignore[index]
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/margin-mse/model", device="cpu")
    assert model.similarity_fn_name == "dot"
    for line in LINES:
        positive, negative, *told = line.split("\t")
        query, better, worse = model.encode(told)
        assert query @ (better - worse) == pytest.approx(float(positive) - float(negative), abs=1.0)


@pytest.mark.parametrize("kind", ["colbert", "cross_encoder", "cosine"])
def test_other_students_lower_the_loss(kind: str) -> None:
    folder = tiny_encoders.save_encoder(Path("student"), layers=3, head=kind == "cross_encoder")
    loss = "loss={name: cprd, rank_cut: 1, temperature: 0.1}" if kind == "cosine" else "loss.name=margin_mse"
    assert distill(f"student.model={folder}", f"student.kind={kind}", "student.layers=2", loss) == 0
    assert summary()["last_loss"] < summary()["first_loss"]
    config = json.loads(next(Path("runs/margin-mse/model").rglob("config.json")).read_text())
    assert config["num_hidden_layers"] == 2


def test_a_stopped_distillation_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    from cyclealign.distill import list_distiller

    student = f"student.model={tiny_encoders.save_encoder(Path('student'))}"
    whole = [student, "save_every=4", "student.learn_scale=true"]
    assert distill(*whole, "name=whole") == 0

    made: Any = list_distiller._trainer

    def killed(*arguments: Any) -> Any:
        from transformers import TrainerCallback

        class Kill(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, _: object, state: Any, *__: object, **___: object) -> None:
                if state.global_step == 9:
                    raise KeyboardInterrupt

        trainer = made(*arguments)
        trainer.add_callback(Kill())
        return trainer

    with monkeypatch.context() as once:
        once.setattr(list_distiller, "_trainer", killed)
        assert distill(*whole, "name=part") == 130
    assert Path("runs/part/checkpoints/checkpoint-8").is_dir()
    assert distill(*whole, "name=part") == 0
    assert summary("part")["steps"] == summary("whole")["steps"] == 12
    weights = [(Path(f"runs/{name}/model") / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert distill(*whole, "name=part") == 0  # done: nothing is trained again
    assert distill(*whole, "name=part", "seed=7") == 2
    assert "holds a distillation with another config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("student.modle=x",), "unknown key student.modle; did you mean student.model?"),
        (("student.kind=tk",), "student.kind: expected one of dot, cosine, colbert, cross_encoder"),
        (("loss.name=dpo",), "loss.name: dpo (with its SFT term) is for policies"),
        (("student.model=./nowhere",), "student.model: cannot load './nowhere'"),
        (("data.scores=none.tsv",), "none.tsv: no such file"),
        (("training.learning_rte=1",), "training.learning_rte; did you mean training.learning_rate?"),
        (("data.format=margin_mse",), "no text for 'the cat sleeps'; give data.queries and data.documents"),
        (("data.format=rankllm",), "loss.name: margin_mse needs magnitudes, but scores.tsv gives an order alone"),
    ],
)
def test_mistakes_are_one_line(capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    assert distill(*overrides) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists() or not list(Path("runs").glob("*/model"))


def test_layers_that_are_not_there(capsys: Captured) -> None:
    folder = tiny_encoders.save_encoder(Path("student"))
    assert distill(f"student.model={folder}", "student.layers=2") == 2
    assert "student.layers: the encoder has 1 layers, got 2" in capsys.readouterr().err
