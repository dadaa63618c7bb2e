"""QuantiDCE's model and its second-stage objective against the formula, by plain transformers calls."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch

from cyclealign.distill.config import EncoderShape
from cyclealign.files.dialogues import context_of, read_levels, read_ratings
from cyclealign.losses import QuantiDCEKD
from cyclealign.types import UserError

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
PAIRS = (["a cat ?", "the dog runs a dog runs"], ["the cat sleeps", "a bird sings the bird sings"])
HUMAN = torch.tensor([4.0, 1.5])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def model(tmp_path: Path) -> Any:
    from cyclealign.distill.coherence_model import make_model

    return made(make_model, tmp_path)


def made(make_model: Any, folder: Path, **changes: Any) -> Any:
    if not (folder / "bert").exists():
        tiny_encoders.save_encoder(folder / "bert", layers=2)
    shape = EncoderShape(layers=changes.pop("layers", None))
    return make_model(str(folder / "bert"), shape, **{"max_tokens": 32, "seed": 0, **changes})


def states(model: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Scores, the encoder's output and which positions are tokens; without our own code."""
    features = model.preprocess(list(zip(*PAIRS, strict=True)))
    names = ("input_ids", "attention_mask", "token_type_ids")
    encoder = type(model[0].model)
    output = encoder.forward(
        model[0].model, **{n: features[n] for n in names}, output_hidden_states=True, output_attentions=True
    )
    tokens = features["attention_mask"].bool()
    mean = (output.last_hidden_state * tokens[..., None]).sum(dim=1) / tokens.sum(dim=1, keepdim=True)
    for layer in (model[2], model[3]):
        mean = torch.nn.functional.elu(layer.linear(mean))
    return model[4].linear(mean)[:, 0].sigmoid(), output, tokens


def test_the_network_on_top_halves_the_width_twice(model: Any) -> None:
    width = tiny_encoders.WIDTH
    assert [(d.in_features, d.out_features) for d in (model[2], model[3], model[4])] == [
        (width, width // 2),
        (width // 2, width // 4),
        (width // 4, 1),
    ]
    found = model.predict(list(zip(*PAIRS, strict=True)))
    assert found.tolist() == pytest.approx(states(model)[0].tolist(), abs=1e-6)


def test_the_objective_is_the_formula(model: Any) -> None:
    from cyclealign.distill.coherence_model import RatingObjective

    frozen = copy.deepcopy(model)
    objective = RatingObjective(model, QuantiDCEKD(), frozen)
    score = states(model)[0]
    same = objective(PAIRS, HUMAN)
    # A copy of itself leaves the ratings alone.
    assert same.item() == pytest.approx((4 * score + 1 - HUMAN).square().mean().item(), abs=1e-6)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    (score, mine, tokens), (fixed, theirs, _) = states(model), states(frozen)
    both = (tokens[:, None, :, None] & tokens[:, None, None, :]).expand_as(mine.attentions[0])
    hidden = sum(((a - b)[tokens] ** 2).mean() for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True))
    maps = sum(((a - b)[both] ** 2).mean() for a, b in zip(mine.attentions, theirs.attentions, strict=True))
    assert len(mine.hidden_states) == 3
    rating = (4 * score + 1 - HUMAN).square().mean()
    expected = rating + 5 * (hidden + maps + (score - fixed).square().mean())
    loss = objective(PAIRS, HUMAN)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert {n for n, p in model.named_parameters() if p.grad is None} <= {
        "0.model.pooler.dense.weight",
        "0.model.pooler.dense.bias",
    }
    assert not any("frozen" in name for name, _ in objective.named_parameters())


def test_without_kd_it_is_the_squared_error(model: Any) -> None:
    from cyclealign.distill.coherence_model import RatingObjective

    other = copy.deepcopy(model)
    with torch.no_grad():
        other[4].linear.bias.add_(1.0)
    objective = RatingObjective(model, QuantiDCEKD(kd_weight=0.0), other)
    score = states(model)[0]
    assert objective(PAIRS, HUMAN).item() == pytest.approx((4 * score + 1 - HUMAN).square().mean().item(), abs=1e-6)


def test_a_long_context_loses_its_oldest_words(tmp_path: Path) -> None:
    from cyclealign.distill.coherence_model import make_model

    short = made(make_model, tmp_path, max_tokens=9)
    (ids,) = short.preprocess([("red red red red red a dog ?", "the dog runs")])["input_ids"].tolist()
    assert short.tokenizer.decode(ids) == "[CLS] a dog? [SEP] the dog runs [SEP]"


def test_a_seed_gives_the_first_weights_and_layers_are_cut(tmp_path: Path) -> None:
    from cyclealign.distill.coherence_model import make_model

    first, again, other = (made(make_model, tmp_path, seed=s, layers=1)[2].linear.weight for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(UserError, match="the encoder has 2 layers, got 3"):
        made(make_model, tmp_path, layers=3)


def test_both_forms_of_levels_are_read(tmp_path: Path) -> None:
    names = ("positive_responses", "adversarial_negative_responses", "random_negative_responses")
    ours = {"context": ["hi", "who?"], "levels": [["me"], ["you", "he"], []]}
    theirs = {"id": 0, "context": ["hi", "who?"], **dict(zip(names, ours["levels"], strict=True))}
    path = tmp_path / "levels.jsonl"
    path.write_text(f"{json.dumps(ours)}\n{json.dumps(theirs)}\n")
    first, second = read_levels(path)
    assert first == second
    assert first.levels == (("me",), ("you", "he"), ())
    assert [(m["role"], m["content"]) for m in first.context] == [("assistant", "hi"), ("user", "who?")]
    for wrong in ({"levels": [["a"]]}, {"levels": [["a"], []]}, {"levels": "ab"}, {"positive_responses": ["a"]}):
        path.write_text(json.dumps({"context": ["hi"], **wrong}))
        with pytest.raises(UserError, match=r"levels.jsonl:1: expected levels: two lists of responses or more"):
            list(read_levels(path))


def test_ratings_are_means(tmp_path: Path) -> None:
    path = tmp_path / "ratings.jsonl"
    rows = [
        {"context": ["hi"], "response": "yes", "human": 2},
        {"query": "hi", "response": "yes", "human_scores": [1, 2]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_ratings(path)
    assert (first.rating, second.rating) == (2.0, 1.5)
    assert first.context == second.context == ({"role": "user", "content": "hi"},)


def test_what_stands_beside_a_query_is_part_of_the_context() -> None:
    system = {"role": "system", "content": "S"}
    assert context_of({"query": "q", "context": "Cats sleep.", "system": "S", "response": "r"}, "p") == (
        system,
        {"role": "user", "content": "q\n\nCats sleep."},
    )
    assert context_of({"context": ["a", "b"], "system": "S", "levels": []}, "p") == (
        system,
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
    )


@pytest.mark.data
def test_dailydialogpp_is_read_in_place(shared_data: Path) -> None:
    found = list(read_levels(shared_data / "dailydialogpp_nc" / "dev.jsonl.gz"))
    assert len(found) == 1028
    assert {tuple(map(len, d.levels)) for d in found} == {(5, 5, 5)}
    assert len(list(read_ratings(shared_data / "engagement_ratings_nc" / "ratings.jsonl.gz"))) == 450
