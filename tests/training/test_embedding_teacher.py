"""``leaf`` beside a ranking loss of the policy: pooled states by value, reduction, resumption, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from learning import assert_below
from safetensors.torch import load_file
from tiny_policy import examples, save_tiny, tiny_config, tiny_llama

from cyclealign.config.loading import load_config
from cyclealign.config.schema import LeafAuxiliary
from cyclealign.models.encoded_lists import EncodedList, collate
from cyclealign.models.logprobs import Plan, attach, attach_projection, logprobs_and_vectors, token_logprobs
from cyclealign.training.batches import RankingCollator, TrainingList
from cyclealign.training.embedding_teacher import FILE, EmbeddingTeacher
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.training.trainer import match_terms
from cyclealign.types import CanarySample, Prompt, UserError

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
ALONE = {"learning_rate": 1e-2, "per_device_train_batch_size": 4}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The libraries' own warnings are no concern here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy and an embedding teacher."""
    found = tmp_path_factory.mktemp("leaf")
    save_tiny(found / "policy")
    tiny_encoders.dense(found / "bert").save(str(found / "teacher"))
    return found


def policy(folder: Path, **sections: Any) -> WhiteBox:
    leaf = {"teacher": str(folder / "teacher"), "weight": 0.5}
    config = tiny_config(folder / "policy", **{"training": ALONE, "leaf": leaf, **sections})
    return WhiteBox(config, base=config.policy.model, total_steps=9, seed=7)


@pytest.mark.parametrize("layout", ["padded", "cached_prefix"])
def test_vectors_are_projected_means_of_the_states_that_predict_the_response(layout: Any) -> None:
    model = tiny_llama()
    attach(model)
    weight = attach_projection(model, 5)
    lists = [EncodedList([5, 6, 7], ([8], [9, 10, 11])), EncodedList([5], ([12, 13],))]
    logprobs, vectors = logprobs_and_vectors(model, batch := collate(lists, 0), Plan(layout))
    torch.testing.assert_close(logprobs, token_logprobs(model, batch, Plan(layout)))
    rows = [(item.prompt, response) for item in lists for response in item.responses]
    for vector, (prompt, response) in zip(vectors, rows, strict=True):
        states = model.model(torch.tensor([[*prompt, *response]])).last_hidden_state[0]
        mean = states[len(prompt) - 1 : len(prompt) + len(response) - 1].mean(dim=0)
        torch.testing.assert_close(vector, weight @ mean, rtol=1e-4, atol=1e-5)
    vectors.sum().backward()
    assert model.embedding_projection.weight.grad.abs().sum() > 0
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_match_terms_by_hand() -> None:
    """Directions are compared; the mean is over a list's own candidates; a filler counts nowhere."""
    unit = torch.eye(2)
    lists = [
        TrainingList(EncodedList([5], ([6], [7])), (1.0, 0.0), vectors=unit),
        TrainingList(EncodedList([5], ([6],)), (1.0,), vectors=unit[:1]),
    ]
    batch = RankingCollator(pad=0, width=2)([*lists, None])
    assert batch["vectors"].tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]
    vectors = torch.tensor([[3.0, 0.0], [-2.0, 0.0], [0.0, -7.0], [9.0, 9.0]])
    squared = match_terms(vectors, batch, LeafAuxiliary(teacher="t"))
    torch.testing.assert_close(squared, torch.tensor([(0 + 2) / 2, 2.0, 0.0]))
    distance = match_terms(vectors, batch, LeafAuxiliary(teacher="t", power=1))
    torch.testing.assert_close(distance, torch.tensor([2**0.5 / 2, 2**0.5, 0.0]))


