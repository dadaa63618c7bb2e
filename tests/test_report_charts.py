"""The report's charts against their data: every line is read back through the axes that are drawn beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import Node, figure, page
from report_run import STAGES, hand_made_run

from cyclealign.chance import expected_lcs
from cyclealign.report import headline
from cyclealign.reporting.drawing import short, ticks
from cyclealign.reporting.figures import wilson
from cyclealign.run_dir import read_jsonl, write_jsonl


def axis(chart: Node, kind: str, coordinate: str) -> tuple[float, float]:
    """Slope and offset from user units to data, by least squares over the axis's own labels."""
    labels = chart.all("text", class_=kind)
    shift = 4 if kind == "y" else 0  # text is set 4 below its grid line, so that it looks centred
    at = [node.number(coordinate) - shift for node in labels]
    slope, offset = np.polyfit(at, [float(node.text.replace(",", "")) for node in labels], 1)
    return float(slope), float(offset)


def drawn_lines(chart: Node) -> list[list[tuple[float, float]]]:
    """The chart's lines, read back into data with the chart's own axes."""
    (ax, bx), (ay, by) = axis(chart, "x", "x"), axis(chart, "y", "y")
    lines = []
    for node in chart.all("polyline"):
        pairs = [p.split(",") for p in (node.attributes["points"] or "").split()]
        lines.append([(ax * float(x) + bx, ay * float(y) + by) for x, y in pairs])
    return lines


def near(expected: list[tuple[float, float]], tolerance: float) -> Any:
    return pytest.approx(np.asarray(expected), abs=tolerance)


