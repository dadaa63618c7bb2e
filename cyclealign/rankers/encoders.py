"""Scorers of (messages, reply): sentence-transformers' cross-encoders and bi-encoders, and causal language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cyclealign.types import Message, UserError

ROWS = 32  # texts in one forward pass
Pair = tuple[Sequence[Message], str]


class PairScorer(Protocol):
    """Scores each (messages, reply) by itself, higher is better; reward models and the local ranker are some too."""

    def score(self, pairs: Sequence[Pair]) -> list[float]: ...


class CrossEncoderScorer:
    """Any sentence-transformers cross-encoder with one output: its raw logit, without activation."""

    def __init__(self, path: str) -> None:
        from sentence_transformers import CrossEncoder

        self._model: Any = _loaded(CrossEncoder, path, "cross_encoder")
        if self._model.num_labels != 1:
            raise UserError(f"--teacher cross_encoder:{path}: expected one output a pair, got {self._model.num_labels}")
        self.settings: Mapping[str, Any] = {"max_length": self._model.max_length, "output": "logit"}

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        from torch.nn import Identity

        texts = [(told(messages), reply) for messages, reply in pairs]
        # A sigmoid would press the margins of sure teachers together.
        found = self._model.predict(texts, activation_fn=Identity(), batch_size=ROWS, show_progress_bar=False)
        return [float(value) for value in found]


class BiEncoderScorer:
    """Any sentence-transformers bi-encoder: its own similarity of query and document vectors."""

    def __init__(self, path: str) -> None:
        from sentence_transformers import SentenceTransformer

        self._model: Any = _loaded(SentenceTransformer, path, "bi_encoder")
        self.settings: Mapping[str, Any] = {
            "max_length": self._model.max_seq_length,
            "similarity": str(self._model.similarity_fn_name),
        }

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        queries = self._vectors(self._model.encode_query, [told(messages) for messages, _ in pairs])
        documents = self._vectors(self._model.encode_document, [reply for _, reply in pairs])
        return [float(value) for value in self._model.similarity_pairwise(queries, documents)]

    def _vectors(self, encode: Callable[..., Any], texts: Sequence[str]) -> Any:
        """Each distinct text is encoded once."""
        distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        vectors = encode(list(distinct), batch_size=ROWS, show_progress_bar=False, convert_to_tensor=True)
        return vectors[[distinct[text] for text in texts]]


class CausalScorer:
    """Any causal language model: mean log-likelihood of the reply, in nats per token."""

    def __init__(self, path: str, sample: Sequence[Pair]) -> None:
        from cyclealign.policy_scorer import load_policy_scorer

        self._scorer = load_policy_scorer(path, [(messages, [reply]) for messages, reply in sample])
        self.settings: Mapping[str, Any] = {"prompt_tokens": self._scorer.prompt_tokens, "output": "nats per token"}

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        found = self._scorer([(messages, [reply]) for messages, reply in pairs])
        return [float(logprobs[0].mean()) for logprobs in found]


def told(messages: Sequence[Message]) -> str:
    """A chat as one text; a lone message as it is."""
    return "\n\n".join(message["content"] for message in messages)


def _loaded(load: Callable[..., Any], path: str, kind: str) -> Any:
    import torch

    try:
        return load(path, device="cuda" if torch.cuda.is_available() else "cpu")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--teacher {kind}:{path}: cannot be loaded: {reason}") from error
