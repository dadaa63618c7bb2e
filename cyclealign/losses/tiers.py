"""Tiers of equal utility, from one sort of the list: K log K, where comparing all pairs is K^2."""

from __future__ import annotations

from jaxtyping import Bool, Int, Real

from cyclealign.losses.lazy_torch import Tensor, torch


def tier_levels(teacher: Real[Tensor, "B K"], valid: Bool[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """Levels from utilities: equal ones are a level, the highest is level 0; where masked, any number below K."""
    wide = teacher.to(torch.promote_types(teacher.dtype, torch.float32))
    values, order = wide.masked_fill(~valid, -torch.inf).sort(dim=1, descending=True)
    lower = torch.zeros_like(order)
    lower[:, 1:] = (values[:, 1:] < values[:, :-1]).to(order.dtype)
    return torch.zeros_like(order).scatter(1, order, lower.cumsum(dim=1))
