"""What vLLM can serve of a policy, asked before anything is trained or paid for."""

from __future__ import annotations

from pathlib import Path

from cyclealign.config.engine_keys import NOT_SERVABLE
from cyclealign.config.schema import PolicyConfig
from cyclealign.files.jsonl import read_json
from cyclealign.types import PolicyVersion, UserError

# vLLM compiles its LoRA kernels for these ranks only.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def engine_rank(rank: int) -> int:
    """The smallest rank that vLLM can be started with that holds adapters of ``rank``.

    Raises:
        UserError: there is none.
    """
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise UserError(f"policy.lora.r: vLLM serves ranks up to {RANKS[-1]}, got {rank}")


def check_servable(policy: PolicyConfig, backend: str) -> None:
    """Refuse a policy that vLLM could not serve once it is trained: in process (``vllm``) or as a ``server``.

    Raises:
        UserError: names the key.
    """
    lora = policy.lora
    if lora is None:
        if backend == "server":
            raise UserError(
                "policy.lora: a server cannot be given full checkpoints while it runs; train an adapter"
                " (policy.lora) or use generator.backend=vllm"
            )
        return
    engine_rank(lora.r)
    named = (lora.target_modules,) if isinstance(lora.target_modules, str) else lora.target_modules
    refused = [name for name in named if name.split(".")[-1] in NOT_SERVABLE]
    if refused:
        raise UserError(
            f"policy.lora.target_modules: vLLM cannot serve adapters of {', '.join(refused)}; use all-linear"
        )


def check_adapter(version: PolicyVersion) -> Path | None:
    """The version's adapter directory (None without one) after looking for features that vLLM would ignore.

    Raises:
        UserError: no adapter there, or one with modules_to_save, DoRA, biases, target_parameters or a head.
    """
    if version.adapter is None:
        return None
    file = version.adapter / "adapter_config.json"
    if not file.is_file():
        raise UserError(f"adapter of {version.name}: no adapter_config.json in {version.adapter}")
    found = read_json(file)
    targets = found.get("target_modules") or ()
    refused = [key for key in ("modules_to_save", "use_dora", "target_parameters") if found.get(key)]
    refused += ["bias"] if found.get("bias", "none") != "none" else []
    refused += [t for t in ([targets] if isinstance(targets, str) else targets) if t.split(".")[-1] in NOT_SERVABLE]
    if refused:
        raise UserError(f"adapter of {version.name}: vLLM cannot serve {', '.join(refused)} ({file})")
    return version.adapter.resolve()
