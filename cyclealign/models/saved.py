"""Models of a finished run, or of anyone, to use outside the loop: ranking a file, merging for export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cyclealign.config.schema import PolicyConfig, ThinkingConfig
from cyclealign.models.checkpoints import check_weights
from cyclealign.models.loading import loaded
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import adapter_base, resolve_model


def load_for_use(
    path: str,
    *,
    dtype: torch.dtype,
    base: str | None = None,
    policy: PolicyConfig | None = None,
    thinking: ThinkingConfig | None = None,
) -> tuple[Any, Any]:
    """Model (in evaluation mode, an adapter on it where ``path`` is one) and tokenizer.

    Args:
        path: model directory, adapter directory, hub id, or ``builtin:tiny-chat``.
        base: the model below an adapter, where it has moved since.
        policy: whose chat template the tokenizer is to have, with its values; None: the model's own.
        thinking: as in ``load_tokenizer``.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    below = adapter_base(Path(path))
    source = resolve_model(base or below or path)
    problem = f"cannot load a model from {path!r}"
    model = loaded(lambda: AutoModelForCausalLM.from_pretrained(source, dtype=dtype), problem)
    if below is not None:
        from peft import PeftModel

        check_weights(Path(path))
        whole = model
        model = loaded(lambda: PeftModel.from_pretrained(whole, path), problem)
    return model.eval(), load_tokenizer((policy or PolicyConfig()).model_copy(update={"model": source}), thinking)
