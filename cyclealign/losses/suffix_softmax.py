"""Softmax over the rest of the list, place by place: the shape of mathematics under ListMLE, PRO, PLD and CPRD."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int

from cyclealign.losses.base import RankedScores
from cyclealign.losses.lazy_torch import Tensor, torch


def best_first(scores: RankedScores, *, positive_first: bool = False) -> Int[Tensor, "B K"]:
    """Columns of each list, best teacher utility first, masked ones last.

    Candidates that the teacher ties stand in the student's own order: of all orders that the tie allows it
    has the least loss (in a tie the student is asked for no order), and the order of the columns plays no
    part. ``positive_first`` puts the column that ``scores.positive`` names before all others, where it is
    valid.
    """
    teacher = scores.teacher.to(torch.promote_types(scores.teacher.dtype, torch.float32))
    teacher = teacher.masked_fill(~scores.valid, -torch.inf)
    if positive_first and scores.positive is not None:
        columns = torch.arange(teacher.shape[1], device=teacher.device)
        teacher = teacher.masked_fill(scores.valid & (columns == scores.positive[:, None]), torch.inf)
    order = scores.student.detach().argsort(dim=1, descending=True, stable=True)
    return order.gather(1, teacher.gather(1, order).argsort(dim=1, descending=True, stable=True))


def suffix_softmax(
    student: Float[Tensor, "B K"],
    valid: Bool[Tensor, "B K"],
    weights: Float[Tensor, "B K"],
    coefficients: Float[Tensor, "B K K"] | None = None,
    *,
    beside: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    """sum_k w_k [ logsumexp_{i >= k}(c_ki s_i) - c_kk s_k ], lists sorted best first, masked entries last.

    Args:
        student: s. weights: w, finite everywhere (masked places are ignored).
        coefficients: c, [b, k, i], read where i >= k; None is 1 everywhere, in O(K) memory instead of O(K^2).
        beside: logsumexp of scores outside of the list that stand in every place's sum, finite; None is none.
    """
    if coefficients is None:
        own = student
        # The least finite number, not -inf: the gradient of an all -inf suffix would be NaN.
        filled = student.masked_fill(~valid, torch.finfo(student.dtype).min)
        normaliser = filled.flip(1).logcumsumexp(dim=1).flip(1)
    else:
        own = coefficients.diagonal(dim1=1, dim2=2) * student
        itself = torch.eye(student.shape[1], dtype=torch.bool, device=student.device)
        # A masked row keeps itself: the gradient of an all -inf row would be NaN.
        rest = valid[:, None, :].expand_as(coefficients).triu() | itself
        normaliser = (coefficients * student[:, None, :]).masked_fill(~rest, -torch.inf).logsumexp(dim=2)
    if beside is not None:
        normaliser = torch.logaddexp(normaliser, beside[:, None])
    return (weights * torch.where(valid, normaliser - own, 0.0)).sum(dim=1)
