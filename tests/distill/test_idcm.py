"""IDCM: windows, the kernel student and the cascade by value; three stages by the command; resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from learning import assert_below

from cyclealign.cli.main import main

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
from cyclealign.distill.idcm import selection_lists
from cyclealign.distill.idcm_config import IDCMConfig, IDCMStudentConfig
from cyclealign.distill.idcm_model import IDCM, LEAST, ConvolutionKernels
from cyclealign.distill.idcm_objectives import DocumentObjective, document_collator, stage_trainer
from cyclealign.distill.idcm_passages import Cascade, EtmScores, Splitter, esm_scores, etm_scores
from cyclealign.distill.windows import shortened, windows
from cyclealign.losses import RankNet
from cyclealign.models.kernels import MEANS

Captured = pytest.CaptureFixture[str]
TEXT = "the cat runs ? the dog sings ? a bird sleeps"
STUDENT = IDCMStudentConfig(
    model="student", select=2, top=2, window=4, overlap=1, max_query_tokens=4, max_document_tokens=16
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import warnings

    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tiny(*, esm: Any = "ck", top: int = 2) -> IDCM:
    torch.manual_seed(0)
    model = IDCM(tiny_encoders.cross(Path(f"cross-{esm}-{top}")), esm=esm, top=top)
    torch.nn.init.normal_(model.esm.kernel_weights.weight)
    return model.eval()


# Windows -----------------------------------------------------------------------------------------------------------


def test_windows_by_hand() -> None:
    tokenizer = tiny().tokenizer
    found = windows(TEXT, tokenizer, size=4, overlap=1, most=16)
    assert [w.text for w in found] == ["the cat runs ? the", "? the dog sings ? a", "? a bird sleeps"]
    assert all(TEXT[w.start : w.end] == w.text for w in found)
    assert [w.text for w in windows(TEXT, tokenizer, size=4, overlap=0, most=6)] == ["the cat runs ?", "the dog"]
    assert windows("", tokenizer, size=4, overlap=1, most=16) == []
    assert shortened(TEXT, tokenizer, 3) == "the cat runs"
    assert shortened("", tokenizer, 3) == ""


def test_windows_end_at_whole_words() -> None:
    class Letters:
        """A token a letter."""

        def __call__(self, text: str, **options: Any) -> dict[str, Any]:
            spans = [(i, i + 1) for i, c in enumerate(text) if c != " "]
            return {"offset_mapping": spans[: options["max_length"]]}

    found = windows("one three five seven", Letters(), size=5, overlap=1, most=14)
    assert [w.text for w in found] == ["one three", "three five", "five seven"]


# The kernel student ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [False, True])
def test_the_kernel_student_is_its_formula(small: bool) -> None:
    torch.manual_seed(1)
    student = ConvolutionKernels(12, small=small)
    torch.nn.init.uniform_(student.kernel_scale, 0.5, 2.0)
    query, passage = torch.randn(1, 3, 12), torch.randn(1, 5, 12)
    yes = torch.ones(1, 5, dtype=torch.bool)
    found = student(query, yes[:, :3], passage, yes)

    def terms(x: torch.Tensor) -> list[torch.Tensor]:
        x = student.reduce(x)
        x = torch.cat([x, torch.zeros(2, x.shape[1])])
        out = []
        for t in range(len(x) - 2):
            filters = student.convolution.weight, student.convolution.bias
            c = torch.relu(torch.einsum("oik,ki->o", filters[0], x[t : t + 3]) + filters[1])
            out.append(c / c.norm().clamp(min=1e-12))
        return out

    score = 0.0
    for k, mu in enumerate(MEANS):
        for q in terms(query[0]):
            count = sum(math.exp(-((float(q @ p) - mu) ** 2) / 0.02) for p in terms(passage[0]))
            logged = math.log(max(float(student.kernel_scale[k]) * count, LEAST))
            score += float(student.kernel_weights.weight[0, k]) * logged
    assert float(found) == pytest.approx(score, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("esm", ["ck", "cks"])
def test_padding_and_company_change_no_score(esm: Any) -> None:
    model = tiny(esm=esm)
    splitter = Splitter(STUDENT, model.tokenizer)
    passages = ["the cat runs", "a bird", "the dog sings a cat sleeps ?"]
    together = esm_scores(model, "a cat ?", passages, splitter)
    alone = [esm_scores(model, "a cat ?", [p], splitter)[0] for p in passages]
    assert together == pytest.approx(alone, rel=1e-5)
    ids, mask = model.term_features(["a cat ?", "the dog"], 4)
    terms, there = model.term_features(passages[:2], 14)
    padded = model.esm_scores(ids, mask, terms, there).tolist()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.esm_scores(ids, mask, terms, there).tolist() == padded
    assert padded == pytest.approx([alone[0], esm_scores(model, "the dog", passages[1:2], splitter)[0]], rel=1e-5)


def test_no_gradient_of_the_student_reaches_the_expensive_model() -> None:
    model = tiny()
    ids, mask = model.term_features(["a cat ?"], 4)
    model.esm_scores(ids, mask, ids, mask).sum().backward()
    assert all(p.grad is None for p in model.cross_encoder.parameters())
    assert any(p.grad is not None for p in model.esm.parameters())


# The cascade -------------------------------------------------------------------------------------------------------


def test_the_best_passage_scores_add_up_with_their_weights() -> None:
    model = tiny(top=3)
    model.top_weights.data = torch.tensor([1.0, 0.5, 0.25])
    scores = torch.tensor([[1.0, 5.0, 3.0, 2.0], [-1.0, -2.0, 99.0, 99.0], [7.0, 99.0, 99.0, 99.0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    expected = [5 + 1.5 + 0.5, -1 - 1.0, 7.0]
    assert model.document_scores(scores, valid).tolist() == pytest.approx(expected)
    assert model.document_scores(scores[:, :1], valid[:, :1]).tolist() == pytest.approx([1.0, -1.0, 7.0])


def test_the_cascade_asks_for_the_passages_that_its_student_prefers() -> None:
    model = tiny()
    cascade = Cascade(model, Splitter(STUDENT, model.tokenizer))
    passages = cascade.splitter.passages(TEXT)
    esm = esm_scores(model, "a cat ?", [p.text for p in passages], cascade.splitter)
    assert len(set(esm)) == 3
    order = sorted(range(3), key=lambda i: -esm[i])
    assert cascade.chosen("a cat ?", TEXT) == [passages[i] for i in order[:2]]
    etm = etm_scores(model, "a cat ?", [p.text for p in passages], cascade.splitter.pair_tokens)
    assert cascade.score("a cat ?", TEXT) == pytest.approx(sum(etm[i] for i in order[:2]), abs=1e-5)
    assert cascade.score("a cat ?", TEXT, select=3) == pytest.approx(sum(sorted(etm)[1:]), abs=1e-5)
    assert cascade.score("a cat ?", "") == 0.0


def test_document_training_scores_documents_as_the_cascade_with_all_passages_does() -> None:
    model = tiny()
    splitter = Splitter(STUDENT, model.tokenizer)
    rows = [
        {"query": "a cat ?", "documents": [TEXT, "the dog runs", ""], "scores": [1.0, 0.0, 0.0]},
        {"query": "a dog ?", "documents": ["the cat sleeps", TEXT + " " + TEXT], "scores": [0.0, 1.0]},
    ]
    features = document_collator(model, splitter, whole=False)(rows)
    assert features["valid"].tolist() == [[True, True, False], [True, True, False]]
    cascade = Cascade(model, splitter)
    margins = []
    for row in rows:
        a, b = (cascade.score(row["query"], d, select=99) for d in row["documents"][:2])
        margins.append((a - b) * (1 if row["scores"][0] else -1))
    expected = sum(math.log1p(math.exp(-m)) for m in margins) / 2
    loss = DocumentObjective(model, RankNet(), whole=False)(**features)["loss"]
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_a_word_has_a_loss_of_zero_that_backpropagates() -> None:
    model = tiny()
    rows = [{"query": "a cat ?", "documents": ["", " "], "scores": [1.0, 0.0]}]
    features = document_collator(model, Splitter(STUDENT, model.tokenizer), whole=False)(rows)
    objective = DocumentObjective(model, RankNet(), whole=False)
    loss = objective(**features)["loss"]
    assert float(loss) == 0.0
    loss.backward()
    trained = [p for p in objective.parameters() if p.requires_grad and p.grad is not None]
    assert trained
    assert all(not p.grad.any() for p in trained)


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_a_stage_has_the_optimizer_asked_for(optim: str) -> None:
    training = {"optim": optim, "learning_rate": 0.01, "weight_decay": 0.3, "use_cpu": True}
    adam = {"adam_beta1": 0.5, "adam_beta2": 0.6, "adam_epsilon": 1e-3}
    stage = {"data": {"scores": Path("scores.tsv")}}
    config = IDCMConfig(name="run", student=STUDENT, selection=stage, training=training | adam)
    objective = DocumentObjective(tiny(), RankNet(), whole=False)
    optimizer = stage_trainer(config, "stage", objective, {"query": ["a"]}, None).optimizer
    assert type(optimizer).__name__ == {"adamw_torch": "AdamW", "adafactor": "Adafactor"}[optim]
    rest, best = optimizer.param_groups
    assert best["params"] == [objective.model.top_weights]
    assert {id(p) for p in rest["params"]} == {id(p) for p in objective.model.cross_encoder.parameters()}
    assert (rest["lr"], best["lr"]) == (0.01, pytest.approx(1.0))
    assert rest["weight_decay"] == best["weight_decay"] == 0.3
    if optim == "adamw_torch":
        assert (rest["betas"], rest["eps"]) == ((0.5, 0.6), 1e-3)


def test_the_etm_scores_each_pair_once() -> None:
    model = tiny()
    splitter = Splitter(STUDENT, model.tokenizer)
    rows = {"query": ["a cat ?", "a dog ?", "a cat ?"], "documents": [[TEXT, "the dog"], [TEXT], [TEXT]], "scores": []}
    lists = selection_lists(rows, splitter)
    assert [q for q, _ in lists] == ["a cat ?", "a dog ?"]  # each document once, one passage teaches nothing
    store = EtmScores(Path("s.sqlite"), model, splitter)
    assert store.fill(lists) == 6
    assert store.fill(lists) == 0
    query, passages = lists[0]
    assert store.of(query, passages) == etm_scores(model, query, passages, splitter.pair_tokens)
    with pytest.raises(KeyError):
        store.of(query, ["never seen"])
    store.close()
    again = EtmScores(Path("s.sqlite"), model, splitter)
    assert again.fill(lists) == 0
    again.close()
    model.cross_encoder[0].auto_model.classifier.bias.data += 1  # another model scores anew
    other = EtmScores(Path("s.sqlite"), model, splitter)
    assert other.fill(lists) == 6
    other.close()


def test_a_saved_cascade_scores_as_before() -> None:
    for esm in ("ck", "cks"):
        model = tiny(esm=esm)
        model.top_weights.data = torch.tensor([0.7, 0.2])
        model.save(Path(f"saved-{esm}"))
        splitter = Splitter(STUDENT, model.tokenizer)
        loaded = IDCM.load(Path(f"saved-{esm}"))
        scores = [Cascade(m, splitter).score("a cat ?", TEXT) for m in (model, loaded)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    with pytest.raises(Exception, match=r"expected a saved IDCM"):
        IDCM.load(Path("nowhere"))


# The command -------------------------------------------------------------------------------------------------------

ANIMALS = ("cat", "dog", "bird")


def write_data() -> None:
    """Relevant is who sings; of a document's three windows one says it, at a place of its own."""
    passages, documents = [], []
    for n, animal in enumerate(ANIMALS):
        for other in ANIMALS:
            passages.append(f"a {animal} ?\tthe {other} sings\tthe {other} sleeps")
            said = [["the", animal, "sleeps", "?"], ["a", other, "runs", "?"], ["the", "blue", "bird", "?"]]
            silent = " ".join(word for window in said for word in window)
            said[n][2] = "sings"
            documents.append(f"a {animal} ?\t{' '.join(word for window in said for word in window)}\t{silent}")
    Path("passages.tsv").write_text("".join(f"{row}\n" for row in passages))
    Path("documents.tsv").write_text("".join(f"{row}\n" for row in documents))


