"""The charts of a run, each from the records of its directory; one without records is not there.

The horizontal axis is the number of interactions that the policy has been trained for. Interaction n (directory
``interactions/000n``) samples, ranks and agrees with that policy, and evaluation n (``evaluations/000n``) measures it;
so charts of both kinds stand at the same n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cyclealign.evaluation.intervals import wilson
from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Accuracy, Metrics
from cyclealign.rankers.agreement import Agreement
from cyclealign.rankers.chance import expected_lcs
from cyclealign.reporting.charts import BarChart, Line, LineChart, bar_chart, line_chart
from cyclealign.reporting.figures import Facts, mean_interval, reward_change
from cyclealign.reporting.grids import Grid, grid
from cyclealign.reporting.loss_charts import loss_charts
from cyclealign.reporting.markup import Html
from cyclealign.reporting.ranking_charts import confusion_grids, position_chart
from cyclealign.reporting.spend import spend_chart, time_chart

TRAINED = "interactions trained"
Measure = Callable[[Metrics], float | None]


def run_charts(run: RunDir, facts: Facts) -> list[Html]:
    """All charts that the run has records for, drawn."""
    return [drawn(chart) for chart in charts_of(run, facts)]


def charts_of(run: RunDir, facts: Facts) -> list[LineChart | BarChart | Grid]:
    """All charts that the run has records for."""
    found: list[LineChart | BarChart | Grid | None] = [
        reward_chart(facts),
        witness_chart(facts),
        *agreement_charts(run, facts),
        accuracy_chart(facts),
        *confusion_grids(run),
        position_chart(run, facts),
        *drift_charts(facts),
        *loss_charts(run),
        spend_chart(run),
        time_chart(run),
    ]
    return [c for c in found if c is not None]


def drawn(chart: LineChart | BarChart | Grid) -> Html:
    """The figure of a chart."""
    if isinstance(chart, Grid):
        return grid(chart)
    return line_chart(chart) if isinstance(chart, LineChart) else bar_chart(chart)


def reward_chart(facts: Facts) -> LineChart | None:
    """Mean reward on the reporting half; the interval of the paired change since the start, set on the start."""
    points, intervals = [], []
    for trained in sorted(facts.evaluations):
        found = reward_change(facts, trained)
        if found is not None:
            start, reward, _, interval = found
            interval = interval if trained else (0.0, 0.0)  # the start differs from itself by nothing
            points.append((float(trained), reward))
            intervals.append((start + interval[0], start + interval[1]) if interval else None)
    if not points:
        return None
    choosing = _measured(facts, lambda m: m.reward_choosing)
    return LineChart(
        key="reward",
        title="Reward on held-out prompts",
        x_label=TRAINED,
        y_label=f"mean score ({facts.evaluations[0].scorer})",
        lines=(Line("reporting half", tuple(points), tuple(intervals)), Line("choosing half", choosing)),
        rules=(("start", points[0][1]),),
        mark=_kept(facts),
        note="Band: 95% interval of the change since the start, paired over prompts. The choosing half picks"
        " the kept model, the reporting half is what is reported.",
    )


def witness_chart(facts: Facts) -> LineChart | None:
    """What a run's witness rule looks at: on how many prompts of the choosing half the witness and the ranker each put
    the new replies above the start model's; nothing without either."""
    start = facts.rewards(0)
    witness, ranker = [], []
    for n, metrics in sorted(facts.evaluations.items()):
        ids = facts.halves.choosing(i for i in start if i in metrics.rewards)
        witness.append((float(n), [metrics.rewards[i] - start[i] for i in ids]))
        ranker.append((float(n), list((metrics.ranker_by_prompt or {}).values())))
    name = facts.evaluations[0].scorer if 0 in facts.evaluations else None
    lines = [
        _above(said, [(n, gains) for n, gains in found if gains])
        for said, found in ((f"witness ({name})", witness), (f"ranker ({facts.judge})", ranker))
    ]
    if not all(line.points for line in lines):
        return None
    return LineChart(
        key="witness",
        title="Witness and ranker",
        x_label=TRAINED,
        y_label="share of prompts above the start model",
        lines=tuple(lines),
        rules=(("start", 0.5),),
        mark=_kept(facts),
        note="On the half that chooses; a tie counts half. Bars: Wilson 95% intervals. A ranker that rises while the"
        " witness falls is being deceived; drift.keep: best then ends the run.",
    )


def _above(name: str, found: list[tuple[float, list[float]]]) -> Line:
    """Shares of gains above 0, with their intervals; of the start model against itself one half, by definition."""
    shares = [(n, sum((gain > 0) + (gain == 0) / 2 for gain in gains) / len(gains), len(gains)) for n, gains in found]
    intervals = tuple(wilson(share, size) if n else (share, share) for n, share, size in shares)
    return Line(name, tuple((n, share) for n, share, _ in shares), intervals)


