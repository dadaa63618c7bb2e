"""The arguments and the environment of every vLLM engine that we start, in process or as a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cyclealign.config.engine_keys import EngineArguments
from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.generation.serving import engine_rank

MOST_ROWS = 256  # sequences that decode together
STEP_TOKENS = 16384  # prompt tokens that one engine step may read

BINDING = "VLLM_CPU_OMP_THREADS_BIND"

# Variables of accelerate and torchrun: with them vLLM would join the trainer's process group, or wait for it.
LAUNCHER_NAMES = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    | {f"{group}_{what}" for group in ("GROUP", "ROLE") for what in ("RANK", "WORLD_SIZE", "NAME")}
)
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "TORCH_NCCL_", "ACCELERATE_", "FSDP_", "DEEPSPEED_", "PMI_", "OMPI_", "CCL_")
# Set by the launchers for their own count of processes a machine; the engine is one process more.
LAUNCHER_THREADS = frozenset(("OMP_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME"))


def child_environment(parent: dict[str, str]) -> dict[str, str]:
    """An engine's environment: the parent's without its launcher's variables, with what vLLM needs."""
    dropped = LAUNCHER_NAMES | (LAUNCHER_THREADS if "RANK" in parent else frozenset())
    kept = {n: v for n, v in parent.items() if n not in dropped and not n.startswith(LAUNCHER_PREFIXES)}
    package_home = str(Path(__file__).resolve().parents[2])
    path = [package_home, *filter(None, [kept.get("PYTHONPATH")])]
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # On a CPU that others use too, threads that spin while they wait for each other bring everything to a halt.
    defaults |= {"OMP_WAIT_POLICY": "PASSIVE"}
    return defaults | kept | {"PYTHONPATH": os.pathsep.join(path)}


def ranks_of(engine: EngineArguments) -> int:
    """Processes of one engine or server, a GPU each."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    tensor, pipeline, data = (int(engine.get(name, 1)) for name in sizes)
    return tensor * pipeline * data


def on_cores(ranks: int, place: int, of: int, cores: Sequence[int]) -> dict[str, str]:
    """Environment of server number ``place`` among ``of`` on these cores. A single one is left to vLLM.

    By itself vLLM gives each rank a NUMA node of its own, of which most machines have one, and each server the same
    cores. What the user has set stands.
    """
    if ranks * of == 1 or BINDING in os.environ:
        return {}
    if ranks == 1:
        return {BINDING: "nobind", "OMP_NUM_THREADS": str(max(1, len(cores) // of))}
    places = range(place * ranks, (place + 1) * ranks)
    own = [cores[i :: ranks * of] or [cores[i % len(cores)]] for i in places]
    return {BINDING: "|".join(",".join(map(str, sorted(some))) for some in own)}


def own_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def most_rows(generator: GeneratorConfig) -> int:
    """Sequences that decode together."""
    return int(generator.engine.get("max_num_seqs") or MOST_ROWS)


def step_tokens(generator: GeneratorConfig, policy: PolicyConfig) -> int:
    """Prompt tokens that one engine step may read: at least those of one prompt's K samples, or of a whole reply that
    goes on behind its thinking."""
    longest = policy.max_prompt_tokens + generator.reply_tokens
    return max(STEP_TOKENS, generator.candidates * policy.max_prompt_tokens, longest)


def engine_options(
    generator: GeneratorConfig, policy: PolicyConfig, *, device: Literal["cuda", "cpu"], adapters: int
) -> EngineArguments:
    """Everything but the model's and the tokenizer's place; ``adapters``: how many are held at once.

    What ``generator.engine`` names wins.
    """
    from cyclealign.models.dtypes import compute_dtype

    options: dict[str, Any] = {
        "dtype": str(compute_dtype(policy, device)).removeprefix("torch."),
        "max_model_len": policy.max_prompt_tokens + generator.reply_tokens,
        "max_num_seqs": MOST_ROWS,
        # The CPU build cannot split a prompt that samples by seed.
        "max_num_batched_tokens": step_tokens(generator, policy) + most_rows(generator),
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
    }
    if policy.lora is not None:
        options |= {"enable_lora": True, "max_lora_rank": engine_rank(policy.lora.r), "max_loras": adapters}
    if policy.quantization == "4bit":
        options["quantization"] = "bitsandbytes"
    if device == "cpu":
        options["enforce_eager"] = True  # compiling takes longer than a small model's whole chunk
    return options | generator.engine
