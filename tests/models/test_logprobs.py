"""Log-probs of responses against a loop over the model's own logits, in every layout."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal

import pytest
import torch
from logprob_cases import LISTS, MODELS, SIZES, brute_force, rows_of, with_lora
from tiny_policy import tiny_llama
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
)

from cyclealign.models import lm_head
from cyclealign.models.encoded_lists import EncodedList, collate
from cyclealign.models.layouts import choose_plan
from cyclealign.models.logprobs import Plan, attach, sequence_scores, token_logprobs
from cyclealign.models.passes import PASS_TOKENS

PLANS = [Plan(layout, fused) for layout in ("padded", "cached_prefix") for fused in (True, False)]


def weighted_loss(rows: list[Tensor]) -> Tensor:
    weighted = [(0.3 + r) * (row * torch.arange(1, len(row) + 1)).mean() for r, row in enumerate(rows)]
    return torch.stack(weighted).sum()


def gradients(model: Any, loss: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.layout}-{'fused' if p.fused else 'whole'}")
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_equal_a_loop_over_the_logits(name: str, plan: Plan, checkpointing: bool) -> None:
    model = MODELS[name]()
    expected = brute_force(model, LISTS)
    expected_gradient = gradients(model, weighted_loss(expected))
    if checkpointing:
        model.gradient_checkpointing_enable()
    attach(model)
    model.train()
    found = rows_of(model, plan)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    gradient = gradients(model, weighted_loss(found))
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-5
    assert float(expected_gradient.norm()) > 0.1


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("at_once", [None, 1, 2, 5])
@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.layout}-{'fused' if p.fused else 'whole'}")
@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_passes_gives_the_same(
    name: str, plan: Plan, at_once: int | None, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASS_TOKENS, "cpu", 0)  # a pass of each length
    model = MODELS[name]()
    expected = brute_force(model, LISTS)
    expected_gradient = gradients(model, weighted_loss(expected))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    attach(model)
    found = rows_of(model.train(), replace(plan, responses_per_pass=at_once))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    gradient = gradients(model, weighted_loss(found))
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-5


@pytest.mark.parametrize("layout", ["padded", "cached_prefix"])
def test_sixteen_responses_take_the_memory_of_two(layout: Literal["padded", "cached_prefix"]) -> None:
    def peak(responses: int, at_once: int | None) -> int:
        model = tiny_llama()
        attach(model)
        batch = collate([EncodedList(list(range(3, 30)), (list(range(5, 36)),) * responses)], pad=0)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            token_logprobs(model.train(), batch, Plan(layout, True, at_once)).sum().backward()
        changes = [e.nbytes() for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
        return max(accumulate(changes))

    two, sixteen, parted = peak(2, None), peak(16, None), peak(16, 2)
    assert sixteen > 4 * two
    assert parted < 1.4 * two  # the states before the head, and the log-probs, are of all sixteen


def test_a_hooked_head_sees_response_positions_only_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    attach(model)
    batch = collate(LISTS, pad=0)
    whole = token_logprobs(model, batch, Plan())
    monkeypatch.setitem(lm_head.CHUNK_ELEMENTS, "cpu", 3 * model.config.vocab_size)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output.shape[0]))
    chunked = token_logprobs(model, batch, Plan())
    assert max(seen) <= 3
    assert sum(seen) == int(batch["response_mask"].sum()) == 16
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_the_linear_head_and_its_gradients_by_finite_differences(size: int, bias: bool) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(7, 4).double().requires_grad_(), torch.randn(11, 4).double().requires_grad_()
    shift = torch.randn(11).double().requires_grad_() if bias else None
    targets = torch.tensor([0, 3, 3, 10, 5, 1, 2])

    def run(*inputs: Tensor) -> Tensor:
        return lm_head.LinearHead.apply(inputs[0], inputs[1], inputs[2] if bias else None, targets, size)

    inputs = (states, weight, shift) if shift is not None else (states, weight)
    expected = torch.nn.functional.linear(*inputs).log_softmax(dim=1)[torch.arange(7), targets]
    torch.testing.assert_close(run(*inputs), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(run, inputs)


def test_the_linear_head_under_autocast_and_with_large_logits() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(5, 16).requires_grad_(), torch.randn(50, 16).requires_grad_()
    targets = torch.tensor([1, 2, 3, 4, 49])
    expected = (states @ weight.T).log_softmax(dim=1)[torch.arange(5), targets]
    wanted = torch.autograd.grad(expected.sum(), (states, weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = lm_head.LinearHead.apply(states, weight, None, targets, 2)
        large = lm_head.LinearHead.apply(100 * states, weight, None, targets, 2)
    assert found.dtype == torch.float32
    assert large.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
    for mine, theirs in zip(torch.autograd.grad(found.sum(), (states, weight)), wanted, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 0.02


def test_a_frozen_head_gets_no_gradient_and_only_states_do() -> None:
    model = tiny_llama()
    model.lm_head.weight.requires_grad_(False)
    attach(model)
    token_logprobs(model, collate(LISTS, pad=0), Plan()).sum().backward()
    assert model.lm_head.weight.grad is None
    assert model.model.norm.weight.grad is not None


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_response_without_tokens_is_an_empty_row(plan: Plan) -> None:
    model = tiny_llama()
    attach(model)
    assert token_logprobs(model, collate([EncodedList([5, 6], ([],))], pad=0), plan).tolist() == [[0, 0]]


def test_an_adapter_that_is_off_gives_the_base_model() -> None:
    base = tiny_llama()
    adapted = with_lora(copy.deepcopy(base))
    attach(base)
    attach(adapted)
    batch = collate(LISTS, pad=0)
    for plan in PLANS:
        with adapted.disable_adapter():
            torch.testing.assert_close(token_logprobs(adapted, batch, plan), token_logprobs(base, batch, plan))
        assert not torch.allclose(token_logprobs(adapted, batch, plan), token_logprobs(base, batch, plan))


def test_a_model_that_changes_its_logits_takes_the_whole_path(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    special = {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 4}
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, **special, num_key_value_heads=2)).eval()
    expected = brute_force(model, LISTS)
    attach(model)
    plan = choose_plan(model, LISTS, "auto")
    assert not plan.fused
    assert "final_logit_softcapping" in caplog.text
    for mine, theirs in zip(rows_of(model, plan), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_attach_leaves_the_ordinary_forward_alone() -> None:
    model = tiny_llama()
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    attach(model)
    attach(model)
    torch.testing.assert_close(model(input_ids=ids).logits, before)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    values = token_logprobs(twin, collate(LISTS[:1], pad=0), Plan())
    torch.testing.assert_close(values[0, 0], torch.tensor(1 / model.config.vocab_size).log())


def test_half_precision_is_widened() -> None:
    model = tiny_llama().to(torch.bfloat16)
    attach(model)
    assert token_logprobs(model, collate(LISTS, pad=0), Plan()).dtype == torch.float32
    model = tiny_llama().double()
    attach(model)
    assert token_logprobs(model, collate(LISTS, pad=0), Plan()).dtype == torch.float64


def test_sequence_scores_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -6.0], [-4.0, float("nan"), -100.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    total, mean = sequence_scores(logprobs, mask)
    assert total.tolist() == [-9.0, -4.0]
    assert mean.tolist() == [-3.0, -4.0]
