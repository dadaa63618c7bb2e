"""Load the model that is aligned, and tokenise for it.

``render_prompt`` and ``response_ids`` are the one owner of tokenisation: generator, white-box ranker and
trainer see the same token ids because all of them ask here.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2.exceptions import TemplateError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from cyclealign.resources import resource
from cyclealign.types import Message, UserError

if TYPE_CHECKING:
    from cyclealign.config import LoraConfig, PolicyConfig

logger = logging.getLogger(__name__)
BUILTIN = "builtin:"
# vLLM serves adapters of the transformer blocks only; an adapter elsewhere would train and then be ignored.
NOT_SERVABLE = ("lm_head", "embed_tokens", "embed_out", "embed_in", "wte")


@dataclass(frozen=True, slots=True)
class TemplateReport:
    """What a chat template does: ``sample`` is a rendered dialogue, ``problems`` are lines for people.

    ``stop_token``: the token that closes an assistant turn; training teaches it and generation ends at it.
    """

    sample: str
    stop_token: str
    stop_token_id: int
    prefix_preserving: bool
    problems: tuple[str, ...]


def resolve_model(name: str) -> str:
    """Directory of a ``builtin:`` model or of a local path; anything else is left to be a hub id.

    Raises:
        UserError: the builtin or the path does not exist.
    """
    if name.startswith(BUILTIN):
        path = resource("assets", name.removeprefix(BUILTIN).replace("-", "_"))
        if not (path / "config.json").is_file():
            raise UserError(f"policy.model: no packaged model {name!r} (looked in {path})")
        return str(path)
    if Path(name).is_dir():
        return str(Path(name).resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"policy.model: no directory {name!r}; give a model directory, a hub id, or builtin:tiny-chat")
    return name


def load_tokenizer(policy: PolicyConfig) -> Any:
    """The policy's tokenizer, with a chat template and a pad token.

    Raises:
        UserError: it cannot be loaded, or has no chat template and ``policy.chat_template`` names none.
    """
    path = resolve_model(policy.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"policy.model: cannot load a tokenizer from {policy.model!r}: {_line(error)}") from error
    if policy.chat_template is not None:
        file = template_file(policy.chat_template)
        if not file.is_file():
            raise UserError(f"policy.chat_template: no file {policy.chat_template!r}; expected a Jinja chat template")
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise UserError(
            f"policy.model: the tokenizer of {policy.model!r} has no chat template;"
            " name a Jinja file in policy.chat_template"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def check_policy(policy: PolicyConfig) -> None:
    """What can be found wrong with a policy without its weights: tokenizer, chat template, architecture, adapter.

    Raises:
        UserError: naming the key.
    """
    check_template(load_tokenizer(policy))
    try:
        settings = AutoConfig.from_pretrained(resolve_model(policy.model))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    except (OSError, ValueError) as error:
        raise UserError(f"policy.model: cannot load {policy.model!r}: {_line(error)}") from error
    if policy.lora is not None:
        _with_lora(model, policy.lora)


def template_file(name: str) -> Path:
    """A Jinja chat template by path, or a packaged one (``builtin:human-assistant``, HH-RLHF's dialogue form)."""
    if name.startswith(BUILTIN):
        return resource("configs", f"chat_templates/{name.removeprefix(BUILTIN).replace('-', '_')}.jinja")
    return Path(name)


def compute_dtype(policy: PolicyConfig, device: torch.device | str) -> torch.dtype:
    """float32 on the CPU (half precision is slower, and exact resume is promised), else ``policy.dtype``."""
    if torch.device(device).type == "cpu":
        return torch.float32
    dtype: torch.dtype = getattr(torch, policy.dtype)
    return dtype


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
    try:
        model = AutoModelForCausalLM.from_pretrained(resolve_model(policy.model), **arguments)
    except (OSError, ValueError) as error:
        raise UserError(f"policy.model: cannot load {policy.model!r}: {_line(error)}") from error
    if policy.quantization is None:
        model.to(device)
    _dropout_off(model)
    model.config.use_cache = False
    model.requires_grad_(full)
    if trainable and policy.lora is not None:
        model = _with_lora(model, policy.lora)
    return model.eval()


def check_room(model: Any, max_prompt_tokens: int, max_new_tokens: int) -> None:
    """UserError when a prompt and its response can be longer than the model's context."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and max_prompt_tokens + max_new_tokens > room:
        raise UserError(
            f"policy.max_prompt_tokens={max_prompt_tokens} and generator.max_new_tokens={max_new_tokens} do not fit"
            f" the model's context of {room} tokens; lower one of them"
        )


def render_prompt(tokenizer: Any, messages: Sequence[Message], max_prompt_tokens: int) -> list[int]:
    """Token ids of the chat up to where the assistant speaks, at most ``max_prompt_tokens``.

    Too long: the oldest turns go, whole, until it fits; a leading system message stays, and what remains
    starts with a user turn where it can. A last turn that is too long by itself loses tokens from its left.
    Only where system message and template alone are too long are the rendered ids cut, from the left.
    """
    turns = list(messages)
    head = turns[:1] if turns and turns[0]["role"] == "system" else []
    turns = turns[len(head) :]
    ids = _prompt_ids(tokenizer, head + turns)
    while len(ids) > max_prompt_tokens and len(turns) > 1:
        turns = turns[1:]
        while len(turns) > 1 and turns[0]["role"] != "user":
            turns = turns[1:]
        ids = _prompt_ids(tokenizer, head + turns)
    if len(ids) > max_prompt_tokens and turns:
        ids = _cut_last_turn(tokenizer, head, turns[-1], max_prompt_tokens, len(ids) - max_prompt_tokens)
    return ids[-max_prompt_tokens:]


def response_ids(tokenizer: Any, text: str, *, ended: bool) -> list[int]:
    """Token ids of a response: its text by itself, and the stop token exactly once where the speaker ended.

    ``ended`` False is a response cut off by its length limit: teaching it to stop there would be wrong.
    """
    stop = stop_token_id(tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    while ids and ids[-1] == stop:
        ids.pop()
    if ended:
        ids.append(stop)
    return ids


def stop_token_id(tokenizer: Any) -> int:
    """The token that the template writes after an assistant turn (else the tokenizer's end of sequence).

    Raises:
        UserError: there is none: such a policy could never learn to stop.
    """
    key = (tokenizer.chat_template, tokenizer.eos_token_id)
    cached: tuple[Any, int] | None = getattr(tokenizer, "_cyclealign_stop", None)
    if cached is None or cached[0] != key:
        cached = (key, _find_stop(tokenizer))
        tokenizer._cyclealign_stop = cached  # rendering the template for every response is slow
    return cached[1]


def check_template(tokenizer: Any) -> TemplateReport:
    """Render a small dialogue and look for what breaks training: a lost prefix, a missing stop token.

    Raises:
        UserError: the template fails to render, or there is no stop token.
    """
    chat: list[Message] = [{"role": "user", "content": "Hello!"}]
    reply = "Good morning."
    prompt = _render(tokenizer, chat, ask=True)
    whole = _render(tokenizer, [*chat, {"role": "assistant", "content": reply}], ask=False)
    stop = stop_token_id(tokenizer)
    kept = whole.startswith(prompt + reply)
    problems = []
    if not kept:
        problems.append("the prompt is not a prefix of the whole dialogue: the template writes past turns differently")
    separate = _prompt_ids(tokenizer, chat) + response_ids(tokenizer, reply, ended=True)
    together = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if kept and together[: len(separate)] != separate:
        problems.append("prompt and reply give other tokens apart than together")
    if stop == tokenizer.eos_token_id and tokenizer.eos_token not in whole:
        problems.append("the template writes no stop token after a reply; the end-of-sequence token is taught instead")
    return TemplateReport(whole, str(tokenizer.convert_ids_to_tokens(stop)), stop, kept, tuple(problems))


def _prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = tokenizer(_render(tokenizer, messages, ask=True), add_special_tokens=False)["input_ids"]
    return ids


def _render(tokenizer: Any, messages: Sequence[Message], *, ask: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(f"policy.chat_template: cannot render a chat with roles {roles}: {_line(error)}") from error
    return str(text)


def _cut_last_turn(tokenizer: Any, head: list[Message], last: Message, limit: int, excess: int) -> list[int]:
    content: list[int] = tokenizer(last["content"], add_special_tokens=False)["input_ids"]
    while True:
        content = content[excess:]
        cut: Message = {"role": last["role"], "content": tokenizer.decode(content)}
        ids = _prompt_ids(tokenizer, [*head, cut])
        if len(ids) <= limit or not content:
            return ids
        excess = max(1, len(ids) - limit)  # tokens merge differently at a cut, so one pass can fall short


def _find_stop(tokenizer: Any) -> int:
    reply = "Good morning."
    chat: list[Message] = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": reply}]
    tail = _render(tokenizer, chat, ask=False).rpartition(reply)[2]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise UserError("policy.model: neither the chat template nor the tokenizer has a token that ends a reply")
    return int(tokenizer.eos_token_id)


def _quantization(policy: PolicyConfig) -> Any:
    if not torch.cuda.is_available():
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
        bnb_4bit_compute_dtype=getattr(torch, policy.dtype),
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
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"policy.lora.target_modules: {_line(error)}") from error


def _dropout_off(model: nn.Module) -> None:
    """Zero every dropout: modules, and the rates that attention layers keep as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
