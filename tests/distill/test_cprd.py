"""``cyclealign distill cprd``: the objective by hand, text-text and image-text students, refusals."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from learning import assert_below
from loss_lists import log_sum_exp
from torch import Tensor, nn

from cyclealign.cli.main import main
from cyclealign.distill.config import ScoresConfig, StudentConfig
from cyclealign.distill.cprd import dual_encoder
from cyclealign.distill.cprd_config import CPRDConfig
from cyclealign.distill.cprd_objective import CPRDObjective
from cyclealign.losses import CPRD, ListMLE, RankingLoss

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
Captured = pytest.CaptureFixture[str]
NAN = math.nan
QUICK = ["steps=40", "training.learning_rate=0.01", "training.use_cpu=true", "training.logging_steps=1"]
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_lists(rows: list[tuple[str, list[str], list[float]]]) -> None:
    lines = [json.dumps({"query": q, "documents": d, "scores": s}) for q, d, s in rows]
    Path("scored.jsonl").write_text("\n".join(lines) + "\n")


def distill(*overrides: str) -> int:
    return main(["distill", "cprd", "distill/cprd", "data.scores=scored.jsonl", *QUICK, *overrides])


def summary(name: str = "cprd") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/{name}/summary.json").read_text())
    return found


# Two queries; the first has a positive and three mined documents, the second a positive and two.
QUERY = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
DOCUMENTS = torch.tensor([[0.9, 0.1], [0.5, 0.2], [0.3, -0.4], [-0.7, 0.1], [0.4, 0.9], [0.2, 0.3], [-0.5, 0.6]])
LABELS = torch.tensor([[9.0, 1.0, 3.0, -2.0], [5.0, 0.5, 1.5, NAN]])


def parts(loss: RankingLoss, labels: Tensor = LABELS, *, scale: float = 2.0, **options: Any) -> dict[str, Tensor]:
    objective = CPRDObjective(nn.Identity(), loss, scale=scale, **options)
    found: dict[str, Tensor] = objective.compute_loss_from_embeddings([QUERY, DOCUMENTS], labels)
    return found


class Vectors(nn.Module):
    """A model whose vectors stand beside what it reads."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}


def told(documents: Tensor, labels: Tensor, **read: Tensor) -> dict[str, Tensor]:
    """Both terms, of documents that are told apart by what is read of them."""
    columns = [{"vectors": QUERY, "input_ids": torch.zeros(2, 1)}, {"vectors": documents, **read}]
    found: dict[str, Tensor] = CPRDObjective(Vectors(), CPRD(rank_cut=1))(columns, labels)
    return found


def test_both_terms_by_hand() -> None:
    z = (2 * QUERY @ DOCUMENTS.T).double().tolist()
    to_document = [log_sum_exp(z[0]) - z[0][0], log_sum_exp(z[1]) - z[1][4]]
    to_query = [log_sum_exp([z[0][0], z[1][0]]) - z[0][0], log_sum_exp([z[0][4], z[1][4]]) - z[1][4]]
    # One valid candidate each: the teacher's best of the mined; the positive is in no denominator of its own list.
    best = [
        log_sum_exp([z[0][n] for n in (2, 1, 3, 4, 5, 6)]) - z[0][2],
        log_sum_exp([z[1][n] for n in (6, 5, 0, 1, 2, 3)]) - z[1][6],
    ]
    found = parts(CPRD(rank_cut=1), weight=0.5)
    assert found["infonce"].item() == pytest.approx((sum(to_document) + sum(to_query)) / 4, abs=1e-5)
    assert found["distillation"].item() == pytest.approx(0.5 * sum(best) / 2, abs=1e-5)


def test_the_teacher_inside_the_invalid_tail_changes_nothing() -> None:
    before = parts(CPRD(rank_cut=1))
    other = torch.tensor([[0.0, -2.0, 3.0, 1.0], [5.0, 0.5, 1.5, NAN]])
    assert parts(CPRD(rank_cut=1), other) == before
    assert parts(ListMLE(), other)["distillation"] != parts(ListMLE())["distillation"]


