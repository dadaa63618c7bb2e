"""PreTTR: a cross-encoder whose first layers read query and document apart, so that documents can be precomputed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cyclealign.models.pair_model import PairModel, Represented, Side


class PreTTR(PairModel):
    """Layers 1 to ``split`` see one text alone, the others both (MacAvaney et al., arXiv 2004.14255).

    The score is a linear function of the last layer's [CLS], which stands before the query. A document has no [CLS]
    of its own; its positions begin behind the longest query, so that they do not depend on the one it is joined to.

    Raises:
        ValueError: no BERT, no layer before or behind the split, or more positions than the encoder has.
    """

    config_keys: ClassVar[list[str]] = [*PairModel.config_keys, "split"]

    def __init__(self, encoder: Any, tokenizer: Any, *, split: int, **lengths: int) -> None:
        super().__init__(encoder, tokenizer, **lengths)
        self.split = split
        config = encoder.config
        if config.model_type != "bert":
            raise ValueError(f"PreTTR: expected a BERT encoder, got {config.model_type}")
        if not 1 <= split < config.num_hidden_layers:
            raise ValueError(f"PreTTR: expected a split in 1 .. {config.num_hidden_layers - 1}, got {split}")
        if self.max_seq_length > config.max_position_embeddings:
            raise ValueError(
                f"PreTTR: the encoder has {config.max_position_embeddings} positions, got {self.max_seq_length} tokens"
            )
        encoder.pooler = None
        self.head = nn.Linear(config.hidden_size, 1)

    def represent(self, input_ids: Int[Tensor, "N T"], attention_mask: Int[Tensor, "N T"], side: Side) -> Represented:
        """Vectors behind layer ``split``; T is one less for documents, whose [CLS] goes."""
        first = 0
        if side == "document":
            input_ids, attention_mask, first = input_ids[:, 1:], attention_mask[:, 1:], self.max_query_tokens
        positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)
        hidden = self.encoder.embeddings(
            input_ids=input_ids,
            position_ids=positions[None],
            token_type_ids=torch.full_like(input_ids, int(side == "document")),
        )
        mask = attention_mask.bool()
        return self._through(hidden, mask, slice(0, self.split)), mask

    def join(self, query: Represented, document: Represented) -> Float[Tensor, " N"]:
        hidden, mask = (torch.cat(parts, dim=1) for parts in zip(query, document, strict=True))
        found: Tensor = self.head(self._through(hidden, mask, slice(self.split, None))[:, 0])
        return found.squeeze(-1)

    def _through(self, hidden: Tensor, mask: Tensor, layers: slice) -> Tensor:
        from transformers.masking_utils import create_bidirectional_mask

        wide = create_bidirectional_mask(self.encoder.config, inputs_embeds=hidden, attention_mask=mask)
        for layer in self.encoder.encoder.layer[layers]:
            hidden = layer(hidden, wide)
        return hidden
