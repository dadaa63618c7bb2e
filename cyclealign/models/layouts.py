"""Choose how log-probs are computed, by test: the cached prefix must give the padded layout's loss AND
gradients.

A dropped cache or a cut graph can leave the loss right and the gradients wrong, so both are compared, on a
few of the run's own lists, in training mode, as the trainer will run it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from cyclealign.models.encoded_lists import EncodedList, collate, on_device
from cyclealign.models.logprobs import Plan, causal_lm, token_logprobs
from cyclealign.models.sharded import whole
from cyclealign.types import UserError

logger = logging.getLogger(__name__)
# What some architectures do to the logits after the head, by the name of its config field: too small to see
# on the logits of an untrained model, so it is also looked up.
AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)
# Relative difference that rounding alone explains; a lost prompt or a cut graph is tens of percent.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.05}
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError)


def choose_plan(
    model: nn.Module,
    sample: Sequence[EncodedList],
    requested: Literal["auto", "cached_prefix", "padded"],
    *,
    responses_per_pass: int | None = None,
    pad: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Plan:
    """The plan to use for this model.

    Args:
        model: prepared by ``logprobs.attach``, not yet wrapped; its mode is left as found, its gradients are dropped.
        sample: a few lists of the run, of which two are used, shortened.
        requested: ``auto`` falls back to padded with a log line where the layouts differ.
        responses_per_pass: of the plan; see ``Plan``.
        dtype: what the forward pass computes in (autocast).

    Raises:
        UserError: ``cached_prefix`` was demanded and does not reproduce the padded layout on this model.
    """
    lists = [_shortened(item) for item in sample[:2]]
    fused = _head_is_plain(model, lists, pad, dtype)
    padded, cached = (Plan(layout, fused, responses_per_pass) for layout in ("padded", "cached_prefix"))
    if requested == "padded":
        return padded
    problem = _difference(model, lists, pad, cached, dtype)
    if problem is None:
        return cached
    if requested == "cached_prefix":
        raise UserError(f"layout: cached_prefix does not work with this model ({problem}); use layout=auto or padded")
    logger.warning("layout: using padded, because cached_prefix differs on this model: %s", problem)
    return padded


def _shortened(item: EncodedList) -> EncodedList:
    return EncodedList(item.prompt[-48:], tuple(row[:16] for row in item.responses[:3]))


def _head_is_plain(model: nn.Module, lists: Sequence[EncodedList], pad: int, dtype: torch.dtype) -> bool:
    """Whether head(last hidden states) are the model's logits."""
    config = causal_lm(model).config.get_text_config()
    names = [n for n in AFTER_THE_HEAD if getattr(config, n, None) not in (None, 1, 1.0)]
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            fused, whole = (_run(model, lists, pad, Plan("padded", f), dtype) for f in (True, False))
    except FAILURES as error:
        names.append(f"{type(error).__name__}: {error}")
    else:
        if not names and _relative([fused], [whole]) <= TOLERANCE[dtype]:
            return True
        names = names or ["its logits differ from those of its head"]
    finally:
        model.train(mode)
    logger.warning("log-probs: the whole logits are built, because of %s", ", ".join(names))
    return False


def _difference(model: nn.Module, lists: Sequence[EncodedList], pad: int, plan: Plan, dtype: torch.dtype) -> str | None:
    """Why ``plan`` is not the padded layout; None when loss and gradients agree."""
    mode = model.training
    model.train()
    try:
        padded_loss, padded = _loss_and_gradients(model, lists, pad, Plan("padded", plan.fused), dtype)
        cached_loss, cached = _loss_and_gradients(model, lists, pad, plan, dtype)
    except FAILURES as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        model.train(mode)
    loss, gradient = _relative([cached_loss], [padded_loss]), _relative(cached, padded)
    if loss <= TOLERANCE[dtype] and gradient <= TOLERANCE[dtype]:
        return None
    return f"relative difference of the loss {loss:.1e}, of the gradients {gradient:.1e}"


def _loss_and_gradients(
    model: nn.Module, lists: Sequence[EncodedList], pad: int, plan: Plan, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    logprobs = _run(model, lists, pad, plan, dtype)
    # Unequal weights: with equal ones, errors of different rows could cancel.
    weights = torch.linspace(0.5, 1.5, logprobs.numel(), device=logprobs.device).view_as(logprobs)
    loss = (weights * logprobs).sum() / logprobs.numel()
    # Not torch.autograd.grad: a model that is cut has its gradients in the parameters that it is cut into.
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros_like(whole(p)) if p.grad is None else whole(p.grad) for p in parameters]
    model.zero_grad()
    return loss.detach(), gradients


def _run(model: nn.Module, lists: Sequence[EncodedList], pad: int, plan: Plan, dtype: torch.dtype) -> Tensor:
    device = next(model.parameters()).device
    with autocast(device, dtype):
        return token_logprobs(model, on_device(collate(lists, pad), device), plan)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Half-precision arithmetic, as the trainer runs its forward pass; nothing where it computes in float32."""
    if dtype in (torch.bfloat16, torch.float16):
        return torch.autocast(device.type, dtype)
    return nullcontext()


def _relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """|found - expected| / |expected| over all tensors; infinite where one is not finite."""
    error = sum(float((f - e).double().square().sum()) for f, e in zip(found, expected, strict=True))
    size = sum(float(e.double().square().sum()) for e in expected)
    value = (error / size) ** 0.5 if size > 0 else error**0.5
    return value if value == value else float("inf")