def test_a_text_is_no_negative_of_itself() -> None:
    """The second list holds the first one's positive and one of its mined texts: as if they were not there."""

    with_copies = torch.cat([DOCUMENTS, DOCUMENTS[[0, 2]]])
    labels = torch.tensor([[9.0, 1.0, 3.0, -2.0, NAN], [5.0, 0.5, 1.5, 0.1, 0.2]])
    z = (QUERY @ DOCUMENTS.T).double().tolist()
    best = [
        log_sum_exp([z[0][n] for n in (2, 1, 3, 4, 5, 6)]) - z[0][2],
        log_sum_exp([z[1][n] for n in (6, 5, 0, 2, 1, 3)]) - z[1][6],
    ]
    found = told(with_copies, labels, input_ids=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 2])[:, None])
    assert found["distillation"].item() == pytest.approx(sum(best) / 2, abs=1e-5)
    # Of the positive's copies none counts; those of a negative do.
    to_document = [log_sum_exp([*z[0], z[0][2]]) - z[0][0], log_sum_exp([*z[1], z[1][0], z[1][2]]) - z[1][4]]
    to_query = [log_sum_exp([z[0][0], z[1][0]]) - z[0][0], log_sum_exp([z[0][4], z[1][4]]) - z[1][4]]
    assert found["infonce"].item() == pytest.approx((sum(to_document) + sum(to_query)) / 4, abs=1e-5)


def test_a_picture_is_no_negative_of_itself() -> None:
    """Lists the other way round: the sides are exchanged, pictures stand where texts did."""

    def pictures(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers).float()[:, None, None, None].expand(-1, 4, 2, 2)

    alone = told(DOCUMENTS, LABELS, pixel_values=pictures([0, 1, 2, 3, 4, 5, 6]))
    assert alone == parts(CPRD(rank_cut=1), scale=1.0)
    # The first list's mined picture again in the second: there it counts, in the first one's sums only once.
    labels = torch.tensor([[9.0, 1.0, 3.0, -2.0], [5.0, 0.5, 1.5, 0.1]])
    column = torch.cat([DOCUMENTS, DOCUMENTS[[2]]])
    again = told(column, labels, pixel_values=pictures([0, 1, 2, 3, 4, 5, 6, 2]))
    z = (QUERY @ DOCUMENTS.T).double().tolist()
    best = [
        log_sum_exp([z[0][n] for n in (2, 1, 3, 4, 5, 6)]) - z[0][2],
        log_sum_exp([z[1][n] for n in (6, 5, 0, 1, 3, 2)]) - z[1][6],
    ]
    assert again["distillation"].item() == pytest.approx(sum(best) / 2, abs=1e-5)


def test_without_a_weight_there_is_infonce_alone() -> None:
    assert set(parts(CPRD(), weight=0.0)) == {"infonce"}


def test_the_cosine_is_of_unit_vectors_and_the_scale_learns() -> None:
    unit = CPRDObjective(nn.Identity(), CPRD(), similarity="cosine", scale=3.0, learn_scale=True)
    a = unit.compute_loss_from_embeddings([QUERY, DOCUMENTS], LABELS)
    b = unit.compute_loss_from_embeddings([5 * QUERY, 0.1 * DOCUMENTS], LABELS)
    torch.testing.assert_close(a["infonce"], b["infonce"])
    (gradient,) = torch.autograd.grad(sum(a.values()), unit.log_scale)
    assert gradient != 0


