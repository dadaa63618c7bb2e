"""Several runs on one self-contained page: their figures, charts over each other, differences and replies side by side.

The page keeps the promises of a single run's (``reporting.page``): no script, no request, everything escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from cyclealign.evaluation.statistics import Estimate, paired_difference
from cyclealign.files.atomic import write_atomic
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_sets
from cyclealign.reporting.charts import BarChart, Line, LineChart
from cyclealign.reporting.figures import Facts, read_facts
from cyclealign.reporting.forest import forest_plot
from cyclealign.reporting.frame import Part, page
from cyclealign.reporting.grids import Grid
from cyclealign.reporting.headline import Headline, headline
from cyclealign.reporting.markup import Html, join, table, tag
from cyclealign.reporting.run_charts import charts_of, drawn
from cyclealign.reporting.samples import conversation, replies
from cyclealign.types import UserError

PROMPTS = 12  # with the replies of all runs side by side
MOST = 6  # runs on one page: as many lines can be told apart in grey
# Charts that are laid over each other: key, line and the title where the line is one of several.
OVERLAID = (
    ("reward", "reporting half", None),
    ("agreement-corrected", "chance-corrected agreement", None),
    ("accuracy", "white box", "White box on labelled pairs"),
    ("accuracy", "black box", "Black box on labelled pairs"),
    ("drift-nll-start", "this run", None),
    ("drift-mean-words", "this run", None),
    ("drift-distinct2", "this run", None),
    ("loss", "loss", None),
)


@dataclass(frozen=True)
class Column:
    """One run: the name that it has on the page, what its files say, and its charts by key."""

    name: str
    run: RunDir
    facts: Facts
    figures: Headline
    charts: Mapping[str, LineChart | BarChart | Grid]


def columns_of(runs: Sequence[RunDir]) -> list[Column]:
    """The runs with names of their own: the directory's, with as much of its path as tells it from the others.

    Raises:
        UserError: fewer than two runs, more than ``MOST``, or one twice.
    """
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError("report: the same run is named twice")
    if not 2 <= len(runs) <= MOST:
        raise UserError(f"report: compares 2 to {MOST} runs, got {len(runs)}")
    return [_column(_name(path, paths), run) for path, run in zip(paths, runs, strict=True)]


def _column(name: str, run: RunDir) -> Column:
    facts = read_facts(run)
    return Column(name, run, facts, headline(run), {chart.key: chart for chart in charts_of(run, facts)})


def _name(path: Path, others: Sequence[Path]) -> str:
    for n in range(1, len(path.parts) + 1):
        tails = Counter(p.parts[-n:] for p in others)
        if tails[path.parts[-n:]] == 1:
            return str(Path(*path.parts[-n:]))
    return str(path)


def write_comparison(path: Path, columns: Sequence[Column]) -> Path:
    """Write the page, whole or not at all. UserError where it cannot be written."""
    try:
        write_atomic(path, render_comparison(columns))
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror}") from error
    return path


def render_comparison(columns: Sequence[Column]) -> str:
    """The page as text."""
    title = f"{len(columns)} runs compared"
    return page(title, f"{title}: cyclealign", [_status(columns)], _sections(columns))


def _status(columns: Sequence[Column]) -> Html:
    return join(
        tag("p", tag("b", c.name), f": {c.figures.status}. Spend: {c.figures.spend}.", class_="note") for c in columns
    )


def _sections(columns: Sequence[Column]) -> Iterator[Part]:
    yield "Figures", "figures", _figures(columns)
    yield "Differences between runs", "differences", _differences(columns)
    charts: list[LineChart | BarChart] = [*_overlaid(columns), *_times(columns)]
    yield "Charts", "charts", tag("div", *map(drawn, charts), class_="charts") if charts else None
    yield "Replies side by side", "samples", _samples(columns)
    yield "Configuration, where it differs", "config", _settings(columns)


def _figures(columns: Sequence[Column]) -> Html | None:
    """One table a measure: start, kept, change and interval of each run; and the change in reward as a plot."""
    measures = list(dict.fromkeys(row.measure for c in columns for row in c.figures.rows))
    if not measures:
        return None
    found = {(c.name, row.measure): row for c in columns for row in c.figures.rows}
    head = ["run", "start", "kept", "change", "95% interval"]
    tables = [
        join([tag("h3", m), table(head, [(c.name, *found[c.name, m].text) for c in columns if (c.name, m) in found])])
        for m in measures
    ]
    return join([*_reward_plot(columns), *tables])


def _reward_plot(columns: Sequence[Column]) -> list[Html]:
    changes = []
    for c in columns:
        row = next((r for r in c.figures.rows if r.measure.startswith("reward") and r.change is not None), None)
        if row is not None and row.change is not None:
            estimate = Estimate(row.change, row.low, row.high, c.figures.prompts)
            changes.append((c.name, estimate))
    if not changes:
        return []
    return [
        tag("div", forest_plot("changes", "change in reward with 95% intervals", changes, rule=0.0), class_="charts")
    ]


def differences(columns: Sequence[Column]) -> list[tuple[str, str, Estimate]]:
    """Kept reward of the second run less the first's, paired over the reporting prompts that both have.

    Rows: first, second, and the difference. Pairs of runs with other scorers, without a reward, or without a common
    prompt are left out.
    """
    rows = []
    for first, second in combinations(columns, 2):
        a, b = _kept_rewards(first.facts), _kept_rewards(second.facts)
        common = [i for i in a if i in b]
        gap = paired_difference([a[i] for i in common], [b[i] for i in common])
        if gap is not None and _scorer(first.facts) == _scorer(second.facts):
            rows.append((first.name, second.name, gap))
    return rows


def ends(gap: Estimate) -> str:
    """The interval, for people."""
    return f"{gap.interval[0]:+.4f} to {gap.interval[1]:+.4f}" if gap.interval else "no interval"


def _kept_rewards(facts: Facts) -> dict[str, float]:
    found = facts.rewards(facts.compared)
    return {i: found[i] for i in facts.halves.reporting(found)}


def _scorer(facts: Facts) -> str | None:
    return facts.evaluations[0].scorer if 0 in facts.evaluations else None


def _differences(columns: Sequence[Column]) -> Html | None:
    rows = [
        (f"{second} − {first}", f"{gap.value:+.4f}", ends(gap), gap.n) for first, second, gap in differences(columns)
    ]
    if not rows:
        return None
    note = (
        "Kept reward, paired over the prompts of the reporting half that both runs were evaluated on; intervals are"
        " not corrected for the number of pairs (cyclealign eval compare tests them with Holm's correction)."
    )
    return join([table(["runs", "difference", "95% interval", "prompts"], rows), tag("p", note, class_="note")])


def _overlaid(columns: Sequence[Column]) -> Iterator[LineChart]:
    for key, name, title in OVERLAID:
        own = [(c.name, chart) for c in columns if isinstance(chart := c.charts.get(key), LineChart)]
        lines = tuple(
            Line(run, line.points, line.intervals) for run, chart in own for line in chart.lines if line.name == name
        )
        if len(lines) > 1:
            first = own[0][1]
            rules = tuple(rule for rule in first.rules if all(rule in chart.rules for _, chart in own))
            whole = key if title is None else f"{key}-{name.replace(' ', '-')}"
            yield replace(first, key=whole, title=title or first.title, lines=lines, rules=rules, mark=None)


def _times(columns: Sequence[Column]) -> Iterator[BarChart]:
    """Time and spend of each run as one bar, stacked by stage."""
    for key in ("spend", "time"):
        found = [(c.name, chart) for c in columns if isinstance(chart := c.charts.get(key), BarChart)]
        if found and len({chart.y_label for _, chart in found}) == 1:
            parts = tuple(dict.fromkeys(part for _, chart in found for part in chart.parts))
            bars = tuple((name, tuple(_total(chart, part) for part in parts)) for name, chart in found)
            yield replace(found[0][1], x_label="run", parts=parts, bars=bars, note="")


def _total(chart: BarChart, part: str) -> float:
    if part not in chart.parts:
        return 0.0
    return sum(values[chart.parts.index(part)] for _, values in chart.bars)


def _samples(columns: Sequence[Column]) -> Html | None:
    """Kept replies of all runs to the first reporting prompts that all were evaluated on."""
    sets = [
        {} if c.facts.compared is None else read_sets(c.run.evaluation(c.facts.compared) / "candidates.jsonl")
        for c in columns
    ]
    common = [i for i in sets[0] if all(i in own for own in sets[1:])]
    reporting = columns[0].facts.halves.reporting(common)
    if not reporting:
        return None
    articles = []
    for i in reporting[:PROMPTS]:
        shown = [replies(c.name, own[i], c.facts, c.facts.compared or 0) for c, own in zip(columns, sets, strict=True)]
        articles.append(tag("article", conversation(sets[0][i].prompt.messages), tag("div", *shown, class_="pair")))
    return join(articles)


def _settings(columns: Sequence[Column]) -> Html | None:
    """Keys of the resolved configurations that are not the same in all runs."""
    flat = [dict(c.facts.settings.leaves) for c in columns]
    keys = list(dict.fromkeys(key for own in flat for key in own))
    rows = [(key, *(own.get(key, "") for own in flat)) for key in keys if len({own.get(key) for own in flat}) > 1]
    return table(["key", *(c.name for c in columns)], rows) if rows else tag("p", "The same in all runs.")
