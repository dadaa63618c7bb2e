"""TK: contextualised term vectors, compared one by one, counted by kernels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from cyclealign.models.kernels import KernelCounts, kernel_weights
from cyclealign.models.pair_model import PairModel, Represented, Side, in_float32

LEAST = 1e-10  # of a kernel's count, before the logarithm


class TK(PairModel):
    """Transformer-Kernel (Hofstätter et al., arXiv 2002.01854) on any transformers encoder.

    A term's vector is a t + (1 - a) c, normalised: t its vector in the vocabulary, c the encoder's output, each of
    length 1; a is learned. With the cosines M [query terms, document terms] the score is
    sum_k w_k sum_i log sum_j exp(-(M_ij - mu_k)^2 / (2 * 0.1^2)), 11 kernels, w learned. Special tokens do not count.
    """

    special: Tensor

    def __init__(self, encoder: Any, tokenizer: Any, **lengths: int) -> None:
        super().__init__(encoder, tokenizer, **lengths)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self.mix = nn.Parameter(torch.tensor(0.5))
        self.counts = KernelCounts()
        self.kernel_weights = kernel_weights()
        self.register_buffer("special", torch.tensor(tokenizer.all_special_ids), persistent=False)

    def represent(self, input_ids: Int[Tensor, "N T"], attention_mask: Int[Tensor, "N T"], side: Side) -> Represented:
        """Unit vectors of the terms, and which are terms; the same for queries and documents."""
        terms = self.encoder.get_input_embeddings()(input_ids)
        context = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        with in_float32(input_ids.device):
            terms, context = normalize(terms.float(), dim=-1), normalize(context.float(), dim=-1)
            vectors = normalize(self.mix * terms + (1 - self.mix) * context, dim=-1)
        return vectors, attention_mask.bool() & ~torch.isin(input_ids, self.special)

    def join(self, query: Represented, document: Represented) -> Float[Tensor, " N"]:
        with in_float32(query[0].device):
            cosines = query[0] @ document[0].transpose(1, 2)
            return self.kernel_score(cosines, query[1], document[1])

    def kernel_score(self, cosines: Tensor, query_mask: Tensor, document_mask: Tensor) -> Float[Tensor, " N"]:
        """The score from cosines [N, query terms, document terms]."""
        logs = self.counts(cosines, document_mask).clamp(min=LEAST).log() * query_mask[..., None]
        found: Tensor = self.kernel_weights(logs.sum(dim=1))
        return found.squeeze(-1)
