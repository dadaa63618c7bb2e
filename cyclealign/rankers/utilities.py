"""What a ranking tells a loss: utilities of orders, votes and scores; the tiers that are taught."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from cyclealign.rankers.agreement import Tiers
from cyclealign.types import Gives, Ranking

VOTE_EPSILON = 0.01
"""Added to vote shares before the logarithm: who never won stays finite, and no gap exceeds 4.7."""


def order_utilities(ranking: Ranking) -> dict[str, float]:
    """Linear utilities from an order alone: K - 1 for the best to 0 for the last; a tier shares its mean."""
    utilities: dict[str, float] = {}
    below = sum(len(tier) for tier in ranking.tiers)
    for tier in ranking.tiers:
        below -= len(tier)
        utilities.update(dict.fromkeys(tier, below + (len(tier) - 1) / 2))
    return utilities


def vote_utilities(votes: Mapping[str, float]) -> dict[str, float]:
    """log(share + ``VOTE_EPSILON``): their softmax gives the vote shares back, to within epsilon."""
    return {i: math.log(share + VOTE_EPSILON) for i, share in votes.items()}


def win_rates(ranking: Ranking) -> dict[str, float]:
    """Share of the comparisons with the list's other candidates that each won over the passes, 0 to 1: K / 2 times its
    vote share. ValueError for a ranking without votes."""
    if ranking.votes is None:
        raise ValueError(f"{ranking.prompt_id}: expected a ranking with votes")
    return {i: len(ranking.votes) / 2 * share for i, share in ranking.votes.items()}


def score_utilities(scores: Mapping[str, float], spread: float) -> dict[str, float]:
    """(score - mean of the list) / ``spread``: what scores tell a loss, whatever scale they are given on.

    Differences are then in units of how far scores of one list usually stand apart, so that the gaps of PRO, the
    weights of PLD and the margins of Margin-MSE mean the same with every judge.
    """
    mean = math.fsum(scores.values()) / len(scores)
    return {i: (score - mean) / spread for i, score in scores.items()}


def score_spread(lists: Iterable[Mapping[str, float]]) -> float:
    """Root mean square distance of scores to the mean of their list; 1 where no list has two different scores."""
    centred = [score for scores in lists for score in score_utilities(scores, 1.0).values()]
    spread = math.sqrt(math.fsum(c * c for c in centred) / len(centred)) if centred else 0.0
    return spread or 1.0


def given_by(ranking: Ranking) -> Gives:
    """The finest thing that one ranking can offer: votes are of two passes or more, over all its candidates."""
    if ranking.votes is not None and len(ranking.passes) >= 2 and ranking.judged == ranking.order:
        return "votes"
    return "order" if ranking.scores is None else "magnitude"


def taught_tiers(ranking: Ranking) -> Tiers:
    """The tiers that anything is trained on: those of the ranking, but where a cascade pruned.

    The pruned ones are then tied below the judged: their order is nobody's verdict.
    """
    if not 0 < len(ranking.judged) < len(ranking.order):
        return ranking.tiers
    judged = tuple(tier for tier in ranking.tiers if tier[0] in ranking.judged)
    return (*judged, tuple(i for i in ranking.order if i not in ranking.judged))


def teacher_utilities(ranking: Ranking, *, spread: float | None = None) -> dict[str, float]:
    """What a ranking tells a loss, higher is better: its scores, else its votes over two passes or more, else
    its order. The first two have magnitudes, the last has not.

    spread: of ``score_utilities``; None: scores are utilities as they come.

    Of a list that a cascade pruned, only the order of ``taught_tiers``.
    """
    if 0 < len(ranking.judged) < len(ranking.order):
        return order_utilities(Ranking(prompt_id=ranking.prompt_id, tiers=taught_tiers(ranking)))
    if ranking.scores is not None:
        return dict(ranking.scores) if spread is None else score_utilities(ranking.scores, spread)
    if ranking.votes is not None and len(ranking.passes) >= 2:
        return vote_utilities(ranking.votes)
    return order_utilities(ranking)