QUICK = [
    *("student.model=student", "student.window=4", "student.overlap=0", "student.select=1", "student.top=1"),
    *("training.use_cpu=true", "training.learning_rate=0.003", "training.logging_steps=1", "steps=60"),
    *("training.per_device_train_batch_size=9", "training.disable_tqdm=true", "save_every=20"),
    *("documents.steps=5", "selection.training.learning_rate=0.02", "latency=4"),
]


def distill(*overrides: str) -> int:
    return main(["distill", "idcm", "distill/idcm", *QUICK, *overrides])


@pytest.mark.learns
def test_three_stages_and_what_a_second_start_finds(capsys: Captured) -> None:
    tiny_encoders.save_encoder(Path("student"), head=True)
    write_data()
    assert distill() == 0, capsys.readouterr().err
    summary = json.loads(Path("runs/idcm/summary.json").read_text())
    assert_below(summary["passages"]["last_loss"], 0.3 * summary["passages"]["first_loss"])
    assert_below(summary["selection"]["last_loss"], 0.5 * summary["selection"]["first_loss"])
    assert 0 < summary["selection"]["etm_scores_made"] < summary["selection"]["passages"]  # equal texts are scored once
    assert summary["latency"]["documents"] == 4
    assert summary["latency"]["speed_up"] > 0
    # The student has learned which window the expensive model would prefer.
    model = IDCM.load(Path("runs/idcm/model"))
    short = {"select": 1, "top": 1, "overlap": 0, "max_document_tokens": 2000, "max_query_tokens": 30}
    student = STUDENT.model_copy(update=short)
    cascade = Cascade(model, Splitter(student, model.tokenizer))
    right = 0
    for line in Path("documents.tsv").read_text().splitlines():
        query, document, _ = line.split("\t")
        texts = [w.text for w in cascade.splitter.passages(document)]
        scores = etm_scores(model, query, texts, cascade.splitter.pair_tokens)
        right += cascade.chosen(query, document)[0].text == texts[scores.index(max(scores))]
    assert right == 9
    # A run killed in its last stage keeps the stages before and the ETM's scores.
    before = {p: p.stat().st_mtime_ns for p in Path("runs/idcm").glob("*/stage.json") if p.parent.name != "model"}
    assert len(before) == 2
    Path("runs/idcm/summary.json").unlink()
    Path("runs/idcm/model/stage.json").unlink()
    assert distill() == 0
    again = json.loads(Path("runs/idcm/summary.json").read_text())
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert again["selection"]["etm_scores_made"] == 0
    assert again["selection"]["last_loss"] == pytest.approx(summary["selection"]["last_loss"])
    assert distill("seed=7") == 2
    assert "holds a distillation with another config" in capsys.readouterr().err


