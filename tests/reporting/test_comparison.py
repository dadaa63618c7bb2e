"""Several runs on one page: names, paired differences, overlaid charts, what differs in the configurations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hostile_run import HOSTILE, hostile_run
from report_page import Node, Page, drawn_lines, every, figure
from report_run import hand_made_run

from cyclealign.cli.main import main
from cyclealign.evaluation.compare import compare, load_compared
from cyclealign.evaluation.statistics import Estimate, paired_difference
from cyclealign.files.records import write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.comparison import columns_of, differences, render_comparison
from cyclealign.reporting.headline import headline
from cyclealign.types import UserError


def two_runs(folder: Path) -> list[RunDir]:
    """The same prompts; the second run's kept rewards are higher by 0.1 and a little more from prompt to prompt."""
    first, second = (hand_made_run(folder / name / "seed-0", name=name) for name in ("low", "high"))
    second.config.write_text(second.config.read_text().replace("gate: 0.3", "gate: 0.5"))
    metrics = second.evaluations()[2]
    higher = {i: v + 0.1 + 0.001 * n for n, (i, v) in enumerate(metrics.rewards.items())}
    write_record(second.evaluation(2) / "metrics.json", replace(metrics, reward_by_prompt=higher))
    return [first, second]


def test_differences_are_paired_over_the_reporting_prompts(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    ((first, second, gap),) = differences(columns_of(runs))
    assert (first, second, gap.n) == ("low/seed-0", "high/seed-0", 20)
    odd = [p.id for p in runs[0].eval_prompts()][1::2]
    kept = [[run.evaluations()[2].rewards[i] for i in odd] for run in runs]
    assert gap == paired_difference(*kept)
    assert gap.value == pytest.approx(0.12)


def test_runs_of_other_scorers_are_not_compared(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    start = runs[1].evaluations()[0]
    write_record(runs[1].evaluation(0) / "metrics.json", replace(start, scorer="another"))
    assert differences(columns_of(runs)) == []


def test_the_page_lays_the_runs_over_each_other(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    root = Page(render_comparison(columns_of(runs))).root
    reward = figure(root, "reward")
    assert [e.text for e in reward.all("span", class_="entry")] == ["low/seed-0", "high/seed-0"]
    low, high = drawn_lines(reward)
    assert [y for _, y in low] == pytest.approx([m.reward for m in runs[0].evaluations().values()], abs=2e-3)
    assert high[2][1] - low[2][1] == pytest.approx(0.12, abs=2e-3)
    looks = {(p.attributes["stroke"], p.attributes.get("stroke-dasharray")) for p in reward.all("polyline")}
    assert len(looks) == 2
    assert len(figure(root, "changes").all("circle")) == 2
    bars = figure(root, "time").all("tbody")[0].all("tr")
    assert [b.all("th")[0].text for b in bars] == ["low/seed-0", "high/seed-0"]
    (config,) = root.all("section", id="config")
    rows = [[c.text for c in r.children if isinstance(c, Node)] for r in config.all("tbody")[0].all("tr")]
    assert rows == [["name", "low", "high"], ["demonstrations.gate", "0.3", "0.5"]]
    (samples,) = root.all("section", id="samples")
    assert len(samples.all("article")) == 12
    assert [h.text.split(",")[0] for h in samples.all("article")[0].all("h4")] == ["low/seed-0", "high/seed-0"]
    figures = root.all("section", id="figures")[0].all("table")
    assert [c.text for c in figures[1].all("tr")[2].all("td")] == list(headline(runs[1]).rows[0].text)


def test_hostile_runs_are_escaped(tmp_path: Path) -> None:
    runs = [hostile_run(tmp_path / "a"), hand_made_run(tmp_path / "<script>b")]
    root = Page(render_comparison(columns_of(runs))).root
    assert {e.name for e in every(root)}.isdisjoint(
        {"script", "img", "iframe", "link", "object", "embed", "base", "form"}
    )
    assert HOSTILE[:30] in root.text


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(r.path) for r in two_runs(tmp_path)]
    out = tmp_path / "both.html"
    assert main(["report", *runs, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "kept reward, high/seed-0 - low/seed-0: +0.1200" in said
    assert f"comparison: {out}" in said
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["report", runs[0], runs[0]]) == 2
    assert main(["report", runs[0], "--out", str(out)]) == 2
    assert main(["report", *runs, "--out", f"{runs[0]}/config.yaml/x.html"]) == 2
    said = capsys.readouterr().err
    assert "the same run is named twice" in said
    assert "--out is for several runs" in said
    assert "cannot be written" in said


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compares 2 to 6 runs, got 7"):
        columns_of([RunDir(tmp_path / str(n)) for n in range(7)])


def test_one_interval_wherever_it_is_shown(tmp_path: Path) -> None:
    """A run's page and ``eval compare RUN``; ``report A B`` and ``eval compare A B``."""
    runs = [RunDir(run.path.rename(tmp_path / name)) for run, name in zip(two_runs(tmp_path), "ab", strict=True)]
    compared = compare(load_compared([run.path for run in runs]), seed=42).differences
    for run in runs:
        row, name = headline(run).rows[0], run.path.name
        estimate = compared[f"{name}@kept - {name}@start"].difference
        assert estimate == Estimate(row.change, row.low, row.high, 20)
    ((_, _, gap),) = differences(columns_of(runs))
    assert compared[f"{runs[1].path.name}@kept - {runs[0].path.name}@kept"].difference == gap