def agreement_charts(run: RunDir, facts: Facts) -> Iterator[LineChart]:
    """The longest common subsequence of both rankings, as a share of the list, and corrected for chance."""
    raw, chance, corrected = [], [], []
    for interaction in run.interactions():
        found = list(read_records(Agreement, interaction.agreement))
        if found:
            n = float(interaction.path.name)
            raw.append((n, mean_interval([a.length / a.k for a in found])))
            chance.append((n, sum(expected_lcs(a.k) / a.k for a in found) / len(found)))
            corrected.append((n, mean_interval([a.corrected for a in found])))
    if not raw:
        return
    note = "Band: 95% interval of the mean over prompts. Prompts that are settled leave the batch."
    yield LineChart(
        key="agreement",
        title="Agreement of black box and white box",
        x_label=TRAINED,
        y_label="LCS / candidates",
        lines=(_with_intervals("agreement", raw), Line("by chance", tuple(chance))),
        note=note,
    )
    yield LineChart(
        key="agreement-corrected",
        title="Agreement beyond chance",
        x_label=TRAINED,
        y_label="(LCS − E[LCS]) / (K − E[LCS])",
        lines=(_with_intervals("chance-corrected agreement", corrected),),
        rules=(("chance", 0.0), *_limit("gate for a prompt", facts.settings.gate)),
        note=note,
    )


def accuracy_chart(facts: Facts) -> LineChart | None:
    """Share of labelled pairs that each ranker orders as labelled, with Wilson intervals."""
    lines = []
    by_box: tuple[tuple[str, Callable[[Metrics], Accuracy | None]], ...] = (
        ("white box", lambda m: m.white_box_accuracy),
        ("black box", lambda m: m.black_box_accuracy),
    )
    for name, of in by_box:
        found = [(float(n), a) for n, m in sorted(facts.evaluations.items()) if (a := of(m)) is not None]
        if found:
            points = tuple((n, a.accuracy) for n, a in found)
            lines.append(Line(name, points, tuple(wilson(a.accuracy, a.ranked) for _, a in found)))
    if not lines:
        return None
    return LineChart(
        key="accuracy",
        title="Both rankers on labelled pairs",
        x_label=TRAINED,
        y_label="share ordered as labelled",
        lines=tuple(lines),
        rules=(("chance", 0.5),),
        note="Bars: Wilson 95% intervals. A tie counts half; pairs without a verdict are left out.",
    )


def drift_charts(facts: Facts) -> Iterator[LineChart]:
    """What must not run away, relative to the start model, with the limits of the config's ``drift`` section."""
    rise, ratio = facts.settings.max_nll_rise, facts.settings.max_length_ratio
    drifts: tuple[tuple[str, str, Measure, list[tuple[str, float]]], ...] = (
        (
            "nll-start",
            "NLL of new replies under the start model",
            lambda m: m.nll_start,
            _limit("limit", None if rise is None else 1 + rise),
        ),
        (
            "mean-words",
            "length of replies",
            lambda m: m.mean_words,
            [] if ratio is None else [("limit", ratio), ("limit", 1 / ratio)],
        ),
        ("distinct2", "distinct-2 of replies", lambda m: m.distinct2, _limit("limit", facts.settings.min_distinct2)),
    )
    for key, title, of, limits in drifts:
        first = of(facts.evaluations[0]) if 0 in facts.evaluations else None
        if first and len(facts.evaluations) > 1:
            yield LineChart(
                key=f"drift-{key}",
                title=f"Drift: {title}",
                x_label=TRAINED,
                y_label="relative to the start model",
                lines=(Line("this run", tuple((n, value / first) for n, value in _measured(facts, of))),),
                rules=(("start", 1.0), *limits),
                mark=_kept(facts),
            )


def _measured(facts: Facts, of: Measure) -> tuple[tuple[float, float], ...]:
    found = [(float(n), of(m)) for n, m in sorted(facts.evaluations.items())]
    return tuple((n, y) for n, y in found if y is not None)


def _with_intervals(name: str, found: list[tuple[float, tuple[float, tuple[float, float] | None]]]) -> Line:
    return Line(name, tuple((x, mean) for x, (mean, _) in found), tuple(interval for _, (_, interval) in found))


def _kept(facts: Facts) -> tuple[str, float] | None:
    return ("kept", float(facts.kept.trained)) if facts.kept and facts.kept.trained in facts.evaluations else None


def _limit(name: str, value: float | None) -> list[tuple[str, float]]:
    return [] if value is None else [(name, value)]
