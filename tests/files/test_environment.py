"""What a run ran on, and what of it nobody has tried."""

from __future__ import annotations

import logging

import pytest
from packaging.requirements import Requirement

from cyclealign.files.environment import untested, versions, warn_of_untested


def test_what_is_installed_in_another_version_is_named() -> None:
    numpy = versions()["numpy"]
    lines = (
        "numpy<1",
        "torch>=2",
        "transformers>=4.99",
        "scipy<1; extra == 'eval'",
        "vllm<0.1",  # only where it is installed
        "no-such-package<1",
    )
    requirements = [Requirement(line) for line in lines]
    assert untested(requirements)[:1] == (f"numpy {numpy} (tested: <1)",)
    assert not any(name in found for found in untested(requirements) for name in ("torch", "transformers", "scipy"))


def test_what_the_tests_run_on_is_tested() -> None:
    assert untested() == ()


def test_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("cyclealign.files.environment.untested", lambda: ("numpy 9 (tested: <3)", "trl 8 (tested: <2)"))
    warn_of_untested()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(": numpy 9 (tested: <3), trl 8 (tested: <2)")