def test_a_trained_cross_encoder_needs_the_last_stage_alone() -> None:
    tiny_encoders.save_encoder(Path("student"), head=True)
    write_data()
    # Queries with one unscored document each: nobody has judged them.
    asked = [line.split("\t")[:2] for line in Path("documents.tsv").read_text().splitlines()]
    rows = [f"q{n}\td{n}\t{query}\t{document}\n" for n, (query, document) in enumerate(asked)]
    Path("unscored.tsv").write_text("".join(rows))
    short = ("passages=null", "documents=null", "latency=0", "steps=4", "student.dropout=0.25")
    short += ("selection.data={scores: unscored.tsv}",)
    assert distill(*short, "loss={name: listnet}") == 0
    summary = json.loads(Path("runs/idcm/summary.json").read_text())
    assert list(summary) == ["format", "selection"]
    assert summary["selection"]["lists"] == len(set(map(tuple, asked)))
    from sentence_transformers import CrossEncoder

    first, saved = CrossEncoder("student", device="cpu"), CrossEncoder("runs/idcm/model/etm", device="cpu")
    assert saved.predict([("a cat ?", TEXT)]) == pytest.approx(first.predict([("a cat ?", TEXT)]))
    assert saved[0].auto_model.config.hidden_dropout_prob == 0.25


def test_documents_of_one_window_leave_nothing_to_choose(capsys: Captured) -> None:
    tiny_encoders.save_encoder(Path("student"), head=True)
    write_data()
    assert distill("passages=null", "documents=null", "selection.data={scores: passages.tsv}", "student.window=60") == 2
    assert "passages.tsv: no document is longer than one window" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.top=5", "student.top: 5 scores of student.select=1 passages"),
        ("loss={name: quantidce}", "loss.name: quantidce cannot select passages"),
        ("student.esm=tk", "student.esm: expected one of ck, cks"),
    ],
)
def test_refusals(override: str, said: str, capsys: Captured) -> None:
    assert distill(override) == 2
    assert said in capsys.readouterr().err
