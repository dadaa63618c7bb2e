"""The charts of a run, each from the records of its directory; one without records is not there.

The horizontal axis is the number of interactions that the policy has been trained for. Interaction n (directory
``interactions/000n``) samples, ranks and agrees with that policy, and evaluation n (``evaluations/000n``) measures it;
so charts of both kinds stand at the same n.
"""

from __future__ import annotations

from collections.abc import Iterator

from cyclealign.evaluation.intervals import wilson
from cyclealign.files.jsonl import read_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.rankers.chance import expected_lcs
from cyclealign.reporting.charts import BarChart, Line, LineChart, bar_chart, line_chart
from cyclealign.reporting.figures import Facts, mean_interval, reward_change
from cyclealign.reporting.grids import Grid, grid
from cyclealign.reporting.loss_charts import loss_charts
from cyclealign.reporting.markup import Html
from cyclealign.reporting.ranking_charts import confusion_grids, position_chart
from cyclealign.reporting.spend import spend_chart, time_chart

TRAINED = "interactions trained"


def run_charts(run: RunDir, facts: Facts) -> list[Html]:
    """All charts that the run has records for, drawn."""
    return [drawn(chart) for chart in charts_of(run, facts)]


def charts_of(run: RunDir, facts: Facts) -> list[LineChart | BarChart | Grid]:
    """All charts that the run has records for."""
    found: list[LineChart | BarChart | Grid | None] = [
        reward_chart(facts),
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
    choosing = _measured(facts, "reward_choosing")
    return LineChart(
        key="reward",
        title="Reward on held-out prompts",
        x_label=TRAINED,
        y_label=f"mean score ({facts.evaluations[0]['scorer']})",
        lines=(Line("reporting half", tuple(points), tuple(intervals)), Line("choosing half", choosing)),
        rules=(("start", points[0][1]),),
        mark=_kept(facts),
        note="Band: 95% interval of the change since the start, paired over prompts. The choosing half picks"
        " the kept model, the reporting half is what is reported.",
    )


def agreement_charts(run: RunDir, facts: Facts) -> Iterator[LineChart]:
    """The longest common subsequence of both rankings, as a share of the list, and corrected for chance."""
    raw, chance, corrected = [], [], []
    for interaction in run.interactions():
        records = list(read_jsonl(interaction.agreement))
        if records:
            n = float(interaction.path.name)
            raw.append((n, mean_interval([r["length"] / r["k"] for r in records])))
            chance.append((n, sum(expected_lcs(r["k"]) / r["k"] for r in records) / len(records)))
            corrected.append((n, mean_interval([r["corrected"] for r in records])))
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
        rules=(("chance", 0.0), *_limit(facts, "demonstrations", "gate", "gate for a prompt")),
        note=note,
    )


def accuracy_chart(facts: Facts) -> LineChart | None:
    """Share of labelled pairs that each ranker orders as labelled, with Wilson intervals."""
    lines = []
    for name, key in (("white box", "white_box_accuracy"), ("black box", "black_box_accuracy")):
        found = [(n, m[key]) for n, m in sorted(facts.evaluations.items()) if m.get(key)]
        if found:
            points = tuple((float(n), float(a["accuracy"])) for n, a in found)
            lines.append(Line(name, points, tuple(wilson(a["accuracy"], a["ranked"]) for _, a in found)))
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
    limits = facts.config.get("drift") or {}
    rise, ratio, variety = (limits.get(k) for k in ("max_nll_rise", "max_length_ratio", "min_distinct2"))
    rules = {
        "nll_start": [("limit", 1 + rise)] if rise is not None else [],
        "mean_words": [("limit", ratio), ("limit", 1 / ratio)] if ratio is not None else [],
        "distinct2": [("limit", variety)] if variety is not None else [],
    }
    for key, title in (
        ("nll_start", "Drift: NLL of new replies under the start model"),
        ("mean_words", "Drift: length of replies"),
        ("distinct2", "Drift: distinct-2 of replies"),
    ):
        first = facts.evaluations.get(0, {}).get(key)
        if first and len(facts.evaluations) > 1:
            points = tuple((n, value / first) for n, value in _measured(facts, key))
            yield LineChart(
                key=f"drift-{key.replace('_', '-')}",
                title=title,
                x_label=TRAINED,
                y_label="relative to the start model",
                lines=(Line("this run", points),),
                rules=(("start", 1.0), *rules[key]),
                mark=_kept(facts),
            )


def _measured(facts: Facts, key: str) -> tuple[tuple[float, float], ...]:
    found = [(float(n), m.get(key)) for n, m in sorted(facts.evaluations.items())]
    return tuple((n, float(y)) for n, y in found if y is not None)


def _with_intervals(name: str, found: list[tuple[float, tuple[float, tuple[float, float] | None]]]) -> Line:
    return Line(name, tuple((x, mean) for x, (mean, _) in found), tuple(interval for _, (_, interval) in found))


def _kept(facts: Facts) -> tuple[str, float] | None:
    return ("kept", float(facts.kept["trained"])) if facts.kept and facts.kept["trained"] in facts.evaluations else None


def _limit(facts: Facts, section: str, key: str, name: str) -> list[tuple[str, float]]:
    value = (facts.config.get(section) or {}).get(key)
    return [] if value is None else [(name, float(value))]
