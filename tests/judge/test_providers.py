"""Whose manners are expected of which address, and how each provider is asked first."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from cyclealign.config.black_box import REASONING_REQUEST_KEYS, BlackBoxConfig, Provider
from cyclealign.judge.call import Call
from cyclealign.judge.costs import asked_options, request_options
from cyclealign.judge.failures import Failure
from cyclealign.judge.providers import PROFILES, provider_of, reasoning_fields
from cyclealign.judge.wire import WireForm, refused_field
from cyclealign.types import UserError


def box(url: str | None = None, **more: Any) -> BlackBoxConfig:
    return BlackBoxConfig(**{"model": "judge", "base_url": url} | more)


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        (None, "openai"),
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "azure"),
        ("https://mine.services.ai.azure.com/openai/v1?api-version=preview", "azure"),
        ("https://api.anthropic.com/v1/", "anthropic"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/l/endpoints/openapi", "gemini"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.together.xyz/v1", "together"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://box.lan:11434/v1", "ollama"),
        ("http://[::1]:8080/v1", "llama_cpp"),
        ("http://127.0.0.1:1234/v1", "lm_studio"),
        ("http://127.0.0.1:8000/v1", "vllm"),
        ("http://127.0.0.1:30000/v1", "sglang"),
        ("https://API.OpenAI.com/v1", "openai"),
        ("https://api.openai.com.example.org/v1", "other"),
        ("https://notopenrouter.ai/v1", "other"),
        ("http://127.0.0.1:9/v1", "other"),
    ],
)
def test_an_address_names_its_provider(url: str | None, provider: str) -> None:
    assert provider_of(box(url)) == provider


def test_what_the_config_says_comes_before_the_address() -> None:
    assert provider_of(box("http://127.0.0.1:8000/v1", provider="deepseek")) == "deepseek"
    assert set(PROFILES) == set(get_args(Provider)) - {"auto"}


@pytest.mark.parametrize("provider", PROFILES)
def test_every_level_of_reasoning_is_said_by_fields_that_request_may_not_repeat(provider: Provider) -> None:
    for level, fields in PROFILES[provider].reasoning.items():
        config = box(provider=provider, reasoning=level)
        assert reasoning_fields(config) == fields
        assert set(fields) <= set(REASONING_REQUEST_KEYS)
        options = request_options(config, 3)
        assert {name: options[name] for name in fields} == fields
        assert asked_options(config) == {"reasoning": level}
        most = fields.get("thinking", {}).get("budget_tokens", 0)
        assert options[PROFILES[provider].length] > most  # thinking leaves room for the answer


def test_a_level_that_a_provider_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(UserError, match="provider deepseek knows off, high, got minimal"):
        request_options(box("https://api.deepseek.com", reasoning="minimal"), 3)


def test_how_much_to_think_is_asked_for_and_what_it_is_called_is_not() -> None:
    def key(**more: Any) -> str:
        config = box("http://127.0.0.1:9/v1", **more)
        words = [{"role": "user", "content": "which?"}]
        options = request_options(config, 3)
        return Call(
            endpoint="e", model="m", messages=words, schema=None, options=options, asked=asked_options(config),
            purpose="rank",
        ).key  # fmt: skip

    assert key(reasoning="low") == key(reasoning="low", provider="openrouter") != key() != key(reasoning="high")
    assert key(request={"seed": 1}) == key(request={"seed": 1}, provider="mistral") != key(request={"seed": 2})
    assert key() == key(request={"temperature": 1, "max_tokens": 9, "top_k": None})


@pytest.mark.parametrize(
    ("changes", "form", "options"),
    [
        ({}, {}, {"temperature": 0, "max_tokens": 88}),
        ({}, {"refused": {"max_tokens": "no"}}, {"temperature": 0, "max_completion_tokens": 88}),
        ({}, {"refused": {"max_tokens": "no", "temperature": "no"}, "room": 2048}, {"max_completion_tokens": 2048}),
        ({}, {"room": 8192, "most": 4096}, {"temperature": 0, "max_tokens": 4096}),
        ({}, {"room": 8192, "most": 50}, {"temperature": 0, "max_tokens": 88}),
        ({"request": {"max_tokens": 9}}, {"room": 2048}, {"temperature": 0, "max_tokens": 9}),
        (
            {"request": {"max_tokens": 9}}, {"refused": {"max_tokens": "no"}},
            {"temperature": 0, "max_completion_tokens": 9},
        ),
        ({"request": {"temperature": 0.7}}, {"refused": {"temperature": "no"}}, {"temperature": 0.7, "max_tokens": 88}),
        ({"request": {"seed": 3}}, {"seed": "random_seed"}, {"temperature": 0, "max_tokens": 88, "random_seed": 3}),
        ({"request": {"seed": 3}}, {"refused": {"seed": "no"}}, {"temperature": 0, "max_tokens": 88}),
        ({"request": {"seed": 3}}, {"seed": ""}, {"temperature": 0, "max_tokens": 88}),
    ],
)  # fmt: skip
def test_options_follow_the_wire_form(changes: dict[str, Any], form: dict[str, Any], options: dict[str, Any]) -> None:
    known = WireForm(**{"length": "max_tokens", "seed": "seed", "temperature": True} | form)
    assert request_options(box("http://127.0.0.1:9/v1", **changes), 3, known) == options


def test_models_that_take_no_temperature_are_sent_none() -> None:
    assert request_options(box(model="gpt-5-mini"), 3) == {"max_completion_tokens": 88}
    assert request_options(box(model="gpt-4.1"), 3) == {"temperature": 0, "max_completion_tokens": 88}
    assert request_options(box(model="gpt-5-mini", request={"temperature": 1}), 3)["temperature"] == 1


@pytest.mark.parametrize(
    ("status", "code", "detail", "field"),
    [
        (400, "unsupported_parameter max_tokens", "Unsupported parameter: 'max_tokens' is not supported with this"
         " model. Use 'max_completion_tokens' instead.", "max_tokens"),
        (400, "", "`temperature` is deprecated for this model.", "temperature"),
        (422, "", '[{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]', "seed"),
        (400, "", "Unrecognized request argument supplied: reasoning_effort", "reasoning_effort"),
        (400, "", "the temperatures of the sea", None),
        (400, "content_filter", "flagged: temperature", None),
        (429, "", "temperature", None),
        (400, "", "no such model", None),
    ],
)  # fmt: skip
def test_a_refusal_names_a_field_of_the_request(status: int, code: str, detail: str, field: str | None) -> None:
    options = {"max_tokens": 88, "temperature": 0, "seed": 1, "reasoning": {}, "reasoning_effort": "low"}
    assert refused_field(Failure(detail=detail, status=status, code=code), options) == field
