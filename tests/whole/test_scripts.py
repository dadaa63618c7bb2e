"""The scripts of ``evals/`` and ``benchmarks/``: each starts and says what it takes, and what takes hours is reported.

All in this process: torch is loaded once.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyclealign.config.loading import load_config
from cyclealign.evaluation.result import read_result, write_result
from cyclealign.files.jsonl import write_jsonl

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p.relative_to(ROOT).as_posix() for f in ("evals", "benchmarks") for p in (ROOT / f).rglob("*.py"))

# Of one format; what only simulates writes figures of its own.
RESULTS = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "evals" / "results").glob("*.json")
    if p.read_text(encoding="utf-8").startswith('{\n  "format"')
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_and_says_how(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / script
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    if 'if __name__ == "__main__":' not in path.read_text(encoding="utf-8"):
        importlib.import_module(path.stem)  # a neighbour of scripts
        return
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert f"python {script}" in capsys.readouterr().out


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script as a module, to call what its hours of training end in."""

    def load(path: str) -> Any:
        monkeypatch.syspath_prepend((ROOT / path).parent)
        return importlib.import_module(Path(path).stem)

    return load


def test_leaf_reports_what_its_runs_measured(loaded: Callable[[str], Any], tmp_path: Path) -> None:
    """Two seeds: means over them, retention and curves relative to the teacher's and to the system's own full width."""
    leaf = loaded("evals/distillers/leaf.py")
    found = {}
    for arm, better in zip(leaf.ARMS, (0.0, 0.2), strict=True):
        for seed in range(2):
            by_query = {"teacher": {"1": 1.0, "2": 0.6}, "undistilled": {"1": 0.2, "2": 0.2}}
            by_query |= {"standard": {"1": 0.4, "2": 0.2 + better}, "asymmetric": {"1": 0.5 + seed / 10, "2": 0.5}}
            widths = {s: {"float32": 0.8, "width 48": 0.2 + seed / 5} for s in ("teacher", "standard", "asymmetric")}
            cosine = {"queries": 0.5 + better, "documents": 0.25 + seed / 2}
            speed = {"batch 1": {"teacher": 10.0, "student": 20.0 + 10 * seed}}
            found[arm, seed] = leaf.Run(widths, cosine, speed, by_query)
    write_result(tmp_path / "leaf.json", leaf.result(found, {"1": 0.7, "2": 0.3}, 2, {"steps": 3}))
    result = read_result(tmp_path / "leaf.json")
    metrics: Any = result.metrics
    assert metrics["ndcg@10"]["standard"] == pytest.approx(0.3)
    assert metrics["retention"]["standard"] == pytest.approx(0.3 / 0.8)
    assert metrics["retention"]["queries alone, standard"] == pytest.approx(0.4 / 0.8)
    assert metrics["curves"]["asymmetric"]["width 48"] == pytest.approx({"ndcg@10": 0.3, "of_own_full": 0.375})
    assert metrics["cosine"]["queries"] == pytest.approx({"queries": 0.7, "documents": 0.5})
    assert metrics["speed_ratio"]["batch 1"] == {"median": 2.5, "least": 2.0, "greatest": 3.0}
    assert [c["value"] for c in metrics["claims"][:2]] == pytest.approx([0.225, 0.0])
    assert [(i.key, i.value) for i in result.items] == [("1", pytest.approx(0.55)), ("2", 0.5)]
    assert metrics["ndcg@10"]["bm25"] == pytest.approx(0.5)
    first = {(arm, seed): run for (arm, seed), run in found.items() if arm == leaf.ARMS[0]}
    alone = leaf.result(first, {"1": 0.7, "2": 0.3}, 2, {"steps": 3}).metrics
    assert list(alone["cosine"]) == [leaf.ARMS[0]]
    assert not [c["claim"] for c in alone["claims"] if "queries alone" in c["claim"]]
    assert [c["value"] for c in alone["claims"] if c["claim"] == "teacher above bm25"] == pytest.approx([0.3])


