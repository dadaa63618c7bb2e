"""What a distilled ranker sees of a list of replies: form, what the embedded ranker makes of them, how they agree."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from cyclealign.rankers.distilled import Vector
from cyclealign.rankers.local import LocalRanker, chat_text
from cyclealign.types import Candidate, CandidateSet

WORD = re.compile(r"\w+")
ENDINGS = (".", "!", "?", '"', "'", "`", ")")


class ReplyFeatures:
    """Numbers [K, F] for the candidates of a list, the same whatever their order.

    Form: length and its square, lines, digits, variety of words, how it ends. The three terms of ``ResponseScorer``.
    Consensus, as replies that say what the others say tend to be better (minimum Bayes risk): mean cosine with
    the other replies' vectors, and mean share of the other replies' words that it has. A likelihood under the policy is
    not among them: the policy changes between interactions, and with it what the number means.
    """

    names = (
        "log_words",
        "log_words_squared",
        "log_lines",
        "log_digits",
        "distinct_words",
        "ends_sentence",
        "cut_off",
        "answers_chat",
        "quality",
        "echo",
        "consensus",
        "coverage",
    )

    def __init__(self) -> None:
        self._ranker = LocalRanker()

    def __call__(self, item: CandidateSet) -> Vector:
        texts = [c.text for c in item.candidates]
        terms, vectors = self._ranker.terms(chat_text(item.prompt.messages), texts)
        consensus = _mean_of_others((vectors @ vectors.T).double().numpy())
        form = np.array([_form(c) for c in item.candidates])
        return np.column_stack([form, terms.double().numpy(), consensus, _mean_of_others(_coverage(texts))])


def _form(candidate: Candidate) -> tuple[float, ...]:
    text = candidate.text
    words = text.split()
    length = math.log1p(len(words))
    return (
        length,
        length**2,
        math.log1p(text.count("\n")),
        math.log1p(sum(c.isdigit() for c in text)),
        len(set(words)) / max(1, len(words)),
        float(text.rstrip().endswith(ENDINGS)),
        float(candidate.finish == "length"),
    )


def _coverage(texts: Sequence[str]) -> Vector:
    """Share of the distinct words of reply j that reply i has [K, K]."""
    words = [set(WORD.findall(text.lower())) for text in texts]
    return np.array([[len(a & b) / max(1, len(b)) for b in words] for a in words])


def _mean_of_others(values: Vector) -> Vector:
    """Row means without the diagonal [K]."""
    return np.asarray((values.sum(axis=1) - values.diagonal()) / max(1, len(values) - 1), dtype=np.float64)
