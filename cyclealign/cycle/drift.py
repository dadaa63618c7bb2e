"""Which drift limit an evaluation crosses, and which interaction is kept: pure rules on metrics."""

from __future__ import annotations

from collections.abc import Mapping

from cyclealign.config.keeping import KeepRule
from cyclealign.config.schema import DriftConfig
from cyclealign.files.run_figures import Metrics


def drift_broken(limits: DriftConfig, evaluations: Mapping[int, Metrics], trained: int) -> str | None:
    """Which limit the evaluation after ``trained`` interactions crosses against the start model, or None. That no reply
    has an answer ends a run at its start model already."""
    now, start = evaluations.get(trained), evaluations.get(0)
    if now is not None and not now.replies and now.unfinished:
        return (
            f"no reply has an answer: {now.unfinished} never left their thinking (generator.thinking.max_tokens closes"
            " it for them)"
        )
    if now is None or start is None or trained == 0 or not start.replies:
        return None
    if not now.replies:
        return "all replies are empty"
    # Both have replies, and so an NLL.
    rise = (now.nll_start or 0.0) / (start.nll_start or 1e-9) - 1
    ratio = now.mean_words / max(start.mean_words, 1e-9)
    variety = now.distinct2 / max(start.distinct2, 1e-9)
    if limits.max_nll_rise is not None and rise > limits.max_nll_rise:
        return f"NLL under the start model rose by {rise:.1%} (drift.max_nll_rise {limits.max_nll_rise:.1%})"
    if limits.max_length_ratio is not None and not 1 / limits.max_length_ratio <= ratio <= limits.max_length_ratio:
        return f"replies are {ratio:.2f} times as long (drift.max_length_ratio {limits.max_length_ratio})"
    if limits.min_distinct2 is not None and variety < limits.min_distinct2:
        return f"distinct-2 fell to {variety:.1%} of the start model's (drift.min_distinct2 {limits.min_distinct2:.1%})"
    return None


def kept_interaction(
    rule: KeepRule, limits: DriftConfig, evaluations: Mapping[int, Metrics], trained: int
) -> tuple[int, str]:
    """How many interactions the kept model has been trained for, and why. Labels never choose.

    ``best``: of those within the drift limits, the one that the witness scores highest on the choosing half.
    ``within_limits``: the latest of them; also where the witness has scored nothing. ``last``: the last one trained.
    """
    if rule == "last" or not evaluations:
        return trained, "last interaction"
    within = [n for n in evaluations if drift_broken(limits, evaluations, n) is None]
    rewards = {n: reward for n in within if (reward := evaluations[n].reward_choosing) is not None}
    if rule == "within_limits" or not rewards:
        return max(within, default=0), "latest interaction within the drift limits"
    best = max(rewards, key=lambda n: (rewards[n], -n))
    return best, (
        f"highest score of the witness ({evaluations[best].scorer}) on the choosing half within the drift limits"
        f" ({rewards[best]:.4f})"
    )
