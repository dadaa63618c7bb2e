"""IDCM: a cheap model chooses passages of a long document, an expensive one scores them, their best scores add up.

Hofstätter et al. 2021, Intra-Document Cascading (arXiv 2105.09816).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from cyclealign.files.atomic import write_atomic
from cyclealign.files.jsonl import read_json
from cyclealign.models.kernels import MEANS, KernelCounts, kernel_weights
from cyclealign.types import UserError

LEAST = 1e-4  # of a kernel's count, before the logarithm


class ConvolutionKernels(nn.Module):
    """The efficient student model, CK: convolved term vectors, compared one by one, counted by 11 kernels.

    c = normalise(relu(conv3(e))), e the ETM's term vectors without gradient; M the cosines of query and passage terms;
    score = w . sum_i log max(a_k sum_j exp(-(M_ij - mu_k)^2 / (2 * 0.1^2)), 1e-4) with a and w learned. ``small`` is
    CKS: e goes through a linear layer to half its width first, and the convolution on to a sixth.
    """

    def __init__(self, width: int, *, small: bool) -> None:
        super().__init__()
        between, out = (width // 2, max(1, width // 6)) if small else (width, width)
        self.reduce = nn.Linear(width, between) if small else nn.Identity()
        self.convolution = nn.Conv1d(between, out, kernel_size=3)
        self.kernel_scale = nn.Parameter(torch.ones(len(MEANS)))
        self.kernel_weights = kernel_weights()
        self.counts = KernelCounts()

    def terms(self, vectors: Float[Tensor, "N T D"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, "N T W"]:
        """Unit vectors of trigrams; what is masked or lies behind the end is zero to the convolution."""
        x = (self.reduce(vectors) * mask[..., None]).transpose(1, 2)
        return normalize(torch.relu(self.convolution(pad(x, (0, 2)))).transpose(1, 2), dim=-1)

    def forward(
        self,
        query: Float[Tensor, "N Q D"],
        query_mask: Bool[Tensor, "N Q"],
        passage: Float[Tensor, "N T D"],
        passage_mask: Bool[Tensor, "N T"],
    ) -> Float[Tensor, " N"]:
        """Scores of aligned query and passage term vectors; masked terms count nothing."""
        q, p = self.terms(query, query_mask), self.terms(passage, passage_mask)
        counts = self.counts(q @ p.transpose(1, 2), passage_mask)
        logs = (self.kernel_scale * counts).clamp(min=LEAST).log() * query_mask[..., None]
        found: Tensor = self.kernel_weights(logs.sum(dim=1))
        return found[:, 0]


class IDCM(nn.Module):
    """``cross_encoder``: sentence-transformers' own, the ETM. ``esm``: which efficient student. ``top``: how many
    passage scores add up."""

    def __init__(self, cross_encoder: Any, *, esm: Literal["ck", "cks"], top: int) -> None:
        super().__init__()
        self.cross_encoder = cross_encoder
        self.kind = esm
        width = self._embeddings.weight.shape[1]
        self.esm = ConvolutionKernels(width, small=esm == "cks")
        self.top_weights = nn.Parameter(torch.ones(top))
        self.to(cross_encoder.device)

    @property
    def tokenizer(self) -> Any:
        return self.cross_encoder.tokenizer

    @property
    def _embeddings(self) -> Any:
        """Of the vocabulary: the ESM reads terms without context, so that any encoder will do."""
        return self.cross_encoder[0].auto_model.get_input_embeddings()

    def etm_scores(self, features: dict[str, Tensor]) -> Float[Tensor, " N"]:
        """Raw logits of tokenised (query, passage) pairs."""
        logits: Tensor = self.cross_encoder[0].auto_model(**features).logits
        return logits[:, 0].float()

    def esm_scores(
        self,
        query: Int[Tensor, "N Q"],
        query_mask: Bool[Tensor, "N Q"],
        passage: Int[Tensor, "N T"],
        passage_mask: Bool[Tensor, "N T"],
    ) -> Float[Tensor, " N"]:
        """Scores of aligned token ids, without special tokens; no gradient reaches the ETM's vectors."""
        # In float32 also where the ETM trains in bfloat16: kernels are narrow, and the ESM is small.
        with torch.autocast(device_type=query.device.type, enabled=False):
            with torch.no_grad():
                q, p = self._embeddings(query).float(), self._embeddings(passage).float()
            found: Tensor = self.esm(q, query_mask, p, passage_mask)
        return found

    def document_scores(self, passages: Float[Tensor, "N P"], valid: Bool[Tensor, "N P"]) -> Float[Tensor, " N"]:
        """S = sum_r w_r e_(r) over the ``top`` best passage scores; missing passages contribute 0."""
        top = min(len(self.top_weights), passages.shape[1])
        best = passages.masked_fill(~valid, -torch.inf).topk(top, dim=1).values
        return torch.where(best.isfinite(), best, 0.0) @ self.top_weights[:top]

    def pair_features(self, pairs: Sequence[tuple[str, str]], most: int) -> dict[str, Tensor]:
        """Tokenised (query, passage) pairs; the passage is cut where both take more than ``most`` tokens."""
        queries, passages = zip(*pairs, strict=True)
        found = self.tokenizer(
            list(queries),
            list(passages),
            truncation="only_second",
            max_length=most,
            padding=True,
            return_tensors="pt",
        )
        return {name: v.to(self.top_weights.device) for name, v in found.items()}

    def term_features(self, texts: Sequence[str], most: int) -> tuple[Int[Tensor, "N T"], Bool[Tensor, "N T"]]:
        """Token ids without special ones, and which are there."""
        found = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=most, padding=True, return_tensors="pt"
        )
        device = self.top_weights.device
        return found["input_ids"].long().to(device), found["attention_mask"].bool().to(device)

    def save(self, folder: Path) -> None:
        """``etm``: a cross-encoder of sentence-transformers; the rest beside it, ``idcm.json`` last."""
        self.cross_encoder.save_pretrained(str(folder / "etm"))
        own = {n: v.detach().cpu().contiguous() for n, v in self.state_dict().items() if n in self._own_names()}
        save_file(own, folder / "idcm.safetensors")
        write_atomic(folder / "idcm.json", json.dumps({"esm": self.kind, "top": len(self.top_weights)}) + "\n")

    @staticmethod
    def load(folder: Path) -> IDCM:
        """UserError where the folder holds none."""
        from sentence_transformers import CrossEncoder

        if not (folder / "idcm.json").is_file():
            raise UserError(f"{folder}: expected a saved IDCM, got a folder without idcm.json")
        shape = read_json(folder / "idcm.json")
        esm, top = shape.get("esm"), shape.get("top")
        if esm not in ("ck", "cks") or not isinstance(top, int) or top < 1:
            raise UserError(f"{folder / 'idcm.json'}: expected esm (ck or cks) and top; put it back from a copy")
        model = IDCM(CrossEncoder(str(folder / "etm")), esm=esm, top=top)
        missing, unexpected = model.load_state_dict(load_file(folder / "idcm.safetensors"), strict=False)
        if unexpected or any(not name.startswith("cross_encoder.") for name in missing):
            raise UserError(f"{folder}: its weights are not those of {shape}")
        return model

    def _own_names(self) -> set[str]:
        return {name for name in self.state_dict() if not name.startswith("cross_encoder.")}
