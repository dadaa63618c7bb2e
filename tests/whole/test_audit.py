"""The packages that ours stands on may be used, and are listed; what ruff's S rules find has a reason."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tests" / "whole" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["audit"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_licence_here_is_allowed(audit: ModuleType) -> None:
    found = audit.packages()
    assert {p.name for p in found} >= {"torch", "openai", "pydantic", "mypy", "markupsafe"}
    assert audit.refused(found) == []


def test_every_package_that_we_ask_for_is_listed(audit: ModuleType) -> None:
    listed = dict(re.findall(r"^\| \*\*(\S+)\*\* \| [^|]+ \| ([^|]+) \|$", audit.DOCS.read_text(), re.MULTILINE))
    assert listed.keys() == {audit.canonicalize_name(r.name) for r in audit.requirements()}
    assert {name for name, licence in listed.items() if audit.wrong(licence)} == set()


@pytest.mark.parametrize(
    ("about", "licence"),
    [
        ({"License-Expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only"),
        ({"License": "Apache Software License 2.0"}, "Apache-2.0"),
        ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"License": "Copyright 2020", "Classifier": "License :: OSI Approved :: BSD License"}, "BSD"),
        ({"License": "GPLv3", "Classifier": "License :: OSI Approved :: GNU General Public License v3"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_licence_is_read_wherever_it_stands(audit: ModuleType, about: dict[str, str], licence: str) -> None:
    message = Message()
    for name, value in about.items():
        message[name] = value
    assert audit.licence_of("a-package", message) == licence


def test_what_is_joined_by_and_must_all_be_allowed(audit: ModuleType) -> None:
    assert audit.wrong("MIT OR GPL-3.0-only") == []
    assert audit.wrong("MIT AND GPL-3.0-only") == ["GPL-3.0-only"]
    assert audit.wrong("Apache-2.0 WITH LLVM-exception AND BSD-2-Clause") == []
    assert audit.wrong("unknown") == ["unknown"]


def test_a_fault_is_told_from_a_service_out_of_reach(audit: ModuleType) -> None:
    fine, skipped = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
    assert audit.judged(json.dumps({"dependencies": [fine, skipped]}), 2) == (
        False,
        "pip-audit: 1 of 2 packages looked up, 0 with faults",
    )
    assert audit.judged(json.dumps({"dependencies": [fine, bad]}), 2) == (
        True,
        "pip-audit: 2 of 2 packages looked up, 1 with faults\nc 2: CVE-1, CVE-2",
    )
    for silent in ("", "{}", json.dumps({"dependencies": [skipped]})):
        faulty, line = audit.judged(silent, 1)
        assert not faulty
        assert "cannot be reached" in line


def test_what_is_let_pass_says_why() -> None:
    for path in sorted((ROOT / "cyclealign").rglob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if passed := re.search(r"# noqa: (S\d+(?:, S\d+)*)(.*)", line):
                assert len(passed[2].split()) >= 3, f"{path}: {line.strip()}"
