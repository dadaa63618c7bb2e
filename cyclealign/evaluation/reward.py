"""``cyclealign eval reward``: mean score of responses under a reward model, or another scorer, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cyclealign.evaluation.responses import Response
from cyclealign.evaluation.result import Item, Result, make_result
from cyclealign.evaluation.statistics import Figure, bootstrap_mean
from cyclealign.rankers.by_name import scorer_by_name


def evaluate_reward(source: str, responses: Mapping[str, Response], scorer: str, *, seed: int) -> Result:
    """Mean raw score; of a reward model also the mean of sigmoid(score) times 100, PRO's reward (arXiv 2306.17492).

    Raises UserError as ``scorer_by_name``.
    """
    scores = scorer_by_name(scorer).score([(r.prompt.messages, r.text) for r in responses.values()])
    metrics: dict[str, Figure] = {"items": len(scores), "reward": bootstrap_mean(scores, seed=seed)}
    if scorer.startswith("reward_model:"):  # other scorers give no logit
        metrics["reward_sigmoid_100"] = bootstrap_mean([100 * sigmoid(s) for s in scores], seed=seed)
    items = [
        Item(key=i, value=score, prompt=r.prompt.messages[-1]["content"], responses={"reply": r.text})
        for (i, r), score in zip(responses.items(), scores, strict=True)
    ]
    about = {"responses": source, "scorer": scorer}
    return make_result("reward", about=about, seed=seed, metrics=metrics, items=items, primary="reward")


def sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))
