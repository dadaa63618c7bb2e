"""``student.layers``: the first layers of any encoder are kept, and what is saved is what was trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch

from cyclealign.distill.config import EncoderShape
from cyclealign.types import UserError

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
LAYERS = 3
TEXTS = ["a cat ?", "the dog runs", "a red bird sings"]
WORDS = len(tiny_encoders.WORDS) + 5
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": tiny_encoders.WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


@pytest.fixture(autouse=True)
def ignored_warnings() -> Iterator[None]:
    """The libraries' own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES))


def t5() -> Any:
    """Of an encoder and a decoder the first, as gtr and sentence-t5 are; each block is a list of two layers."""
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": tiny_encoders.WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=WORDS, pad_token_id=0, eos_token_id=3, **sizes))


def modern_bert() -> Any:
    """Its first layer attends to all, the next two to their neighbourhood."""
    from transformers import ModernBertConfig, ModernBertModel

    return ModernBertModel(ModernBertConfig(**SIZES, **IDS, cls_token_id=2, sep_token_id=3))


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(**SIZES, **IDS, num_key_value_heads=2, head_dim=8))


def sentence_model(make: Callable[[], Any], folder: Path) -> Any:
    """The encoder with the words of the others, and mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    tiny_encoders.save_encoder(folder)
    torch.manual_seed(0)
    make().save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(tiny_encoders.WIDTH)], device="cpu")


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("make", [bert, t5, modern_bert, qwen3])
def test_a_cut_encoder_is_saved_as_it_is(make: Callable[[], Any], layers: int, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from cyclealign.distill.students import shape_encoder

    model = sentence_model(make, tmp_path / "whole")
    whole = model.encode(TEXTS)
    each = sum(p.numel() for name, p in model.named_parameters() if f".{LAYERS - 1}." in name)  # of a layer
    before = sum(p.numel() for p in model.parameters())
    shape_encoder(model, EncoderShape(layers=layers))
    assert sum(p.numel() for p in model.parameters()) == before - (LAYERS - layers) * each
    found = model.encode(TEXTS)
    assert (abs(found - whole).max() < 1e-6) == (layers == LAYERS)
    model.save_pretrained(str(tmp_path / "cut"))
    saved = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert abs(saved.encode(TEXTS) - found).max() < 1e-6
    config = saved[0].auto_model.config
    assert config.num_hidden_layers == layers
    assert sum(p.numel() for p in saved.parameters()) == sum(p.numel() for p in model.parameters())


def test_the_first_layers_are_kept(tmp_path: Path) -> None:
    from cyclealign.distill.students import shape_encoder

    model = sentence_model(bert, tmp_path / "whole")
    tokens = torch.arange(5, 12)[None]
    encoder = model[0].auto_model.eval()
    with torch.no_grad():
        states = encoder(tokens, output_hidden_states=True).hidden_states
        shape_encoder(model, EncoderShape(layers=2))
        torch.testing.assert_close(encoder(tokens).last_hidden_state, states[2])


def albert() -> Any:
    from transformers import AlbertConfig, AlbertModel

    return AlbertModel(AlbertConfig(**SIZES, embedding_size=8))


def bart() -> Any:
    from transformers import BartConfig, BartModel

    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    return BartModel(BartConfig(vocab_size=WORDS, d_model=16, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes))


@pytest.mark.parametrize("make", [albert, bart])
def test_an_encoder_without_one_list_of_layers_is_refused(make: Callable[[], Any]) -> None:
    """One layer many times over; an encoder's and a decoder's."""
    from types import SimpleNamespace

    from cyclealign.distill.students import shape_encoder

    encoder = make()
    said = f"student.layers: a {type(encoder).__name__} does not have one list of its layers to cut"
    with pytest.raises(UserError, match=said):
        shape_encoder([SimpleNamespace(auto_model=encoder)], EncoderShape(layers=1))