def test_gpt4_lists_takes_the_best_mean_over_seeds(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = loaded("evals/judges/gpt4_lists.py")
    rows = {0.1: [[0.0, 0.9, 0.1], [0.0, 0.1, 0.1]], 1.0: [[0.1, 0.5, 0.6], [0.1, 0.5, 0.2]]}
    monkeypatch.setattr(script, "STEPS", (10, 20, 30))
    assert script.best(rows) == script.Setting(decay=0.1, steps=20, tau=0.5)  # among equals the first


def test_margin_mse_reports_each_collection_and_both(loaded: Callable[[str], Any], tmp_path: Path) -> None:
    margin_mse = loaded("evals/distillers/margin_mse.py")
    for name in ("T1", "T2", "TX"):
        rows = [{"scores": [2.0, 1.0]}, {"scores": [1.0, 2.0]}, {"scores": [3.0, 0.0]}]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    by_query = {"scifact/1": 1.0, "xquad_en/1": 0.5}
    arms = {
        "dot: margin_mse T1": [{"rerank": by_query, "retrieve": by_query, "milliseconds": 1.23456}],
        "dot: ranknet labels": [{"rerank": dict.fromkeys(by_query, 0.25), "retrieve": by_query, "milliseconds": 2.0}],
    }
    data = {"judged": by_query, "triples": 3}
    metrics = margin_mse.report(Namespace(scratch=tmp_path), data, {"bm25": by_query}, arms)
    assert metrics["rerank both"]["mrr@10"] == {
        "bm25": 0.75,
        "dot: margin_mse T1": 0.75,
        "dot: ranknet labels": 0.25,
    }
    assert metrics["rerank scifact"]["claims"][0]["value"] == 0.75
    assert [c["claim"] for c in metrics["retrieve both"]["claims"]] == ["dot: margin_mse T1 above dot: ranknet labels"]
    assert metrics["teachers' margins of the triples"]["T1"]["mean"] == pytest.approx(1.0)
    assert metrics["processor milliseconds a query"]["dot: margin_mse T1"] == [1.235]


def test_the_gain_of_the_quickstart_is_of_openers_that_all_runs_have(loaded: Callable[[str], Any]) -> None:
    quickstart_gain = loaded("evals/policies/quickstart_gain.py")
    figures = {"reward": 0.25, "ranker": 0.5}
    run = {"start": figures, "end": figures, "ranker_gain": 0.0, "nll_rise": 0.125, "distinct2_kept": 1.0, "seconds": 2}
    runs = [run | {"gains": {"a": 0.5, "b": 0.25, "c": 9.0}, "samples": []}, run | {"gains": {"a": 0.5, "b": 0.75}}]
    found = quickstart_gain.report(runs, [])
    assert (found["mean_gain"], found["openers"], found["seeds"]) == (0.5, 2, 2)
    low, high = found["interval95"]
    assert low <= 0.5 <= high
    assert found["commit"] is None or isinstance(found["commit"], str)


def test_the_table_of_the_losses_has_a_row_for_each_best_first(loaded: Callable[[str], Any]) -> None:
    policy_losses = loaded("evals/policies/policy_losses.py")
    names = list(policy_losses.arms())
    plain = {"accuracy": {"accuracy": 0.5, "ranked": 2, "asked": 2}, "mean_words": 5.0, "nll_start": 2.0}
    plain |= {"distinct2": 0.5, "seconds_per_step": 2.0}
    rows = {n: plain | {"rewards": {"a": k / 4, "b": k / 4}} for k, n in enumerate((policy_losses.START, *names))}
    report = policy_losses.report([rows, rows], [])
    assert list(report["losses"]) == names[::-1]
    assert report["losses"][names[-1]]["gain"] == len(names) / 4
    assert report["losses"]["simpo"]["nll_rise"] == 0.0
    table = policy_losses.table(report).splitlines()
    assert len(table) == 2 + len(names) + 1
    assert table[2].startswith(f"| {names[-1]} | +{len(names) / 4:.3f} |")
    for overrides in policy_losses.arms().values():
        load_config("quickstart", overrides)


def test_a_reading_model_mends_the_planted_rule_where_random_edits_do_not(loaded: Callable[[str], Any]) -> None:
    """A seed of each, with a smaller number of calls than the script's own; what is reported adds up."""
    script = loaded("evals/judges/prompt_improve.py")
    found = {name: [script.one(name, 300, seed=1)] for name in script.MINDS}
    (read,), (drawn,) = found["reading"], found["random"]
    assert (read["repaired"], read["kept"], read["true_gain"]) == (True, True, pytest.approx(0.4))
    assert drawn["true_gain"] <= read["true_gain"]
    assert max(s["requests"] for s in (read, drawn)) <= 300
    cells = {name: script.cell(searches) for name, searches in found.items()}
    gain = cells["reading"]["gain"]
    assert gain.value == pytest.approx(cells["reading"]["accuracy_end"] - cells["reading"]["accuracy_start"])
    assert gain.n == script.UNSEEN
    assert gain.low > 0.3


@pytest.mark.parametrize("path", RESULTS)
def test_a_result_is_read(path: str) -> None:
    assert read_result(ROOT / path).metrics
