"""QuantiDCE's second stage: human ratings, while staying near the frozen first-stage model."""

# No `from __future__ import annotations` here: jaxtyping checks the fields of a dataclass only where their
# annotations are objects, not strings.
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from cyclealign.losses.base import LossOutput, require_non_negative
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStates:
    """What one model computed for B pairs: a score in (0, 1) each, hidden states of the embeddings and every layer,
    attention maps (after softmax) of every layer. Entries of padding may hold any finite number."""

    score: Float[Tensor, " B"]
    hidden: tuple[Float[Tensor, "B T D"], ...]
    attention: tuple[Float[Tensor, "B H T T"], ...]


@dataclass(frozen=True, kw_only=True)
class QuantiDCEKD:
    """L = rating_weight MSE(4 s + 1, human) + kd_weight [ sum_h MSE + sum_A MSE + MSE(s, s_frozen) ].

    Sums over the hidden states h and the attention maps A, layer by layer of the same architecture (Ye et al. 2021,
    arXiv 2106.00507, section 3.3; weights 1 and 5). MSE is the mean over elements; padding is left out of it here,
    the published code counts it. ``per_list`` is the rating term, one a pair.
    """

    name: Literal["quantidce_kd"] = "quantidce_kd"
    """Human ratings, while staying near the frozen model of the first stage."""
    kd_weight: float = 5.0
    """Weight of staying near the frozen model."""
    rating_weight: float = 1.0
    """Weight of the ratings' squared error."""

    def __post_init__(self) -> None:
        require_non_negative("kd_weight", self.kd_weight)
        require_non_negative("rating_weight", self.rating_weight)

    def __call__(
        self,
        student: ModelStates,
        frozen: ModelStates,
        *,
        tokens: Bool[Tensor, "B T"],
        rating: Float[Tensor, " B"] | None = None,
    ) -> LossOutput:
        """The loss of a batch.

        Args:
            tokens: which positions hold a token.
            rating: human ratings from 1 to 5; None leaves the regulariser alone.

        Raises:
            ValueError: student and frozen model have different numbers of layers.
        """
        for name in ("hidden", "attention"):
            mine, theirs = len(getattr(student, name)), len(getattr(frozen, name))
            if mine != theirs:
                raise ValueError(f"{name}: expected a frozen copy with the student's {mine} layers, got {theirs}")
        per_pair = torch.zeros_like(student.score)
        if rating is not None:
            per_pair = (4 * student.score + 1 - rating.to(student.score.dtype)).square()
        both = tokens[:, :, None] & tokens[:, None, :]
        terms = {
            "rating": per_pair.sum() / max(len(per_pair), 1),
            "hidden": _layers(student.hidden, frozen.hidden, tokens[:, :, None]),
            "attention": _layers(student.attention, frozen.attention, both[:, None]),
            "score": (student.score - frozen.score.detach()).square().sum() / max(len(per_pair), 1),
        }
        kept = terms["hidden"] + terms["attention"] + terms["score"]
        loss = self.rating_weight * terms["rating"] + self.kd_weight * kept
        return LossOutput(loss=loss, per_list=per_pair, metrics={k: v.detach() for k, v in terms.items()})


def _layers(student: tuple[Tensor, ...], frozen: tuple[Tensor, ...], there: Tensor) -> Tensor:
    """Sum over layers of the mean squared difference over the elements that are there."""
    total = torch.zeros((), device=there.device)
    for mine, theirs in zip(student, frozen, strict=True):
        inside = there.expand_as(mine)
        wide = torch.promote_types(mine.dtype, torch.float32)
        difference = torch.where(inside, mine.to(wide) - theirs.detach().to(wide), 0.0)
        total = total + difference.square().sum() / inside.sum().clamp(min=1)
    return total