@pytest.mark.learns
def test_a_text_student_learns_who_is_best_and_who_is_second(capsys: Captured) -> None:
    tiny_encoders.dense(Path("bert")).save("student")
    write_lists(
        [
            ("a cat ?", ["the cat sleeps", "a bird sings", "the dog runs"], [9.0, 3.0, -3.0]),
            ("a dog ?", ["the dog runs", "the cat sleeps", "a bird sings"], [9.0, 3.0, -3.0]),
            ("a bird ?", ["a bird sings", "the dog runs", "the cat sleeps"], [9.0, 3.0, -3.0]),
        ]
    )
    assert distill("student.model=student", "loss.rank_cut=1", "loss.threshold=null") == 0
    found = summary()
    assert (found["lists"], found["steps"]) == (3, 40)
    assert_below(found["last_loss"], found["first_loss"])
    assert found["scale"] != pytest.approx(14.3, abs=1e-3)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/cprd/model", device="cpu")
    told = model.encode(["a cat ?", "the cat sleeps", "a bird sings", "the dog runs"])
    first, second, third = (told[0] @ v for v in told[1:])
    assert first > second > third
    assert distill("student.model=student", "loss.rank_cut=1", "loss.threshold=null") == 0  # done already
    assert distill("student.model=student", "weight=0") == 2
    assert "holds a distillation with another config" in capsys.readouterr().err


def test_the_encoders_own_prompts_stand_before_the_texts_as_they_will_in_a_search() -> None:
    model = tiny_encoders.dense(Path("bert"))
    model.prompts = {"query": "red ", "document": "blue blue "}
    model.save("student")
    student = StudentConfig(model="student", kind="cosine")
    found = dual_encoder(CPRDConfig(name="x", student=student, data=ScoresConfig(scores=Path("x")))).collator
    assert found is not None
    batch = found([{"query": "a cat ?", "documents": ["the dog runs"], "scores": [1.0]}])
    words = [model.tokenizer.convert_ids_to_tokens(batch[f"{name}_input_ids"][0]) for name in ("query", "documents")]
    assert words[0][1:-1] == ["red", "a", "cat", "?"]
    assert words[1][1:-1] == ["blue", "blue", "the", "dog", "runs"]


def test_lists_of_one_negative_train_infonce_alone_and_only_if_asked_to(capsys: Captured) -> None:
    tiny_encoders.dense(Path("bert")).save("student")
    write_lists([("a cat ?", ["the cat sleeps", "the dog runs"], [3.0, 1.0]), ("a dog ?", ["the dog runs"], [3.0])])
    assert distill("student.model=student") == 2
    assert "scored.jsonl: no list has two negatives beside its positive" in capsys.readouterr().err
    assert distill("student.model=student", "weight=0", "steps=2") == 0
    assert (summary()["lists"], summary()["ranked_lists"]) == (2, 0)
    assert distill("student.model=student", "name=labels", "data.teacher=labels", "loss.name=listmle") == 2
    assert "data.teacher: labels do not rank negatives" in capsys.readouterr().err


def test_a_batch_of_lone_positives_is_a_batch_too() -> None:
    tiny_encoders.dense(Path("bert")).save("student")
    lone = [(f"a {n} ?", [f"the {n} sleeps"], [3.0]) for n in ("cat", "dog", "bird")]
    write_lists([*lone, ("a cat ?", ["the cat sleeps", "the dog runs", "a bird sings"], [3.0, 1.0, 2.0])])
    assert distill("student.model=student", "steps=8", "training.per_device_train_batch_size=1") == 0
    assert (summary()["lists"], summary()["ranked_lists"]) == (4, 1)


def draw_colours() -> None:
    """A picture of each colour, and lists of their names."""
    image = pytest.importorskip("PIL.Image")
    tiny_encoders.dense(Path("bert")).save("student")
    for name, colour in COLOURS.items():
        image.new("RGBA", (10, 12), (*colour, 255)).save(f"{name}.png")
    write_lists([(f"{n}.png", [n, *(o for o in COLOURS if o != n)], [9.0, 1.0, 0.0]) for n in COLOURS])


