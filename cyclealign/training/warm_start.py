"""SFT warm start: an untuned policy ranks preference pairs near chance, so it first learns from chosen replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from cyclealign.models.chat_template import render_prompt, reply_ids
from cyclealign.models.checkpoints import save_policy
from cyclealign.models.dtypes import saved_dtype
from cyclealign.models.policy import load_model, load_tokenizer
from cyclealign.models.processes import is_main, process_state
from cyclealign.training.arguments import training_defaults
from cyclealign.types import Message, UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import Config

# Taken over from the ``training`` section: how much fits on the device. Rates are SFT's own.
SHARED_KEYS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "optim",
    "max_grad_norm",
    "report_to",
)


def warm_start(config: Config, examples: Sequence[tuple[tuple[Message, ...], str]], out: Path) -> Path:
    """Fine-tune ``policy.model`` on (messages, reply) for one epoch; write the whole model to ``out``.

    By ``trl.SFTTrainer``, on the replies' tokens alone, as our own tokenisation cuts them. A LoRA adapter is merged
    into a fresh float32 copy of the base, which is saved in ``policy.dtype`` and becomes the start model. Called
    on every process; the main one writes (aside, then renamed).

    Raises:
        UserError: there are no examples, or the model cannot be loaded.
    """
    from trl import SFTTrainer

    if not examples:
        raise UserError("cycle.warm_start.sft: no prompts with a chosen reply in the data")
    tokenizer = load_tokenizer(config.policy, config.generator.thinking)
    processes = process_state()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = load_model(config.policy, trainable=True, device=processes.device)
    work = out.with_name(f".{out.name}.sft")
    trainer = SFTTrainer(
        model=model,
        args=_arguments(config, work),
        train_dataset=_dataset(config, tokenizer, examples),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    if is_main():
        merged = _whole(config, model).to(saved_dtype(config.policy))
        save_policy(merged, out, tokenizer)
        if work.exists():
            work.rmdir()
    processes.wait_for_everyone()
    return out


def _arguments(config: Config, work: Path) -> Any:
    from trl import SFTConfig

    values = training_defaults(config) | {k: v for k, v in config.training.items() if k in SHARED_KEYS}
    values |= {
        "output_dir": str(work),
        "seed": config.seed % 2**32,
        "learning_rate": 2e-5 if config.policy.lora is None else 2e-4,
        "save_strategy": "no",
        "max_length": None,
        "completion_only_loss": True,
        "gradient_checkpointing": values.get("gradient_checkpointing", False),
    }
    return SFTConfig(**values)


def _dataset(config: Config, tokenizer: Any, examples: Sequence[tuple[tuple[Message, ...], str]]) -> Any:
    from datasets import Dataset

    rows = []
    for messages, reply in examples:
        prompt = render_prompt(tokenizer, messages, config.policy.max_prompt_tokens)
        # Without thinking of its own, it is learned as the answer after thinking with nothing in it, which is given.
        response, read = reply_ids(tokenizer, prompt, reply, ended=True, thinking=None)
        # A labelled reply may be longer than any that the policy will be allowed to write.
        response = response[: read + config.generator.max_new_tokens]
        mask = [0] * (len(prompt) + read) + [1] * (len(response) - read)
        rows.append({"input_ids": prompt + response, "completion_mask": mask})
    return Dataset.from_list(rows)


def _whole(config: Config, model: Any) -> Any:
    """The tuned weights without an adapter. Merged into a fresh copy: the trained base may be quantised."""
    if config.policy.lora is None:
        return model
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    fresh = load_model(config.policy.model_copy(update={"quantization": None}), trainable=True, device="cpu")
    set_peft_model_state_dict(fresh, {k: v.cpu() for k, v in get_peft_model_state_dict(model).items()})
    return fresh.merge_and_unload()
