"""Scorers of (messages, reply): sentence-transformers' models of three families, and causal language models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cyclealign.config.extras import require_extra
from cyclealign.models.loading import loaded
from cyclealign.models.processes import default_device
from cyclealign.rankers.scored import SETS_ON_GPU, Pair
from cyclealign.types import (
    Candidate,
    CandidateSet,
    Exchange,
    Message,
    RankContext,
    Ranking,
    Unranked,
    UserError,
    chat_as_text,
)

ROWS = 32  # texts in one forward pass
PORTION = 1024  # pairs compared at once
# What a language model is tried on before it scores anything: how its head computes does not depend on the text.
TRIED: Pair = ((Message(role="user", content="What sings?"),), "A bird sings in the morning.")


def made_of_modules(path: str | Path) -> bool:
    """Whether a directory holds sentence-transformers' modules, as ``cyclealign distill quantidce`` saves them."""
    return (Path(path) / "modules.json").is_file()


class CrossEncoderScorer:
    """Any sentence-transformers cross-encoder with one output, PreTTR and TK too: its raw logit, without activation."""

    def __init__(self, path: str, *, key: str) -> None:
        require_extra("sentence_transformers", "retrieval", key)
        from cyclealign.models.cross_encoders import load_cross_encoder

        self._model: Any = _loaded(load_cross_encoder, path, key)
        if not _has_head(self._model):
            raise UserError(f"{key}:{path}: expected a cross-encoder, got an encoder without a trained head")
        if self._model.num_labels != 1:
            raise UserError(f"{key}:{path}: expected one output a pair, got {self._model.num_labels}")
        self.settings: Mapping[str, object] = {"max_length": self._model.max_length, "output": "logit"}

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return cross_scores(self._model, [(chat_as_text(messages), reply) for messages, reply in pairs])


class CoherenceScorer(CrossEncoderScorer):
    """A model of ``cyclealign distill quantidce``: coherence from 1 to 5, 1 + 4 sigmoid(logit)."""

    def __init__(self, path: str, *, key: str) -> None:
        super().__init__(path, key=key)
        self.settings = {**self.settings, "output": "1 to 5"}

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [1 + 4 / (1 + math.exp(-logit)) for logit in super().score(pairs)]


class VectorScorer:
    """Any sentence-transformers bi-encoder, or with ``several`` vectors a text multi-vector model (ColBERT's MaxSim):
    its own similarity of query and document."""

    def __init__(self, path: str, *, key: str, several: bool = False) -> None:
        import sentence_transformers as st

        load = st.MultiVectorEncoder if several else st.SentenceTransformer
        self._model: Any = _loaded(load, path, key)
        self.settings: Mapping[str, object] = {
            "max_length": self._model.max_seq_length,
            "similarity": str(self._model.similarity_fn_name),
        }

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return vector_scores(self._model, [(chat_as_text(messages), reply) for messages, reply in pairs])


def cross_scores(model: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Raw outputs of a ``CrossEncoder`` for (query, document) pairs."""
    from torch.nn import Identity

    # A sigmoid would press the margins of sure teachers together.
    found = model.predict(list(pairs), activation_fn=Identity(), batch_size=ROWS, show_progress_bar=False)
    return [float(value) for value in found]


def vector_scores(model: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """A dense or multi-vector model's own similarity for (query, document) pairs; a distinct text is encoded once."""
    sides = zip(*pairs, strict=True)
    told_apart = []
    for encode, texts in zip((model.encode_query, model.encode_document), sides, strict=True):
        distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        vectors = encode(list(distinct), batch_size=ROWS, show_progress_bar=False)
        told_apart.append([vectors[distinct[text]] for text in texts])
    found: list[float] = []
    for first in range(0, len(pairs), PORTION):
        queries, documents = (side[first : first + PORTION] for side in told_apart)
        found += [float(value) for value in model.similarity_pairwise(queries, documents)]
    return found


class CausalScorer:
    """Any causal language model: mean log-likelihood of the reply, in nats per token. Implements ``types.Ranker`` too,
    where the token that ends a reply counts only if the reply was not cut off, as in the white box."""

    gives: Literal["order", "magnitude"] = "magnitude"

    def __init__(self, path: str) -> None:
        from cyclealign.models.policy_scorer import load_policy_scorer
        from cyclealign.rankers.white_box import WhiteBoxRanker

        self._scorer = load_policy_scorer(path, [_exchange(*TRIED)])
        self._ranker = WhiteBoxRanker(self._scorer.score, self._scorer.tokenizer, self._scorer.reading)
        self._together = SETS_ON_GPU if self._scorer.on_gpu else 1
        self.settings: Mapping[str, object] = {
            "prompt_tokens": self._scorer.reading.max_prompt_tokens,
            "output": "nats per token",
        }

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        found = self._scorer([_exchange(messages, reply) for messages, reply in pairs])
        return [float(logprobs[0].mean()) for logprobs in found]

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings in the order of the sets, as they come; on a GPU several at once."""
        waiting = iter(sets)
        while group := list(islice(waiting, self._together)):
            yield from self._ranker.rank(group, context)


def _exchange(messages: Sequence[Message], reply: str) -> Exchange:
    return messages, [Candidate("0", reply)]


def _has_head(cross_encoder: Any) -> bool:
    """False where sentence-transformers has put a new, random head on what is no cross-encoder; it only warns."""
    body = getattr(cross_encoder[0], "auto_model", None)
    if body is None or not type(body).__name__.endswith("ForSequenceClassification"):
        return True
    stored = body.config.architectures or ()
    return any("SequenceClassification" in name for name in stored)


def _loaded(load: Callable[..., Any], path: str, key: str) -> Any:
    return loaded(lambda: load(path, device=default_device()), f"{key}:{path}: cannot be loaded")
