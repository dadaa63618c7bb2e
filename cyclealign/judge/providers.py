"""The manners of providers: how the first request to each is put, and where its replies count what.

A profile is a hint that saves the probe (``capability``) a refusal; what a server then says counts, whatever its
profile. All rows are from the providers' documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cyclealign.config.black_box import BlackBoxConfig, Provider, Reasoning
from cyclealign.config.endpoints import OPENAI_URL, host_of
from cyclealign.types import UserError

MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
Asked = Mapping[Reasoning, Mapping[str, Any]]


def _effort(*levels: Reasoning, off: str = "none") -> dict[Reasoning, Mapping[str, Any]]:
    """The field that most have taken over from OpenAI, at the levels that are known there."""
    return {level: {"reasoning_effort": off if level == "off" else level} for level in levels}


def _budget(tokens: Mapping[Reasoning, int]) -> dict[Reasoning, Mapping[str, Any]]:
    enabled = {level: {"thinking": {"type": "enabled", "budget_tokens": most}} for level, most in tokens.items()}
    return {"off": {"thinking": {"type": "disabled"}}, **enabled}


_NOT_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider.

    hosts: ends of its host names. port: the usual one of a server of one's own. length: its name for the limit of an
    answer. fixed: a pattern of the models that take no temperature; empty: none of them. seed: its name for a seed;
    empty: it takes none. json_schema, json_object: whether it holds an answer to a schema, or to JSON at all.
    reasoning: request fields by level; a level that is not there is refused. thinking_in, cached_in, written_in: where
    usage counts thinking, input from its cache and input into it, as a path; empty: nowhere. cost_in: where it says
    what the call was billed at. key_header: where the key goes besides ``Authorization``. context: what to change where
    it cuts long prompts without a word; empty: it refuses them. prices: its name in the list of prices; empty: a server
    of one's own.
    """

    hosts: tuple[str, ...] = ()
    port: int | None = None
    length: str = MAX_TOKENS
    fixed: str = ""
    seed: str = "seed"
    json_schema: bool = True
    json_object: bool = True
    reasoning: Asked
    thinking_in: str = "completion_tokens_details.reasoning_tokens"
    cached_in: str = "prompt_tokens_details.cached_tokens"
    written_in: str = ""
    cost_in: str = ""
    key_header: str = ""
    context: str = ""
    prices: str = ""


_NO_TEMPERATURE = r"\A(?:o[0-9]|gpt-5)"
_OPENAI = _effort("off", "minimal", "low", "medium", "high")
PROFILES: Mapping[Provider, Profile] = {
    "openai": Profile(
        hosts=("api.openai.com",),
        length=MAX_COMPLETION_TOKENS,
        fixed=_NO_TEMPERATURE,
        reasoning=_OPENAI,
        prices="openai",
    ),
    "azure": Profile(
        hosts=("openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com", "azure-api.net"),
        length=MAX_COMPLETION_TOKENS,
        fixed=_NO_TEMPERATURE,
        reasoning=_OPENAI,
        key_header="api-key",
        prices="azure",
    ),
    "anthropic": Profile(
        hosts=("api.anthropic.com",),
        seed="",
        json_object=False,
        reasoning=_budget({"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384}),
        thinking_in="",
        cached_in="cache_read_input_tokens",
        written_in="cache_creation_input_tokens",
        prices="anthropic",
    ),
    "gemini": Profile(
        hosts=("generativelanguage.googleapis.com", "aiplatform.googleapis.com"),
        seed="",
        reasoning=_OPENAI,
        thinking_in="",  # in the total alone
        prices="google",
    ),
    "mistral": Profile(
        hosts=("api.mistral.ai",), seed="random_seed", reasoning=_effort("off", "high"), thinking_in="",
        prices="mistral",
    ),
    "deepseek": Profile(
        hosts=("api.deepseek.com",),
        json_schema=False,
        reasoning={
            "off": {"thinking": {"type": "disabled"}},
            "high": {"thinking": {"type": "enabled"}, "reasoning_effort": "high"},
        },
        cached_in="prompt_cache_hit_tokens",
        prices="deepseek",
    ),
    "openrouter": Profile(
        hosts=("openrouter.ai",),
        reasoning={
            level: {"reasoning": {"effort": "none" if level == "off" else level}} for level in _OPENAI
        },
        written_in="prompt_tokens_details.cache_write_tokens",
        cost_in="cost",
        prices="openrouter",
    ),
    "groq": Profile(
        hosts=("api.groq.com",),
        length=MAX_COMPLETION_TOKENS,
        reasoning=_effort("off", "low", "medium", "high"),
        prices="groq",
    ),
    "together": Profile(
        hosts=("api.together.xyz", "api.together.ai"),
        reasoning={"off": {"reasoning": {"enabled": False}}, **_effort("low", "medium", "high")},
        cached_in="cached_tokens",
        prices="together",
    ),
    "ollama": Profile(
        port=11434,
        reasoning=_effort("off", "low", "medium", "high"),
        thinking_in="",
        cached_in="",
        context="start it with OLLAMA_CONTEXT_LENGTH (or PARAMETER num_ctx in the model's Modelfile) as large as the"
        " prompts, e.g. 16384",
    ),
    "llama_cpp": Profile(
        port=8080,
        reasoning={
            "off": _NOT_THINKING,
            **{
                level: {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": level}}
                for level in ("low", "medium", "high")
            },
        },
        thinking_in="",
        context="start it with a larger --ctx-size, and without --context-shift",
    ),
    "lm_studio": Profile(
        port=1234,
        json_object=False,
        reasoning=_effort("off", "low", "medium", "high"),
        context="load the model with a longer context, or set its overflow policy to stop at the limit",
    ),
    "vllm": Profile(port=8000, reasoning={"off": _NOT_THINKING, **_effort("low", "medium", "high")}),
    "sglang": Profile(
        port=30000, reasoning={"off": _NOT_THINKING, **_effort("low", "medium", "high")}, thinking_in="reasoning_tokens"
    ),
    "other": Profile(reasoning=_OPENAI),
}  # fmt: skip
# Tokens for an answer that comes after so much thinking.
ROOM: Mapping[Reasoning, int] = {"off": 0, "minimal": 2048, "low": 4096, "medium": 16384, "high": 32768}


def provider_of(config: BlackBoxConfig) -> Provider:
    """Whose manners are to be expected: as the config says, else by host name, else by a server's usual port."""
    if config.provider != "auto":
        return config.provider
    host = host_of(config.base_url).lower()
    for name, profile in PROFILES.items():
        if any(host == end or host.endswith((f".{end}", f"-{end}")) for end in profile.hosts):
            return name
    port = urlsplit(config.base_url or OPENAI_URL).port
    return next((name for name, p in PROFILES.items() if port is not None and p.port == port), "other")


def profile_of(config: BlackBoxConfig) -> Profile:
    """The row of ``provider_of``."""
    return PROFILES[provider_of(config)]


def reasoning_fields(config: BlackBoxConfig) -> Mapping[str, Any]:
    """Request fields that say ``black_box.reasoning``. UserError where the provider has no such level."""
    if config.reasoning is None:
        return {}
    levels = profile_of(config).reasoning
    if config.reasoning not in levels:
        raise UserError(
            f"black_box.reasoning: provider {provider_of(config)} knows {', '.join(levels)}, got {config.reasoning}"
        )
    return levels[config.reasoning]
