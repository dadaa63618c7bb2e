"""PreTTR and TK by value: against the whole encoder, loops and hand-made cosines; saved and loaded."""

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

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
QUERY, DOCUMENT = 6, 10  # tokens
PAIRS = [("a cat ?", "the cat sleeps"), ("a dog ?", "the dog runs a red bird")]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def made(kind: str, folder: Path, *, layers: int = 3, **options: Any) -> Any:
    from transformers import AutoModel, AutoTokenizer

    from cyclealign.models.prettr import PreTTR
    from cyclealign.models.tk import TK

    path = tiny_encoders.save_encoder(folder / "bert", layers=layers)
    torch.manual_seed(1)
    lengths = {"max_query_tokens": QUERY, "max_document_tokens": DOCUMENT}
    build = PreTTR if kind == "prettr" else TK
    return build(AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path), **lengths, **options).eval()


def scores(module: Any, pairs: list[tuple[str, str]]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.forward(module.preprocess(pairs))["scores"]
    return found.squeeze(-1)


def test_prettr_is_the_encoder_with_the_cross_attention_blocked_below_the_split(tmp_path: Path) -> None:
    """An independent computation: one sequence, a block mask in the first layers, no mask in the others."""
    module = made("prettr", tmp_path, split=2)
    query, document = "a cat ? a", "the cat sleeps"  # the query fills its 6 tokens: no gap in the positions
    tokenizer, bert = module.tokenizer, module.encoder
    parts = tokenizer(query)["input_ids"], tokenizer(document)["input_ids"][1:]
    assert len(parts[0]) == QUERY
    ids = torch.tensor([parts[0] + parts[1]])
    side = torch.tensor([[0] * len(parts[0]) + [1] * len(parts[1])])
    hidden = bert.embeddings(input_ids=ids, token_type_ids=side)
    blocked = torch.zeros(ids.shape[1], ids.shape[1]).masked_fill(side != side.T, torch.finfo(torch.float32).min)
    for n, layer in enumerate(bert.encoder.layer):
        hidden = layer(hidden, blocked[None, None] if n < 2 else torch.zeros_like(blocked)[None, None])
    expected = module.head(hidden[:, 0])
    assert scores(module, [(query, document)]).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("kind", "options"), [("prettr", {"split": 1}), ("tk", {})])
def test_padding_and_neighbours_change_no_score(kind: str, options: dict[str, int], tmp_path: Path) -> None:
    module = made(kind, tmp_path, **options)
    alone = torch.cat([scores(module, [pair]) for pair in PAIRS])
    torch.testing.assert_close(scores(module, PAIRS), alone, atol=1e-6, rtol=1e-5)
    assert alone[0] != alone[1]


@pytest.mark.parametrize(("kind", "options"), [("prettr", {"split": 1}), ("tk", {})])
def test_documents_can_be_made_beforehand(kind: str, options: dict[str, int], tmp_path: Path) -> None:
    module = made(kind, tmp_path, **options)
    with torch.no_grad():
        held = module.represent(**module.tokenised([d for _, d in PAIRS], "document"), side="document")
        query = module.represent(**module.tokenised(["a cat ?"], "query"), side="query")
        found = module.join(tuple(part.expand(2, *part.shape[1:]) for part in query), held)
    torch.testing.assert_close(found, scores(module, [("a cat ?", d) for _, d in PAIRS]), atol=1e-6, rtol=1e-5)


def test_the_joined_layers_see_the_document(tmp_path: Path) -> None:
    module = made("prettr", tmp_path, split=2)
    first, other = scores(module, [("a cat ?", "the cat sleeps"), ("a cat ?", "blue blue blue")])
    assert abs(first - other) > 1e-5


def test_kernels_by_a_loop(tmp_path: Path) -> None:
    module = made("tk", tmp_path)
    cosines = torch.tensor([[[1.0, 0.2, -0.4], [0.5, 0.9, 0.9]]])
    queries, documents = torch.tensor([[True, True]]), torch.tensor([[True, True, False]])
    weights = module.kernel_weights.weight[0].tolist()
    means = [1.0, *(0.9 - 0.2 * n for n in range(10))]
    expected = 0.0
    for weight, mu in zip(weights, means, strict=True):
        for row in cosines[0].tolist():
            count = sum(math.exp(-((c - mu) ** 2) / 0.02) for c in row[:2])
            expected += weight * math.log(max(count, 1e-10))
    assert module.kernel_score(cosines, queries, documents).item() == pytest.approx(expected, abs=1e-4)
    without_second = module.kernel_score(cosines, torch.tensor([[True, False]]), documents)
    torch.testing.assert_close(without_second, module.kernel_score(cosines[:, :1], queries[:, :1], documents))


def test_a_shared_term_is_cosine_one_where_the_mix_is_all_vocabulary(tmp_path: Path) -> None:
    module = made("tk", tmp_path)
    with torch.no_grad():
        module.mix.fill_(1.0)
        query, _ = module.represent(**module.tokenised(["a cat ?"], "query"), side="query")
        document, read = module.represent(**module.tokenised(["the cat sleeps"], "document"), side="document")
    assert (query[0, 2] @ document[0, 2]).item() == pytest.approx(1.0, abs=1e-6)  # [CLS] a cat, [CLS] the cat
    assert read.tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize(("kind", "options"), [("prettr", {"split": 1}), ("tk", {})])
def test_saved_and_loaded_it_scores_the_same(kind: str, options: dict[str, int], tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    from cyclealign.models.cross_encoders import load_cross_encoder

    model = CrossEncoder(modules=[made(kind, tmp_path / "encoder", **options)], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = load_cross_encoder(str(tmp_path / "saved"), device="cpu")
    assert loaded.predict(PAIRS).tolist() == model.predict(PAIRS).tolist()
    assert loaded.max_seq_length == QUERY + DOCUMENT
    assert loaded.predict(PAIRS, prompt="a ").tolist() != model.predict(PAIRS).tolist()


def test_foreign_code_is_not_trusted(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    from cyclealign.models.cross_encoders import load_cross_encoder

    CrossEncoder(modules=[made("tk", tmp_path / "encoder")], device="cpu").save_pretrained(str(tmp_path / "saved"))
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    modules.append({**modules[0], "idx": 1, "name": "1", "type": "elsewhere.Module"})
    (tmp_path / "saved" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_cross_encoder(str(tmp_path / "saved"), device="cpu")


@pytest.mark.parametrize("split", [0, 3])
def test_a_split_needs_layers_on_both_sides(split: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"expected a split in 1 \.\. 2, got {split}"):
        made("prettr", tmp_path, split=split)