def test_reward_chart_holds_the_data(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    metrics = run.evaluations()
    chart = figure(page(run), "reward")
    reporting, choosing = drawn_lines(chart)
    assert reporting == near([(n, metrics[n]["reward"]) for n in range(4)], 1e-3)
    assert choosing == near([(n, metrics[n]["reward_choosing"]) for n in range(4)], 1e-3)
    # The band: the change's interval, set on the start; of no width there.
    (ax, bx), (ay, by) = axis(chart, "x", "x"), axis(chart, "y", "y")
    outline = [p.split(",") for p in (chart.all("polygon")[0].attributes["points"] or "").split()]
    band = [(ax * float(x) + bx, ay * float(y) + by) for x, y in outline]
    row = headline(run)["rows"][0]
    assert band[0] == pytest.approx((0, row["start"]), abs=1e-3)
    assert band[2] == pytest.approx((2, row["start"] + row["low"]), abs=1e-3)
    assert band[-3] == pytest.approx((2, row["start"] + row["high"]), abs=1e-3)
    kept = chart.all("line", class_="mark")[0]
    assert ax * kept.number("x1") + bx == pytest.approx(2.0, abs=0.01)


def test_agreement_charts_hold_the_data_and_the_chance_line(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    root = page(run)
    records = [list(read_jsonl(i.agreement)) for i in run.interactions()]
    raw, chance = drawn_lines(figure(root, "agreement"))
    (corrected,) = drawn_lines(figure(root, "agreement-corrected"))
    assert raw == near([(n, np.mean([r["length"] / 4 for r in rs])) for n, rs in enumerate(records)], 1e-3)
    assert chance == near([(n, expected_lcs(4) / 4) for n in range(3)], 1e-3)
    assert corrected == near([(n, np.mean([r["corrected"] for r in rs])) for n, rs in enumerate(records)], 3e-3)


def test_accuracy_drift_and_loss_hold_the_data(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    root = page(run)
    white, black = drawn_lines(figure(root, "accuracy"))
    assert white == near([(n, 0.5 + 0.05 * n) for n in range(4)], 2e-3)
    assert black == near([(n, 0.75) for n in range(4)], 2e-3)
    low, high = wilson(0.75, 60)
    assert f"0.75 ({short(low)} to {short(high)})" in figure(root, "accuracy").all("table")[0].text
    (nll,) = drawn_lines(figure(root, "drift-nll-start"))
    assert nll == near([(n, 1 + 0.025 * n) for n in range(4)], 1e-3)
    assert [t.text for t in figure(root, "drift-mean-words").all("text", class_="ruled")] == ["start", "limit", "limit"]
    (loss,) = drawn_lines(figure(root, "loss"))
    assert loss == near([(s, 2.0 / s) for s in range(1, 31)], 0.02)


def test_a_long_training_log_is_averaged_and_says_so(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    for n in range(3):
        rows = [{"loss": float(s % 2), "step": 200.0 * n + s} for s in range(1, 201)]
        write_jsonl(run.interaction(n).train_log, rows)
    chart = figure(page(run), "loss")
    (loss,) = drawn_lines(chart)
    assert len(loss) == 300
    assert {round(y, 3) for _, y in loss} == {0.5}
    assert "mean of 2 logged rows" in chart.text


def test_loss_that_is_not_finite_is_left_out_of_the_drawing(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    write_jsonl(run.interaction(2).train_log, [{"loss": math.nan, "step": 21.0}, {"loss": 0.5, "step": 22.0}])
    chart = figure(page(run), "loss")
    (loss,) = drawn_lines(chart)
    assert [round(x) for x, _ in loss] == [*range(1, 21), 22]
    assert "nan" in chart.all("table")[0].text


def test_bars_hold_the_seconds_and_the_money(tmp_path: Path) -> None:
    root = page(hand_made_run(tmp_path))
    time, spend = figure(root, "time"), figure(root, "spend")
    slope, _ = axis(time, "y", "y")
    heights = [-slope * r.number("height") for r in time.all("svg")[0].all("rect")]
    expected = [s for n in range(3) for s in (*(t + n for t in STAGES.values()), 20.0 + n)] + [23.0]
    assert heights == pytest.approx(expected, abs=0.1)
    slope, _ = axis(spend, "y", "y")
    assert [-slope * r.number("height") for r in spend.all("svg")[0].all("rect")] == pytest.approx(
        [0.01, 0.01, 0.01, 0.002], abs=2e-5
    )


def test_every_chart_has_a_text_alternative_units_and_its_numbers(tmp_path: Path) -> None:
    root = page(hand_made_run(tmp_path))
    figures = root.all("figure")
    assert len(figures) == 10
    ids = [
        n.attributes["id"]
        for name in ("section", "figure", "title", "desc")
        for n in root.all(name)
        if "id" in n.attributes
    ]
    assert len(set(ids)) == len(ids)
    for chart in figures:
        svg = chart.all("svg", role="img")[0]
        named = (svg.attributes["aria-labelledby"] or "").split()
        (title,), (desc,) = (svg.all(name, id=i) for name, i in zip(("title", "desc"), named, strict=True))
        assert title.text == chart.all("h3")[0].text
        assert len(desc.text) > 40
        assert len(svg.all("text", class_="axis")) == 2
        assert len(chart.all("details")[0].all("tr")) >= 3


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
@settings(deadline=None)
def test_ticks_are_round_inside_and_few(low: float, width: float, whole: bool) -> None:
    high = low + max(width, abs(low) * 1e-6)
    values = ticks(low, high, whole=whole)
    step = (values[1] - values[0]) if len(values) > 1 else 1.0
    assert all(low - 1e-6 * step <= v <= high + 1e-6 * step for v in values)
    assert len(values) <= 11
    if whole:
        assert all(v == round(v) for v in values)
    else:
        assert len(values) >= 2
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-6), 3) in (1, 2, 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (0.12345, "0.1235"), (-2, "-2"), (12.345, "12.35"), (1234.4, "1,234"),
     (0.000123, "0.000123"), (1.5e-7, "1.5e-07"), (3e9, "3e+09"), (math.nan, "nan"), (0.9999999, "1")],
)  # fmt: skip
def test_short(value: float, text: str) -> None:
    assert short(value) == text
