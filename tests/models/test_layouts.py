"""The self-test that chooses the layout: it must see a lost prompt and a cut graph."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from logprob_cases import LISTS, MODELS, SIZES, brute_force, rows_of
from tiny_policy import tiny_llama
from torch import Tensor
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from cyclealign.models.layouts import choose_plan
from cyclealign.models.logprobs import Plan, attach
from cyclealign.models.prefix_cache import BranchCache, PromptCache
from cyclealign.types import UserError


def attached(model: Any, **checkpointing: Any) -> Any:
    if checkpointing:
        model.gradient_checkpointing_enable(checkpointing)
    attach(model)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_auto_takes_the_cached_prefix_where_it_is_right(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_plan(attached(MODELS[name]()), LISTS, "auto") == Plan("cached_prefix", fused=True)
    assert choose_plan(attached(MODELS[name](), use_reentrant=False), LISTS, "auto").layout == "cached_prefix"
    assert caplog.text == ""


def test_padded_is_taken_where_it_is_asked_for() -> None:
    assert choose_plan(attached(tiny_llama()), LISTS, "padded") == Plan("padded", fused=True)


def test_the_choice_leaves_no_trace_in_the_model() -> None:
    model = attached(tiny_llama()).eval()
    choose_plan(model, LISTS, "auto")
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def refused(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    assert choose_plan(model, LISTS, "auto").layout == "padded"
    assert "layout: using padded" in caplog.text
    with pytest.raises(UserError, match=r"^layout: cached_prefix does not work .*use layout=auto or padded"):
        choose_plan(model, LISTS, "cached_prefix")


def test_a_cache_that_checkpointing_drops_is_caught(caplog: pytest.LogCaptureFixture) -> None:
    model = attached(tiny_llama(), use_reentrant=False)
    for layer in model.model.layers:
        layer._can_checkpoint_with_cache = False  # transformers' own default
    refused(model, caplog)


def test_a_cache_that_is_ignored_is_caught(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The silent form: shapes fit, the responses just do not see the prompt."""

    def forgetful(self: BranchCache, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        before = keys.new_zeros(*keys.shape[:2], self.length, keys.shape[3])
        return torch.cat([before, keys], dim=2), torch.cat([before, values], dim=2)

    monkeypatch.setattr(BranchCache, "update", forgetful)
    refused(attached(tiny_llama()), caplog)


def test_a_cut_graph_is_caught_by_its_gradients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is right and the gradients are wrong."""

    def detached(
        self: PromptCache, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.states.setdefault(layer_idx, (keys.detach(), values.detach()))
        return keys, values

    monkeypatch.setattr(PromptCache, "update", detached)
    refused(attached(tiny_llama()), caplog)
    found = re.search(r"of the loss (\S+),", caplog.text)
    assert found is not None
    assert float(found[1]) < 1e-5  # right by the loss alone


def test_reentrant_checkpointing_is_caught(caplog: pytest.LogCaptureFixture) -> None:
    refused(attached(tiny_llama(), use_reentrant=True), caplog)


def test_a_model_without_a_cache_runs_padded(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    config = OpenAIGPTConfig(vocab_size=40, n_embd=SIZES["hidden_size"], n_layer=2, n_head=4, n_positions=64)
    model = OpenAIGPTLMHeadModel(config).eval()
    expected = brute_force(model, LISTS)
    attach(model)
    refused(model, caplog)
    for mine, theirs in zip(rows_of(model, choose_plan(model, LISTS, "auto")), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