@pytest.mark.learns
def test_an_image_student_finds_the_texts_of_colours(caplog: pytest.LogCaptureFixture) -> None:
    draw_colours()
    names = list(COLOURS)
    assert distill("student.model=student", "images={size: 8, width: 4}") == 0
    assert "Error" not in caplog.text  # sentence-transformers would take lists for examples of texts
    assert_below(summary()["last_loss"], summary()["first_loss"])
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/cprd/model", device="cpu", trust_remote_code=True)
    pictures = model.encode([f"{n}.png" for n in names])
    found = model.similarity(pictures, model.encode_document(names)).argmax(dim=1)
    assert found.tolist() == [0, 1, 2]
    from PIL import Image

    with Image.open("red.png") as opened:
        torch.testing.assert_close(torch.from_numpy(model.encode_query([opened])[0]), torch.from_numpy(pictures[0]))


@pytest.mark.learns
def test_lists_the_other_way_round_teach_the_order_of_pictures() -> None:
    """Of two wrong names the teacher likes the one that comes first, of two wrong pictures the one that comes last."""
    draw_colours()
    names = list(COLOURS)
    write_lists([(f"{n}.png", [n, *(c for c in names if c != n)], [9.0, 1.0, 0.0]) for n in names])
    Path("scored.jsonl").rename("pictures.jsonl")
    write_lists([(n, [f"{c}.png" for c in (n, *(c for c in names[::-1] if c != n))], [9.0, 1.0, 0.0]) for n in names])
    both = ["data.scores=pictures.jsonl", "reverse.scores=scored.jsonl"]
    assert distill("student.model=student", "images={size: 8, width: 4}", "steps=120", *both) == 0
    assert (summary()["lists"], summary()["reverse_lists"]) == (3, 3)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/cprd/model", device="cpu", trust_remote_code=True)
    found = model.similarity(model.encode([f"{n}.png" for n in names]), model.encode_document(names))
    for n in range(3):
        first, last = (k for k in range(3) if k != n)
        assert found[n, n] > found[n, first] > found[n, last]
        assert found[n, n] > found[last, n] > found[first, n]


def test_a_stopped_image_student_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformerTrainer

    draw_colours()
    images = ["student.model=student", "images={size: 8, width: 4}", "save_every=4", "steps=10"]
    assert distill(*images, "name=whole") == 0
    made = SentenceTransformerTrainer.training_step
    steps = iter(range(10**6))

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(steps) == 6:
            raise KeyboardInterrupt
        return made(self, *arguments, **options)

    with monkeypatch.context() as once:
        once.setattr(SentenceTransformerTrainer, "training_step", killed)
        assert distill(*images, "name=part") == 130
    assert Path("runs/part/checkpoints/checkpoint-4").is_dir()
    assert distill(*images, "name=part") == 0
    files = [sorted(Path(f"runs/{name}/model").rglob("*.safetensors")) for name in ("whole", "part")]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    assert summary("whole")["scale"] == summary("part")["scale"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("student.kind=colbert",), "student.kind: expected dot or cosine for a dual encoder, got colbert"),
        (("loss.name=dpo",), "loss.student_score: log_ratio compares a policy with its reference"),
        (("leaf.teacher=x",), "leaf: stands beside the losses of distill margin_mse, not beside InfoNCE"),
        (("loss.name=quantidce",), "loss.name: quantidce takes levels, not scores; take cprd, listmle or kl"),
        (("data.format=rankllm",), "loss.name: cprd needs magnitudes, but scored.jsonl gives an order alone"),
        (("reverse.scores=missing.jsonl",), "missing.jsonl"),
        (("reverse.scores=scored.jsonl", "reverse.teacher=labels"), "reverse.teacher: labels do not rank negatives"),
        (("wieght=1",), "unknown key wieght; did you mean weight?"),
        (("images={size: 8}",), "none.png: expected an image file"),
    ],
)
def test_mistakes_are_one_line(capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    pytest.importorskip("PIL")
    tiny_encoders.dense(Path("bert")).save("student")
    write_lists([("none.png", ["a cat", "a dog", "a bird"], [1.0, 0.0, 2.0])])
    assert distill("student.model=student", *overrides) == 2
    assert message in capsys.readouterr().err
