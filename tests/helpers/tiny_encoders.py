"""Random one-layer encoders with a few words, as sentence-transformers has them: dense, cross and multi-vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "sings", "a", "the", "?")
WIDTH = 16


def save_encoder(folder: Path, *, layers: int = 1, head: bool = False, seed: int = 0) -> Path:
    """A BERT directory; ``head``: with one output, for pairs."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=1,
    )
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config) if head else BertModel(config)
    # As many positions as the real ones have; those behind the 64th come after the draw, and are zero.
    positions = model.base_model.embeddings.position_embeddings
    positions.weight = torch.nn.Parameter(torch.cat([positions.weight.detach(), torch.zeros(448, WIDTH)]))
    model.config.max_position_embeddings = 512
    model.save_pretrained(folder)
    return folder


def dense(folder: Path, *, seed: int = 0) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder = Transformer(str(save_encoder(folder, seed=seed)))
    return SentenceTransformer(modules=[encoder, Pooling(WIDTH)], device="cpu")


def cross(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(save_encoder(folder, head=True)), device="cpu")


def multi_vector(folder: Path) -> Any:
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(save_encoder(folder)), device="cpu")
