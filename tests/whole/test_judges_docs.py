"""docs/judges.md against the result that it quotes and the table that the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from manners import MANNERS

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.evaluation.result import read_result
from cyclealign.files.labelled import JUDGE_LISTS, load_labelled
from cyclealign.judge.prices import tariff_of
from cyclealign.judge.providers import PROFILES, provider_of, reasoning_fields
from cyclealign.reporting.judge_table import COLUMNS, judge_cells

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")
RESULT = read_result(ROOT / "evals" / "results" / "judges.json")


def test_the_rows_are_those_of_the_result() -> None:
    for name in RESULT.arms:
        row = " | ".join((name, *judge_cells(RESULT.subsets[name])[:5]))
        assert f"| {row} |" in DOCS
    assert f"chance is {RESULT.metrics['accuracy_of_chance']:.1%}" in DOCS
    assert RESULT.metrics["items"] == len(load_labelled(JUDGE_LISTS))
    assert f"{RESULT.metrics['items']} lists of two to five" in DOCS


def test_every_column_is_explained() -> None:
    explained = re.findall(r"^\| ([^|]+?) \|", DOCS, flags=re.MULTILINE)
    assert set(COLUMNS) - {"judge"} <= set(explained)


PROVIDERS = re.findall(r"^\| (\w+) \| `(\{.*?\})` \| .* \| (served|documents) \|$", DOCS, flags=re.MULTILINE)


def test_every_provider_has_a_row_and_is_served_as_it_says() -> None:
    assert [name for name, _, _ in PROVIDERS] == list(PROFILES)
    met = {"gpt5": "openai", "claude": "anthropic"}
    served = {met.get(name, name) for name in MANNERS}
    assert {name for name, _, seen in PROVIDERS if seen == "served"} == served


@pytest.mark.parametrize(("name", "section"), [(name, section) for name, section, _ in PROVIDERS])
def test_the_section_of_a_row_is_one_and_is_known_by_its_address(name: str, section: str) -> None:
    box = BlackBoxConfig(**yaml.safe_load(section))
    assert provider_of(box) == name
    assert box.reasoning is None or reasoning_fields(box)
    assert (tariff_of(box) is not None) == (box.price is not None)


@pytest.mark.parametrize("page", ["judges.md", "cascade.md"])
def test_every_section_in_yaml_is_one(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert text.count("\n```") == 2 * len(blocks)
    sections = [yaml.safe_load(block) for kind, block in blocks if kind == "yaml"]
    assert sections
    for section in sections:
        assert section.keys() == {"black_box"}
        BlackBoxConfig(**section["black_box"])
