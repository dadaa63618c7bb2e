"""What looks wrong in a run's own figures while nothing has failed: each with its figure, its limit, and in words.

An alarm ends nothing (the limits of ``drift`` do): it says where to look before the figures are believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Metrics, Summary
from cyclealign.reporting.figures import Facts, read_facts, reward_change
from cyclealign.reporting.settings import Settings

Name = Literal["length", "kl", "repetition", "judge_is_scorer", "witness"]
LENGTH = 1.5  # times as long, or as short, as the start model's replies
NLL_CHANGE = 0.2  # of the NLL of the replies under the start model, up or down
DISTINCT2 = 0.8  # of the start model's distinct-2
AGREEMENT_RISE = 0.05  # of the agreement beyond chance, between the first and the last interaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """``figure`` is beyond ``limit``; ``sentence`` says of what, and what it may mean."""

    name: Name
    figure: float
    limit: float
    sentence: str


def alarms(run: RunDir, facts: Facts) -> tuple[Alarm, ...]:
    """Of a run's latest evaluation against its start model, and of who judges whom."""
    summaries = [read_record(Summary, i.summary) for i in run.interactions() if i.summary.exists()]
    latest = max(facts.evaluations, default=0)
    found = list(judge_alarms(facts.settings))
    if latest > 0 and 0 in facts.evaluations:
        found += drift_alarms(facts.evaluations[0], facts.evaluations[latest], latest)
        found += witness_alarms(facts, summaries, latest)
    return tuple(found)


def alarm_line(alarm: Alarm) -> str:
    """For people."""
    return f"alarm: {alarm.sentence}"


def alarm_lines(run: RunDir) -> list[str]:
    """All of a run's, a line each."""
    return list(map(alarm_line, alarms(run, read_facts(run))))


def drift_alarms(start: Metrics, now: Metrics, trained: int) -> Iterator[Alarm]:
    """Length, divergence and repetition of the replies after ``trained`` interactions."""
    then = f"after {trained} interactions"
    if start.replies == 0 or now.replies == 0:
        return
    ratio = now.mean_words / max(start.mean_words, 1e-9)
    if not 1 / LENGTH <= ratio <= LENGTH:
        limit = LENGTH if ratio > 1 else 1 / LENGTH
        yield Alarm(
            name="length",
            figure=ratio,
            limit=limit,
            sentence=f"replies are {ratio:.2f} times as long as the start model's {then} (alarm beyond {limit:.2f}):"
            " judges and scorers may like the length itself",
        )
    if start.nll_start and now.nll_start is not None:
        change = now.nll_start / start.nll_start - 1
        if abs(change) > NLL_CHANGE:
            yield Alarm(
                name="kl",
                figure=change,
                limit=NLL_CHANGE if change > 0 else -NLL_CHANGE,
                sentence=f"the NLL of replies under the start model changed by {change:+.1%} {then} (alarm beyond"
                f" {NLL_CHANGE:.0%}): the policy is far from where it began, in KL too",
            )
    variety = now.distinct2 / max(start.distinct2, 1e-9)
    if variety < DISTINCT2:
        yield Alarm(
            name="repetition",
            figure=variety,
            limit=DISTINCT2,
            sentence=f"distinct-2 fell to {variety:.1%} of the start model's {then} (alarm below {DISTINCT2:.0%}):"
            " replies repeat themselves or each other",
        )


def witness_alarms(facts: Facts, summaries: Sequence[Summary], trained: int) -> Iterator[Alarm]:
    """The rankers agree more while the scorer that takes no part finds the replies worse: they may share a fault."""
    ranked = [s.agreement_corrected for s in summaries if s.ranked]
    change = reward_change(facts, trained)
    if len(ranked) < 2 or change is None or (interval := change[3]) is None:
        return
    rise, fall = ranked[-1] - ranked[0], change[2]
    if rise > AGREEMENT_RISE and interval[1] < 0:
        yield Alarm(
            name="witness",
            figure=fall,
            limit=0.0,
            sentence=f"the agreement beyond chance rose by {rise:.3f}, while the scorer of the evaluations fell by"
            f" {-fall:.4f} after {trained} interactions (95% interval {interval[0]:+.4f} to {interval[1]:+.4f}):"
            " the policy may have learned what deceives the judge",
        )


def judge_alarms(settings: Settings) -> Iterator[Alarm]:
    """The evaluation's scorer is the judge: it cannot tell that the judge is wrong."""
    keys = dict(settings.leaves)
    scorer = settings.witness or "None"
    backend = keys.get("black_box.cascade.judge", keys.get("black_box.backend", "None"))
    kind, _, place = scorer.partition(":")
    own = keys.get("black_box.model" if kind == "openai" else "black_box.path", "None").replace("None", "")
    if scorer != "None" and (place == own if kind == backend else place == own != ""):
        yield Alarm(
            name="judge_is_scorer",
            figure=1.0,
            limit=0.0,
            sentence=f"the scorer of the evaluations ({scorer}) is the judge itself: a gain by it shows no more than"
            " that the policy pleases it; name another one in cycle.witness",
        )
