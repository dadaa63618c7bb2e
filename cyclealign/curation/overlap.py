"""How much of one text stands in another: character 5-grams, which need no tokenizer and no language."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cyclealign.types import UserError

N = 5
# Share of the smaller text's 5-grams that stand in the other, from which on one counts as a near-copy of the other.
NEAR_COPY = 0.8
# Shorter texts share most of their 5-grams by chance ("Yes, of course."), so only an exact copy counts.
LEAST_GRAMS = 30


def normal(text: str) -> str:
    """Lower case, words alone, one space apart: what a copy keeps when its punctuation is changed."""
    return " ".join(re.findall(r"\w+", text.lower()))


def containment(first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
    """[len(first), len(second)]: share of the smaller text's distinct 5-grams that the other has too, in [0, 1].

    1 for texts that are equal once normalised. Texts of fewer than LEAST_GRAMS 5-grams are 0 to all others.
    Raises UserError where scikit-learn is missing.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
    except ModuleNotFoundError as error:
        raise UserError("this needs scikit-learn: install cyclealign[curation]") from error
    left, right = [normal(t) for t in first], [normal(t) for t in second]
    equal = np.array([[a == b != "" for b in right] for a in left], dtype=np.float64).reshape(len(left), len(right))
    if not left or not right or max(map(len, [*left, *right])) < N:
        return equal
    vectorizer = CountVectorizer(analyzer="char", ngram_range=(N, N), binary=True, dtype=np.float64)
    vectorizer.fit([*left, *right])
    a, b = vectorizer.transform(left), vectorizer.transform(right)
    sizes = np.minimum.outer(np.asarray(a.sum(axis=1)).ravel(), np.asarray(b.sum(axis=1)).ravel())
    shared = (a @ b.T).toarray()
    share = np.where(sizes >= LEAST_GRAMS, shared / np.maximum(sizes, 1.0), 0.0)
    return np.asarray(np.maximum(share, equal), dtype=np.float64)
