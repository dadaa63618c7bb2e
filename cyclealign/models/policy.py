"""Load the model that is aligned: its tokenizer, weights and adapter."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from cyclealign.config.engine_keys import NOT_SERVABLE
from cyclealign.files.thinking import Tags, tags_in
from cyclealign.models.chat_template import check_template, first_line, set_tags
from cyclealign.models.dtypes import compute_dtype, saved_dtype
from cyclealign.models.loading import loaded, set_dropout
from cyclealign.models.policy_files import chosen_template, resolve_model, with_arguments
from cyclealign.models.processes import default_device
from cyclealign.types import UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import GeneratorConfig, LoraConfig, PolicyConfig, ThinkingConfig

logger = logging.getLogger(__name__)


def load_tokenizer(policy: PolicyConfig, thinking: ThinkingConfig | None = None) -> Any:
    """The policy's tokenizer, with a chat template and a pad token.

    ``thinking``: names the tags of its thinking, where the template does not (``chat_template.tags_of``).

    Raises:
        UserError: it cannot be loaded, or has no chat template and ``policy.chat_template`` names none.
    """
    path = resolve_model(policy.model)
    problem = f"policy.model: cannot load a tokenizer from {policy.model!r}"
    tokenizer = loaded(lambda: AutoTokenizer.from_pretrained(path), problem)
    if policy.chat_template is not None:
        tokenizer.chat_template = chosen_template(policy.chat_template)
    if isinstance(tokenizer.chat_template, dict):  # several, by name
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if not tokenizer.chat_template:
        raise UserError(
            f"policy.model: the tokenizer of {policy.model!r} has no chat template;"
            " name a Jinja file in policy.chat_template"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    named = None
    if thinking is not None and thinking.open is not None and thinking.close is not None:
        named = Tags(thinking.open, thinking.close)
    set_tags(tokenizer, named or tags_in(tokenizer.chat_template))
    tokenizer.chat_template = with_arguments(tokenizer.chat_template, policy.chat_template_kwargs)
    return tokenizer


def check_policy(policy: PolicyConfig) -> None:
    """What can be found wrong with a policy without loading it: tokenizer, template, architecture, adapter, cut files.

    Raises:
        UserError: naming the key.
    """
    check_template(load_tokenizer(policy))
    problem = f"policy.model: cannot load {policy.model!r}"
    settings = loaded(lambda: AutoConfig.from_pretrained(resolve_model(policy.model)), problem)
    with torch.device("meta"):
        model = loaded(lambda: AutoModelForCausalLM.from_config(settings), problem)
    if policy.lora is not None:
        _with_lora(model, policy.lora)
    for file in sorted(Path(resolve_model(policy.model)).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):  # reads the header, and holds it against the file's size
                pass
        except SafetensorError as error:
            raise UserError(f"policy.model: {file} is damaged or cut short: {first_line(error)}") from error


def load_model(policy: PolicyConfig, *, trainable: bool, device: torch.device | str = "cpu") -> Any:
    """The policy on a device, in evaluation mode, its dropout off for good.

    ``trainable``: with a fresh LoRA adapter (the base frozen), or, where ``policy.lora`` is null, all weights
    in float32 (they are the optimiser's master copy; autocast does the rest). Else the frozen start model in
    ``compute_dtype``. Dropout is off in training too, so that the score that ranks is the score that learns.

    Raises:
        UserError: the model, its quantisation or its adapter cannot be set up.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()  # carriage returns in a log file
    full = trainable and policy.lora is None
    arguments: dict[str, Any] = {"dtype": torch.float32 if full else compute_dtype(policy, device)}
    if policy.quantization is not None:
        arguments["quantization_config"] = _quantization(policy)
        arguments["device_map"] = {"": device}
    path, problem = resolve_model(policy.model), f"policy.model: cannot load {policy.model!r}"
    model = loaded(lambda: AutoModelForCausalLM.from_pretrained(path, **arguments), problem)
    if policy.quantization is None:
        model.to(device)
    set_dropout(model, 0.0)
    model.config.use_cache = False
    model.requires_grad_(full)
    if trainable and policy.lora is not None:
        model = _with_lora(model, policy.lora)
    return model.eval()


def context_length(model: Any) -> int | None:
    """Positions that a model can hold, in tokens; None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_room(model: Any, max_prompt_tokens: int, generator: GeneratorConfig) -> None:
    """UserError when a prompt and its response can be longer than the model's context."""
    room, most = context_length(model), generator.thinking.max_tokens
    if room is not None and max_prompt_tokens + generator.reply_tokens > room:
        thinking = "" if most is None else f", generator.thinking.max_tokens={most}"
        raise UserError(
            f"policy.max_prompt_tokens={max_prompt_tokens}{thinking} and"
            f" generator.max_new_tokens={generator.max_new_tokens} do not fit the model's context of {room} tokens;"
            " lower one of them"
        )


def response_room(model: Any, max_prompt_tokens: int, wanted: int | None) -> int | None:
    """Most tokens of a response that exists already: ``wanted``, else what the context leaves beside the prompt.

    UserError where it leaves less than is wanted, or nothing.
    """
    room = context_length(model)
    if room is None:
        return wanted
    left = room - max_prompt_tokens
    if left < (wanted or 1):
        asked = "" if wanted is None else f" and lists.max_reply_tokens={wanted}"
        raise UserError(
            f"policy.max_prompt_tokens={max_prompt_tokens}{asked} do not fit the model's context of {room} tokens"
            f"{'; lower one of them' if wanted else ' with a reply; lower it'}"
        )
    return left if wanted is None else wanted


def _quantization(policy: PolicyConfig) -> Any:
    if default_device() == "cpu":
        raise UserError("policy.quantization: 4bit needs a CUDA device; set policy.quantization=null")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("policy.quantization: 4bit needs the package bitsandbytes: pip install bitsandbytes")
    if policy.lora is None:
        raise UserError("policy.quantization: 4bit weights cannot be trained themselves; set policy.lora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=saved_dtype(policy),
    )


def _with_lora(model: Any, lora: LoraConfig) -> Any:
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    named = [targets] if isinstance(targets, str) else targets
    unservable = [t for t in named if t.split(".")[-1] in NOT_SERVABLE]
    if unservable:
        raise UserError(f"policy.lora.target_modules: {', '.join(unservable)} cannot be served by vLLM; use all-linear")
    config = PeftLora(r=lora.r, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM", bias="none")
    try:
        found: Any = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"policy.lora.target_modules: {first_line(error)}") from error
    settings = found.peft_config["default"]
    if isinstance(settings.target_modules, set):  # saved in its order, which is another one in each process
        settings.target_modules = sorted(settings.target_modules)
    return found
