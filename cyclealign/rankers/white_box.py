"""The white box as a ranker: by its own mean token log-likelihood, answers' tokens only, plain prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from cyclealign.models.encoded_lists import EncodedList, Reading, encode_set
from cyclealign.models.token_scorer import mean_logprob
from cyclealign.rankers.scored import too_few
from cyclealign.types import CandidateSet, RankContext, Ranking, Unranked

ScoreLists = Callable[[Sequence[EncodedList]], Sequence[tuple[Tensor, ...]]]


class WhiteBoxRanker:
    """Ranks with a policy; ``score`` is what the loss differentiates (``scoring.TokenScorer``)."""

    gives: Literal["order", "magnitude"] = "magnitude"

    def __init__(self, score: ScoreLists, tokenizer: Any, reading: Reading) -> None:
        self._score = score
        self._tokenizer = tokenizer
        self._reading = reading

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Scores in nats per token, the stop token included where the response ended by itself."""
        found = list(sets)
        ranked = [item for item in found if item.candidates]
        yield from (too_few(item) for item in found if not item.candidates)
        scores = self._score([encode_set(self._tokenizer, item, self._reading) for item in ranked])
        for item, rows in zip(ranked, scores, strict=True):
            by_id = {i: mean_logprob(row) for i, row in zip(item.ids, rows, strict=True)}
            yield Ranking.from_scores(item.prompt.id, by_id, set_id=item.id)
