"""What PreTTR and TK share: two texts tokenised apart, represented apart, joined to one score; saving and loading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from cyclealign.models.features import Features

Side = Literal["query", "document"]
Represented = tuple[Float[Tensor, "N T D"], Bool[Tensor, "N T"]]  # token vectors, and which of them are read


class PairModel(InputModule):  # type: ignore[misc]
    """The only module of a ``CrossEncoder``: output ``scores`` [N, 1] of N pairs.

    ``represent`` of a document does not depend on the query: an index can hold it, and answering a query then costs
    ``represent`` of the query and ``join``.

    Args:
        encoder: a transformers encoder.
        tokenizer: its tokenizer.
        max_query_tokens, max_document_tokens: longer texts are cut; with special tokens.
    """

    config_file_name = "pair_model.json"
    config_keys: ClassVar[list[str]] = ["max_query_tokens", "max_document_tokens"]

    def __init__(self, encoder: Any, tokenizer: Any, *, max_query_tokens: int, max_document_tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_query_tokens = max_query_tokens
        self.max_document_tokens = max_document_tokens

    @abstractmethod
    def represent(self, input_ids: Int[Tensor, "N T"], attention_mask: Int[Tensor, "N T"], side: Side) -> Represented:
        """What is kept of N queries or documents."""

    @abstractmethod
    def join(self, query: Represented, document: Represented) -> Float[Tensor, " N"]:
        """Score of each query with the document in the same place."""

    @property
    def max_seq_length(self) -> int:
        return self.max_query_tokens + self.max_document_tokens

    def tokenised(self, texts: Sequence[str], side: Side) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` [N, T] of queries or of documents."""
        most = self.max_query_tokens if side == "query" else self.max_document_tokens
        found = self.tokenizer(list(texts), truncation=True, max_length=most, padding=True, return_tensors="pt")
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Features of (query, document) pairs; a prompt is put before each query."""
        if isinstance(inputs[0], str):
            # Not to be scored: sentence-transformers counts the tokens of each column for the model card.
            return self.tokenised(inputs, "document")
        queries, documents = zip(*inputs, strict=True)
        sides: tuple[tuple[Side, Sequence[str]], ...] = (
            ("query", [(prompt or "") + query for query in queries]),
            ("document", documents),
        )
        return {f"{side}_{name}": v for side, texts in sides for name, v in self.tokenised(texts, side).items()}

    def forward(self, features: Features, **_: Any) -> Features:
        query, document = (
            self.represent(features[f"{side}_input_ids"], features[f"{side}_attention_mask"], side)
            for side in ("query", "document")
        )
        features["scores"] = self.join(query, document)[:, None]
        return features

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        self.encoder.config.save_pretrained(output_path)
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        self.save_tokenizer(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        hub = {name: v for name, v in options.items() if name in ("token", "revision", "local_files_only")}
        place: dict[str, object] = {**hub, "subfolder": subfolder, "cache_dir": options.get("cache_folder")}
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(model_name_or_path, **place))
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, **place)
        where = {**hub, "subfolder": subfolder, "cache_folder": options.get("cache_folder")}
        module = cls(encoder, tokenizer, **cls.load_config(model_name_or_path, **where))
        cls.load_torch_weights(model_name_or_path, model=module, **where)
        return module


def in_float32(device: torch.device) -> torch.autocast:
    """Kernels and logarithms are computed in float32 also where the encoder trains in bfloat16."""
    return torch.autocast(device_type=device.type, enabled=False)
