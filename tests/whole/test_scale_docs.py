"""The plans of docs/scale.md are those that the script computes, and its replay tells nearly the same hours."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cyclealign.files.records import write_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Stage, Timing

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scale.md"


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate", ROOT / "benchmarks" / "simulate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def table(after: str, before: str) -> dict[str, list[str]]:
    """The table between two lines of the page, by the first cell of each row."""
    rows = re.findall(r"^ *\|(.+)\|$", PAGE.read_text().partition(after)[2].partition(before)[0], re.M)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return {first: rest for first, *rest in cells}


def test_the_plans_of_the_page_are_the_scripts(simulate: ModuleType) -> None:
    rows = table("## Three plans", "## Memory")
    assert rows[""] == [plan.name for plan in simulate.PLANS]
    for column, plan in enumerate(simulate.PLANS):
        needs = simulate.needs(plan)
        told = {
            "prompts, of an interaction": f"{plan.prompts:,}, {plan.batch:,}",
            "generated tokens": f"{needs.generated_tokens:,}",
            "tokens trained on": f"{needs.trained_tokens:,}",
            "calls": f"{needs.calls:,}",
            "judge's tokens in": f"{needs.judge_tokens_in:,}",
            "judge's tokens out": f"{needs.judge_tokens_out:,}",
            "money (USD)": f"{needs.usd:.2f}",
            "run directory (MB)": f"{needs.run_bytes / 1e6:,.0f}",
            "ledger (MB)": f"{needs.ledger_bytes / 1e6:,.0f}",
            "hours": f"{needs.hours:.2f}",
        }
        assert {name: rows[name][column] for name in told} == told
        assert needs.hours <= needs.replayed_hours <= 1.02 * needs.hours


def test_a_run_is_told_from_its_own_timings(simulate: ModuleType, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    seconds: dict[Stage, tuple[float, ...]] = {"white_box": (4.0, 6.0, 5.5), "train": (20.0, 30.0, 24.0)}
    rows = [
        Timing(stage=stage, interaction=n, seconds=spent)
        for stage, by_run in seconds.items()
        for n, spent in enumerate(by_run)
    ]
    write_records(run.timings, rows)
    assert simulate.last_interaction(run) == (5.0 + 25.0, 5.5 + 24.0)
