"""The report's charts against their data: every line is read back through the axes that are drawn beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Loopback, same_slot
from report_page import Node, axis, drawn_lines, figure, page
from report_run import STAGES, call, hand_made_run

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.evaluation.intervals import wilson
from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.run_records import read_sets, verdict_record
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.rankers.chance import expected_lcs
from cyclealign.reporting.drawing import short, ticks
from cyclealign.reporting.headline import headline
from cyclealign.reporting.ranking_charts import place_counts
from cyclealign.types import RankContext, Ranking, derive_seed


def near(expected: list[tuple[float, float]], tolerance: float) -> Any:
    return pytest.approx(np.asarray(expected), abs=tolerance)


def test_reward_chart_holds_the_data(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    metrics = run.evaluations()
    chart = figure(page(run), "reward")
    reporting, choosing = drawn_lines(chart)
    assert reporting == near([(n, metrics[n].reward) for n in range(4)], 1e-3)
    assert choosing == near([(n, metrics[n].reward_choosing) for n in range(4)], 1e-3)
    # The band: the change's interval, set on the start; of no width there.
    (ax, bx), (ay, by) = axis(chart, "x", "x"), axis(chart, "y", "y")
    outline = [p.split(",") for p in (chart.all("polygon")[0].attributes["points"] or "").split()]
    band = [(ax * float(x) + bx, ay * float(y) + by) for x, y in outline]
    row = headline(run).rows[0]
    assert band[0] == pytest.approx((0, row.start), abs=1e-3)
    assert band[2] == pytest.approx((2, row.start + row.low), abs=1e-3)
    assert band[-3] == pytest.approx((2, row.start + row.high), abs=1e-3)
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
    assert len(figures) == 12
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


def test_loss_has_its_parts_and_the_order_learned(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    rows = [
        {"loss": 3.0, "rank_loss": 1.0, "best_nll": 2.0, "anchor": 0.0, "accuracy": 0.4, "step": 21.0},
        {"loss": 2.5, "rank_loss": 0.5, "best_nll": 2.0, "anchor": 0.1, "accuracy": 0.6, "step": 22.0},
    ]
    write_jsonl(run.interaction(2).train_log, rows)
    root = page(run)
    parts = figure(root, "loss-parts")
    assert [e.text for e in parts.all("span", class_="entry")] == [
        "ranking loss",
        "NLL of the best",
        "distance to the start model",
    ]
    rank, nll, anchor = drawn_lines(parts)
    assert (rank, nll, anchor) == (
        near([(21, 1.0), (22, 0.5)], 0.01), near([(21, 2), (22, 2)], 0.01), near([(21, 0), (22, 0.1)], 0.01),
    )  # fmt: skip
    (order,) = drawn_lines(figure(root, "train-accuracy"))
    assert order == near([(21, 0.4), (22, 0.6)], 2e-3)


def counts_of(chart: Node) -> list[list[float]]:
    """The numbers below a grid."""
    rows = chart.all("details")[0].all("tbody")[0].all("tr")
    return [[float(cell.text) for cell in row.all("td")] for row in rows]


def test_confusion_counts_places_of_both_rankers(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    root = page(run)
    for n in (0, 2):
        chart = figure(root, f"confusion-{n}")
        expected = np.zeros((4, 4))
        white = {r["prompt_id"]: [t[0] for t in r["tiers"]] for r in read_jsonl(run.interaction(n).white_box)}
        for record in read_jsonl(run.interaction(n).black_box):
            for row, (candidate,) in enumerate(record["tiers"]):
                expected[row, white[record["prompt_id"]].index(candidate)] += 1
        assert counts_of(chart) == expected.tolist()
        shares = [cell.number("fill-opacity") for cell in chart.all("rect", class_="cell")]
        assert shares == pytest.approx((expected / 30 * 4 / 3).ravel(), abs=6e-3)
        assert "by chance every cell has 25%" in chart.text
    assert not root.all("figure", id="confusion-1")


def test_a_tie_counts_in_equal_parts_at_its_places() -> None:
    black = Ranking(prompt_id="p", tiers=(("a",), ("b", "c")))
    white = Ranking.from_order("p", "cab")
    assert place_counts([(black, white)], 3) == ((0, 1, 0), (0.5, 0, 0.5), (0.5, 0, 0.5))
    assert place_counts([(white, black)], 3) == tuple(zip(*place_counts([(black, white)], 3), strict=True))


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_position_bias_of_a_judge_that_answers_by_slot(tmp_path: Path, passes: int) -> None:
    run = hand_made_run(tmp_path / "run")
    run.config.write_text(f"name: run\nseed: 5\nblack_box: {{backend: openai, passes: {passes}}}\n")
    config = BlackBoxConfig(backend="openai", model="judge", base_url="http://127.0.0.1:1/v1", passes=passes)
    for n in range(3):
        sets = list(read_sets(run.interaction(n).candidates).values())
        context = RankContext(
            run="run",
            interaction=n,
            seed=derive_seed(5, "rank", n),
            demonstrations=DemonstrationPool.start(DemonstrationsConfig()),
        )
        with Loopback(judge=same_slot) as server, Ledger(tmp_path / f"{n}.sqlite") as ledger:
            ranker = BlackBoxRanker(config.model_copy(update={"base_url": server.url}), load_template("rank"), ledger)
            write_jsonl(run.interaction(n).black_box, map(verdict_record, ranker.rank(sets, context)))
    chart = figure(page(run), "position")
    first, last = drawn_lines(chart)
    assert first == near([(1, 1), (2, 0), (3, 0), (4, 0)], 3e-3)
    assert last == near([(1, 0), (2, 0), (3, 0), (4, 1)], 3e-3)
    assert f"{90 * passes} answers on lists of 4" in chart.text
    assert ("100% (96% to 100%) of 90 lists shown in several" in chart.text) == (passes == 2)


def test_a_ranker_that_is_shown_no_order_has_no_position_chart(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    run.config.write_text("name: run\nseed: 5\nblack_box: {backend: local}\n")
    root = page(run)
    assert not root.all("figure", id="position")
    assert "this black box (local) scores each candidate by itself" in root.text


def test_spend_is_stacked_by_what_it_was_for(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    with Ledger(run.ledger) as ledger:
        for n, purpose in ((0, "repair"), (1, "eval"), (1, "eval")):
            one = replace(call(n, 1), purpose=purpose, options={"n": purpose, "m": ledger.spend().calls})
            row = ledger.start(one, reserved_usd=0.01)
            counts = {"input_tokens": 9, "cached_tokens": 5, "output_tokens": 4, "thinking_tokens": 3}
            ledger.done(row, reply="x", usd=0.004, http_status=200, latency_s=0.1, **counts)
    root = page(run)
    rows = [[c.text for c in r.all("td")] for r in figure(root, "spend").all("tbody")[0].all("tr")]
    head = [c.text for c in figure(root, "spend").all("thead")[0].all("th")]
    assert head == ["interaction", "ranking", "repairs", "measuring the judge", "without a reply, at most", "total"]
    assert rows == [
        ["0.01", "0.004", "0", "0", "0.014"], ["0.01", "0", "0.008", "0", "0.018"], ["0.01", "0", "0", "0.002", "0.012"]
    ]  # fmt: skip
    table = root.all("section", id="paid")[0]
    assert [r.all("th")[0].text for r in table.all("tbody")[0].all("tr")] == [
        "ranking", "repairs", "measuring the judge", "all"
    ]  # fmt: skip
    used = [[c.text for c in r.all("td")][4:8] for r in table.all("tbody")[0].all("tr")]
    assert used[1:3] == [["9", "5", "4", "3"], ["18", "10", "8", "6"]]
    assert used[3][1::2] == ["15", "9"]


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
