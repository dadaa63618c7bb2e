"""The charts of a run, each from the records of its directory; one without records is not there.

The horizontal axis is the number of interactions that the policy has been trained for. Interaction n (directory
``interactions/000n``) samples, ranks and agrees with that policy, and evaluation n (``evaluations/000n``) measures it;
so charts of both kinds stand at the same n.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from cyclealign.agreement import expected_lcs
from cyclealign.reporting.charts import BarChart, Line, LineChart, bar_chart, line_chart
from cyclealign.reporting.figures import Facts, mean_interval, reward_change, spending, wilson
from cyclealign.reporting.markup import Html
from cyclealign.run_dir import RunDir, read_jsonl

TRAINED = "interactions trained"
STAGES = ("generate_and_rank", "white_box", "train", "evaluate")  # in the order of their bars; others above
LOSS_POINTS = 300  # a longer training log is averaged over consecutive rows


def run_charts(run: RunDir, facts: Facts) -> list[Html]:
    """All charts that the run has records for."""
    found: list[LineChart | BarChart | None] = [
        reward_chart(facts),
        *agreement_charts(run, facts),
        accuracy_chart(facts),
        *drift_charts(facts),
        loss_chart(run),
        spend_chart(run, facts),
        time_chart(run),
    ]
    return [line_chart(c) if isinstance(c, LineChart) else bar_chart(c) for c in found if c is not None]


def reward_chart(facts: Facts) -> LineChart | None:
    """Mean reward on the reporting half; the interval of the paired change since the start, set on the start."""
    points, intervals = [], []
    for trained in sorted(facts.evaluations):
        found = reward_change(facts, trained)
        if found is not None:
            start, reward, _, interval = found
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
        note="Band: paired bootstrap 95% interval of the change since the start, over prompts. The choosing half picks"
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


def loss_chart(run: RunDir) -> LineChart | None:
    """Every logged training loss, over optimiser steps."""
    rows = [r for i in run.interactions() for r in read_jsonl(i.train_log) if "loss" in r]
    if not rows:
        return None
    points = [(float(r.get("step", n + 1)), float(r["loss"])) for n, r in enumerate(rows)]
    size = math.ceil(len(points) / LOSS_POINTS)
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    means = tuple((g[-1][0], sum(y for _, y in g) / len(g)) for g in groups)
    return LineChart(
        key="loss",
        title="Training loss",
        x_label="optimiser steps",
        y_label="mean loss of a list",
        lines=(Line("loss", means),),
        note=f"Each point is the mean of {size} logged rows." if size > 1 else "",
    )


def spend_chart(run: RunDir, facts: Facts) -> BarChart | None:
    """Money by interaction; tokens where no call had a price."""
    found = spending(run)
    if isinstance(found, str) or not found[0].calls:
        return None
    total, by_interaction, _ = found
    groups = sorted(by_interaction.items(), key=lambda item: -1 if item[0] is None else item[0])
    labelled = any(m.get("black_box_accuracy") for m in facts.evaluations.values())
    money = total.usd + total.reserved_usd > 0
    parts = ("answered", "without a reply, at most") if money else ("input", "output")
    return BarChart(
        key="spend",
        title="Spend by interaction",
        x_label="interaction",
        y_label="USD" if money else "tokens (no price given)",
        parts=parts,
        bars=tuple(
            ("probe" if n is None else str(n), (s.usd, s.reserved_usd) if money else (s.input_tokens, s.output_tokens))
            for n, s in groups
        ),
        note="Labelled pairs of evaluation n are counted with interaction n." if labelled else "",
    )


def time_chart(run: RunDir) -> BarChart | None:
    """Minutes per stage; evaluation n, which comes before interaction n, stands in its bar."""
    seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in read_jsonl(run.timings):
        seconds[row["interaction"]][row["stage"]] += row["seconds"]
    if not seconds:
        return None
    stages = list(dict.fromkeys([*STAGES, *(stage for s in seconds.values() for stage in s)]))
    unit, size = ("minutes", 60.0) if max(sum(s.values()) for s in seconds.values()) >= 120 else ("seconds", 1.0)
    return BarChart(
        key="time",
        title="Time by stage",
        x_label="interaction",
        y_label=unit,
        parts=tuple(s.replace("_", " ") for s in stages),
        bars=tuple((str(n), tuple(seconds[n][stage] / size for stage in stages)) for n in sorted(seconds)),
        note="Evaluation n, of the policy that interaction n starts from, stands in bar n. A stage that a kill cut"
        " short is not counted.",
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
