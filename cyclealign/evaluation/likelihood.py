"""``cyclealign eval likelihood``: what the policy's own likelihood prefers, and how far it has moved from its start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cyclealign.evaluation.labelled_pairs import credit
from cyclealign.evaluation.policies import NamedPolicy
from cyclealign.evaluation.responses import Response
from cyclealign.evaluation.result import Item, Result, item_key, make_result
from cyclealign.evaluation.statistics import Figure, bootstrap_mean, share
from cyclealign.files.labelled import LabelledItem
from cyclealign.types import Exchange, PolicyVersion, Ranking

TokenScores = list[list[list[float]]]  # for each exchange and response the log p of every token, in nats


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """``samples``: the policy's own replies, over which the divergence from ``policy.start`` is estimated."""

    name: str
    policy: NamedPolicy
    items: Sequence[LabelledItem]
    samples: Mapping[str, Response] | None = None
    data: str = ""


def evaluate_likelihood(job: Likelihood, *, seed: int) -> Result:
    """Preference accuracy by mean log-likelihood, NLL a token of the best and the other responses, KL to the start.

    Raises:
        UserError: a model that cannot be loaded.
    """
    labelled: list[Exchange] = [(i.set.prompt.messages, i.set.candidates) for i in job.items]
    samples: list[Exchange] = [(r.prompt.messages, [r.candidate]) for r in (job.samples or {}).values() if r.text]
    # One model at a time: both together may not fit.
    own = token_scores(job.policy, [*labelled, *samples])
    scored, sampled = own[: len(labelled)], own[len(labelled) :]
    items = [_item(i, s) for i, s in zip(job.items, scored, strict=True)]
    values = [i.value for i in items if i.value is not None]
    metrics: dict[str, Figure] = {
        "items": len(items),
        "accuracy": share(math.fsum(values), len(values)),
        "nll_of_best": bootstrap_mean(_known(items, "nll_best"), seed=seed),
        "nll_of_others": bootstrap_mean(_known(items, "nll_others"), seed=seed),
    }
    if samples and job.policy.start is not None:
        version = PolicyVersion(name="start", base=job.policy.start)
        start = NamedPolicy(version=version, start=None, config=job.policy.config)
        metrics["kl_to_start"] = divergence(sampled, token_scores(start, samples), seed=seed)
    about = {"policy": job.name, "data": job.data, "start": job.policy.start}
    return make_result("likelihood", about=about, seed=seed, metrics=metrics, items=items, primary="accuracy")


def divergence(own: TokenScores, start: TokenScores, *, seed: int) -> dict[str, Figure]:
    """KL(policy, start model) in nats, estimated on replies that the policy itself sampled.

    ``per_reply``: mean of the summed log-ratio, unbiased where the replies are unfiltered samples at temperature 1 (at
    another temperature, or with top-p, it is that of the sampled distribution's replies and only a gauge).
    ``per_token``: the same over tokens. ``k3``: mean of r - 1 - log r with r = q/p a token, never negative and less
    noisy (Schulman 2020).
    """
    ratios = [[p - q for p, q in zip(a, b, strict=True)] for (a,), (b,) in zip(own, start, strict=True)]
    k3 = [k3_estimate(row) for row in ratios]
    return {
        "per_reply": bootstrap_mean([math.fsum(row) for row in ratios], seed=seed),
        "per_token": bootstrap_mean([fmean(row) for row in ratios], seed=seed),
        "k3": bootstrap_mean(k3, seed=seed),
    }


def k3_estimate(ratios: Sequence[float]) -> float:
    """Mean of r - 1 - log r over a reply's tokens; ``ratios``: log p - log q of each, in nats."""
    return fmean(math.expm1(-d) + d for d in ratios)


def _item(item: LabelledItem, scored: Sequence[Sequence[float]]) -> Item:
    means = {c.id: fmean(tokens) for c, tokens in zip(item.set.candidates, scored, strict=True)}
    best = max(item.grades.values())
    others = [-means[i] for i, g in item.grades.items() if g != best]
    ranking = Ranking.from_scores(item.set.prompt.id, means)
    return Item(
        key=item_key(item.set),
        id=item.id,
        subset=item.subset,
        value=credit(ranking, item.grades) if item.decided else None,
        prompt=item.set.prompt.messages[-1]["content"],
        responses={c.id: c.text for c in item.set.candidates},
        grades=dict(item.grades),
        tiers=ranking.tiers,
        scores=means,
        values={
            "nll_best": fmean(-means[i] for i, g in item.grades.items() if g == best),
            "nll_others": fmean(others) if others else None,
        },
    )


def _known(items: Sequence[Item], name: str) -> list[float]:
    return [value for i in items if (value := i.values[name]) is not None]


def token_scores(policy: NamedPolicy, exchanges: Sequence[Exchange]) -> TokenScores:
    """The policy's log p of every token of every response. UserError where it cannot be loaded."""
    from cyclealign.models.policy_scorer import load_policy_scorer

    base = policy.version.base if policy.version.adapter else None
    scorer = load_policy_scorer(policy.weights, exchanges, base=base, config=policy.config)
    return [[row.tolist() for row in rows] for rows in scorer(exchanges)]
