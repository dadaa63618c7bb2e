"""``cyclealign eval reward``: mean score of responses under a reward model, or another scorer, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cyclealign.evaluation.responses import Response
from cyclealign.evaluation.result import Result, make_result
from cyclealign.evaluation.scorers import Pair, scorer_by_name
from cyclealign.evaluation.statistics import bootstrap_mean, recorded
from cyclealign.types import UserError

KINDS = "reward_model:PATH, coherence:PATH, local, sentence_similarity or overlap"


def score_pairs(spec: str, pairs: Sequence[Pair]) -> list[float]:
    """Scores of (messages, reply), higher is better, by ``reward_model:PATH``, ``coherence:PATH``, ``local`` or a
    scorer of the package.

    Raises:
        UserError: no such scorer, or its model cannot be loaded.
    """
    kind, _, path = spec.partition(":")
    if kind == "reward_model" and path:
        from cyclealign.rankers.reward_model import RewardModelRanker

        return RewardModelRanker(path, key="--scorer").score(pairs)
    if kind == "coherence" and path:
        from cyclealign.rankers.encoders import CoherenceScorer

        return CoherenceScorer(path, key="--scorer coherence").score(pairs)
    if spec == "local":
        from cyclealign.rankers.local import LocalRanker

        return LocalRanker().score(pairs)
    try:
        return scorer_by_name(spec).score(pairs)
    except (ValueError, ModuleNotFoundError) as error:
        raise UserError(f"--scorer {spec}: expected {KINDS}: {error}") from error


def evaluate_reward(source: str, responses: Mapping[str, Response], scorer: str, *, seed: int) -> Result:
    """Mean raw score; of a reward model also the mean of sigmoid(score) times 100, PRO's reward (arXiv 2306.17492).

    Raises UserError as ``score_pairs``.
    """
    scores = score_pairs(scorer, [(r.prompt.messages, r.text) for r in responses.values()])
    metrics = {"items": len(scores), "reward": recorded(bootstrap_mean(scores, seed=seed))}
    if scorer.startswith("reward_model:"):  # other scorers give no logit
        metrics["reward_sigmoid_100"] = recorded(bootstrap_mean([100 * sigmoid(s) for s in scores], seed=seed))
    items: list[dict[str, Any]] = [
        {
            "key": i,
            "value": score,
            "prompt": r.prompt.messages[-1]["content"],
            "responses": {"reply": r.text},
        }
        for (i, r), score in zip(responses.items(), scores, strict=True)
    ]
    about = {"responses": source, "scorer": scorer}
    return make_result("reward", about=about, seed=seed, metrics=metrics, items=items, primary="reward")


def sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))