def test_the_teacher_gives_unit_vectors_of_each_list(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    teacher = EmbeddingTeacher(str(folder / "teacher"), torch.device("cpu"))
    found = teacher.vectors([["the cat sleeps", "red"], ["red"]])
    assert [len(v) for v in found] == [2, 1]
    raw = SentenceTransformer(str(folder / "teacher"), device="cpu").encode(["the cat sleeps"])[0]
    torch.testing.assert_close(found[0][0], torch.nn.functional.normalize(torch.tensor(raw), dim=0))
    torch.testing.assert_close(found[0][1], found[1][0])


@pytest.mark.learns
def test_the_term_is_learnt_beside_the_ranking_and_does_not_depend_on_the_cut_of_the_batch(
    folder: Path, tmp_path: Path
) -> None:
    found = []
    for name, size, accumulation in (("a", 4, 1), ("b", 1, 4)):
        training = {**ALONE, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        training["num_train_epochs"] = 8
        white_box = policy(folder, training=training)
        report = white_box.fit(examples(7), start=None, out=tmp_path / name)
        found.append(torch.tensor([[row[n] for n in ("loss", "leaf", "rank_loss")] for row in report.logs]))
    # Rounding grows from step to step: what is alike is seen in the first ones.
    torch.testing.assert_close(found[0][:6], found[1][:6], rtol=1e-3, atol=1e-4)
    first, last = found[0][:2, 1].mean(), found[0][-2:, 1].mean()
    assert_below(float(last), 0.5 * float(first))
    adapter = load_file(next((tmp_path / "a" / "adapter").glob("*.safetensors")))
    assert all("lora_" in name for name in adapter)


def test_a_resumed_run_has_the_same_projection(folder: Path, tmp_path: Path) -> None:
    straight = policy(folder)
    straight.fit(examples(), start=None, out=tmp_path / "0")
    straight.fit(examples(), start=tmp_path / "0", out=tmp_path / "1")
    policy(folder).fit(examples(), start=tmp_path / "0", out=tmp_path / "again")
    files = [load_file(tmp_path / name / "checkpoint" / FILE)["weight"] for name in ("0", "1", "again")]
    torch.testing.assert_close(files[1], files[2], rtol=0, atol=0)
    assert not torch.equal(files[0], files[1])
    adapters = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("1", "again")]
    assert adapters[0] == adapters[1]


def test_an_interaction_without_examples_keeps_the_first_projection(folder: Path, tmp_path: Path) -> None:
    runs = []
    for name in ("x", "y"):
        white_box = policy(folder)
        if name == "y":  # what an interrupted process had in memory must not matter
            white_box.fit(examples(), start=None, out=tmp_path / "elsewhere")
        white_box.fit([], start=None, out=tmp_path / name / "0")
        white_box.restore(tmp_path / name / "0")
        white_box.fit(examples(), start=tmp_path / name / "0", out=tmp_path / name / "1")
        runs.append(load_file(tmp_path / name / "1" / "checkpoint" / FILE)["weight"])
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_refusals(folder: Path) -> None:
    with pytest.raises(ValueError, match="its projection is trained beside an adapter"):
        policy(folder, policy={"lora": None})
    with pytest.raises(UserError, match=r"loss\.name: leaf matches vectors, which orders nothing"):
        load_config("quickstart", ["loss.name=leaf"])
    with pytest.raises(UserError, match=r"leaf\.teacher: cannot load '\./nowhere'"):
        policy(folder, leaf={"teacher": "./nowhere"})


def test_broken_weights_are_one_line(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder / "teacher", tmp_path / "broken")
    (broken / "model.safetensors").write_text("garbage")
    with pytest.raises(UserError, match=r"leaf\.teacher: cannot load '.*broken'") as caught:
        EmbeddingTeacher(str(broken), torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_policy_that_shows_no_states_is_refused_before_anything_is_paid_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclealign.training.policy_trainer.choose_plan", lambda *_, **__: Plan("padded", fused=False))
    prompt = Prompt(({"role": "user", "content": "hello"},))
    with pytest.raises(UserError, match="leaf: this architecture shows its logits alone"):
        policy(folder).canary_gap(CanarySample(prompt, (5, 6), (-1.0, -1.0)))
