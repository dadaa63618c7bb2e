"""The section ``generator.engine``: vLLM's own engine arguments by their own names, checked before one is started.

Names and plain types are read from the source of the vLLM that is installed, which takes a few milliseconds; to import
it would take seconds, and a config is read by commands that need none of it. Where there is no vLLM, the common
arguments are checked, and whoever starts the engine refuses the others.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Plain = frozenset[type] | None
"""The types of an argument's values; None: vLLM's own, which it checks itself."""
EngineArguments = Mapping[str, Any]  # vLLM's own, by its names
# vLLM serves adapters of the transformer blocks only; an adapter elsewhere would train and then be ignored.
NOT_SERVABLE = ("lm_head", "embed_tokens", "embed_out", "embed_in", "wte")
COMMON: Mapping[str, Plain] = {
    "tensor_parallel_size": frozenset({int}),
    "pipeline_parallel_size": frozenset({int}),
    "data_parallel_size": frozenset({int}),
    "gpu_memory_utilization": frozenset({float}),
    "max_num_seqs": frozenset({int, type(None)}),
    "enforce_eager": frozenset({bool}),
    "enable_prefix_caching": frozenset({bool, type(None)}),
    "kv_cache_dtype": None,
    "distributed_executor_backend": None,
}
# What another section says already, or what the run needs as it is.
OWNED: Mapping[str, str] = {
    "model": "policy.model",
    "served_model_name": "policy.model",
    "tokenizer": "policy.model",
    "dtype": "policy.dtype",
    "quantization": "policy.quantization",
    "max_model_len": "policy.max_prompt_tokens and generator.max_new_tokens",
    "max_num_batched_tokens": "policy.max_prompt_tokens and generator.candidates",
    "enable_lora": "policy.lora",
    "max_lora_rank": "policy.lora.r",
    "max_loras": "policy.lora",
    "seed": "seed",
    "logprobs_mode": "the canary, which compares raw log-probabilities",
    "hf_token": "`hf auth login`: a secret would be written to the run directory",
}
# A run directory from elsewhere brings its config: nothing in it may name code that is then run.
CODE = (
    *("trust_remote_code", "code_revision", "worker_cls", "worker_extension_cls", "scheduler_cls"),
    *("logits_processors", "reasoning_parser_plugin", "io_processor_plugin", "model_class_overrides", "load_format"),
    *("model_loader_extra_config", "kv_transfer_config", "ec_transfer_config", "log_config_file", "config_format"),
    *("additional_config", "compilation_config", "profiler_config", "weight_transfer_config", "model_impl"),
)
COUNTS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_num_seqs")
_NAMED = {"int": int, "float": float, "bool": bool, "str": str}
_READABLE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def check_engine(engine: EngineArguments) -> None:
    """Refuse arguments that vLLM does not have, that the run sets itself, or that name code; and wrong values.

    Raises:
        ValueError: one line that begins with the argument's name.
    """
    if not engine:
        return
    found = engine_arguments()
    known = found or COMMON
    for name, value in engine.items():
        if name in OWNED:
            raise ValueError(f"{name}: set by the run itself (see {OWNED[name]}); remove it")
        if name in CODE:
            raise ValueError(f"{name}: can name code to be run, which a config must not; remove it")
        if name.startswith("_") or (name not in known and (found or not name.isidentifier())):
            raise ValueError(f"{name}: vLLM has no such argument{_hint(name, known)}")
        _check_value(name, value, known.get(name))


@functools.cache
def engine_arguments() -> Mapping[str, Plain]:
    """Every argument of the installed vLLM's ``EngineArgs``, with the types of its values; empty without a vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).parent / "engine" / "arg_utils.py"
    try:
        return dict(_fields(ast.parse(file.read_text(encoding="utf-8"))))
    except (OSError, SyntaxError):  # a vLLM that is laid out otherwise: it checks its arguments itself
        return {}


def _fields(source: ast.Module) -> Iterator[tuple[str, Plain]]:
    for node in source.body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id[0] != "_":
                    yield line.target.id, _types(line.annotation)


def _types(annotation: ast.expr) -> Plain:
    """Those of ``int``, ``int | None`` and the like; None where any other type is in it."""
    if isinstance(annotation, ast.Name) and annotation.id in _NAMED:
        return frozenset({_NAMED[annotation.id]})
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return frozenset({type(None)})
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        left, right = _types(annotation.left), _types(annotation.right)
        return None if left is None or right is None else left | right
    return None


def _check_value(name: str, value: Any, plain: Plain) -> None:
    # A whole number will do for any number, true for none.
    fits = plain is None or type(value) in plain or (type(value) is int and float in plain)
    if not fits:
        expected = " or ".join(text for kind, text in _READABLE.items() if plain and kind in plain)
        raise ValueError(f"{name}: expected {expected}, got {json.dumps(value)}")
    if name in COUNTS and value is not None and value < 1:
        raise ValueError(f"{name}: expected a value >= 1, got {value}")
    if name == "gpu_memory_utilization" and not 0 < value <= 1:
        raise ValueError(f"{name}: expected a share above 0 and at most 1, got {value}")


def _hint(name: str, known: Mapping[str, Plain]) -> str:
    close = difflib.get_close_matches(name, known.keys() - set(CODE) - OWNED.keys(), n=1)
    return f"; did you mean generator.engine.{close[0]}?" if close else "; its names are those of vllm.EngineArgs"
