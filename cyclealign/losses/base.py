"""The contract of every ranking loss: scores in, scalar out; one bundle, one output, one reduction."""

# No `from __future__ import annotations` here: jaxtyping checks the fields of a dataclass only where their
# annotations are objects, not strings.
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from jaxtyping import Bool, Float, Int, Real

from cyclealign.losses.lazy_torch import Tensor, torch

Needs = Literal["order", "magnitude", "levels", "votes"]
StudentScore = Literal["mean", "log_ratio"]
Reference = Literal["start", "previous"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedScores:
    """B lists of up to K candidates; columns come in any order, ``valid`` says which entries exist.

    student: any score, higher is better (mean log-likelihood in nats per token, log-ratio, similarity).
    teacher: utilities, higher is better, equal means tied; finite where valid. Of a loss that needs votes: win rates
        against the list's other candidates, 0 to 1. Masked entries of both may hold anything, NaN included.
    best_nll: NLL of the teacher-best candidate, one a list: nats per token, or per response where the loss
        says ``sft_reduction == "sum"``.
    levels: 0 is best. positive: column of the known-best candidate, one a list; -1 where none is known.
    outside: the student's scores of further candidates that the teacher did not rank (other lists of the batch),
        -inf where there is none. Only CPRD looks at them.

    Raises ValueError where the shapes do not belong together.
    """

    student: Float[Tensor, "B K"]
    teacher: Real[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]
    best_nll: Float[Tensor, " B"] | None = None
    levels: Int[Tensor, "B K"] | None = None
    positive: Int[Tensor, " B"] | None = None
    outside: Float[Tensor, "B E"] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.student.shape)
        if len(shape) != 2:
            raise ValueError(f"student: expected shape [lists, candidates], got {list(shape)}")
        if self.valid.dtype != torch.bool:
            raise ValueError(f"valid: expected a bool tensor, got {self.valid.dtype}")
        for name, expected in (("teacher", shape), ("valid", shape), ("levels", shape)):
            _expect_shape(name, getattr(self, name), expected)
        for name in ("best_nll", "positive"):
            _expect_shape(name, getattr(self, name), shape[:1])
        if self.outside is not None:
            _expect_shape("outside", self.outside, (shape[0], self.outside.shape[-1]))

    @property
    def counted(self) -> Bool[Tensor, " B"]:
        """Lists with at least two valid entries: the only ones that enter the reduction."""
        return self.valid.sum(dim=1) >= 2


def _expect_shape(name: str, tensor: Tensor | None, expected: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != expected:
        got = list(tensor.shape)
        raise ValueError(f"{name}: expected shape {list(expected)} to go with student, got {got}")


@dataclass(frozen=True, slots=True)
class LossOutput:
    """``loss``: scalar to minimise. ``per_list``: the published form for each list [B], 0 where not counted,
    without the SFT term. ``metrics``: detached scalars for the log, reduced as the loss is."""

    loss: Float[Tensor, ""]
    per_list: Float[Tensor, " B"]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RankingLoss(ABC):
    """Base of the losses: subclasses give ``list_losses``; the reduction and the SFT term live here once.

    Fields of a subclass are its config section; ``name`` is the section's discriminator.
    """

    name: str

    @property
    def student_score(self) -> StudentScore:
        """What a policy's score is: mean log-likelihood in nats per token, or log pi - log pi_ref of the response."""
        return "mean"

    @property
    def beta(self) -> float:
        """Factor of the student's scores, in all that the loss computes from them."""
        return 1.0

    @property
    def reference(self) -> Reference:
        """pi_ref of a log-ratio: the start model, or the weights before this interaction."""
        return "start"

    @property
    def needs(self) -> Needs:
        """What the teacher must offer; of ``votes``, the bundle's ``teacher`` is the win rates."""
        return "order"

    @property
    def sft(self) -> float:
        """Weight of the NLL of the teacher-best candidate; 0: ``best_nll`` is not wanted."""
        return 0.0

    @property
    def sft_reduction(self) -> Reduction:
        """How ``best_nll`` is to be taken over the tokens of the response."""
        return "mean"

    def sft_weights(self, scores: RankedScores) -> Float[Tensor, " B"]:
        """Weight of the SFT term for each list."""
        return scores.student.new_full(scores.student.shape[:1], self.sft)

    def read(self, teacher: Sequence[float]) -> tuple[int, ...]:
        """Places of a list's candidates that the loss looks at: the others need no forward pass in training."""
        return tuple(range(len(teacher)))

    @abstractmethod
    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        """Published form per list, from scores that are multiplied by ``beta`` already; finite for every list,
        gradients zero for masked entries."""

    def __call__(self, scores: RankedScores, *, lists: Tensor | float | int | None = None) -> LossOutput:
        """Reduce over lists.

        Args:
            scores: the bundle; float16 and bfloat16 are computed in float32, the output has that width.
            lists: what to divide by, where it is not the number of counted lists of this bundle: the number
                over all processes and accumulation steps of one optimiser step (or a fraction of it, where
                the caller's own averaging divides again). 0 gives a loss of 0, not NaN.
        """
        scores = _scaled(widened(scores), self.beta)
        counted = scores.counted
        per_list = torch.where(counted, self.list_losses(scores), 0.0)
        denominator = counted.sum() if lists is None else torch.as_tensor(lists, device=per_list.device)
        denominator = torch.where(denominator > 0, denominator, 1).to(per_list.dtype)
        loss = per_list.sum() / denominator
        metrics = {"rank_loss": loss.detach()}
        if scores.best_nll is not None and self.sft > 0:
            nll = torch.where(counted, scores.best_nll, 0.0)
            metrics["best_nll"] = nll.detach().sum() / denominator
            loss = loss + (self.sft_weights(scores) * nll).sum() / denominator
        return LossOutput(loss=loss, per_list=per_list, metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class SFTWeighted(RankingLoss):
    """A loss beside which ``sft_weight`` times the mean NLL per token of the teacher-best candidate may stand."""

    sft_weight: float = 0.0
    """Weight of the NLL per token of the teacher-best candidate beside the loss."""

    def __post_init__(self) -> None:
        require_non_negative("sft_weight", self.sft_weight)

    @property
    def sft(self) -> float:
        return self.sft_weight


@dataclass(frozen=True, kw_only=True)
class ListLoss(SFTWeighted):
    """A loss of any score of the student: of a policy its mean log-likelihood, or its log-ratio to a reference.

    log_ratio: s = ``beta`` (log pi - log pi_ref), summed over the tokens of the response: DPO's implicit reward.
    Likelihoods are taken as they are: ``beta`` and ``reference`` belong to log_ratio alone.
    """

    student_score: StudentScore = "mean"
    """What is compared: ``mean``, log-likelihood in nats per token, or ``log_ratio``, ``beta`` times the log-ratio to
    the reference."""
    beta: float = 1.0
    """Factor of the log-ratio."""
    reference: Reference = "start"
    """Of the log-ratio: the start model, or the weights before this interaction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("student_score", self.student_score, StudentScore)
        require_one_of("reference", self.reference, Reference)
        require_positive("beta", self.beta)
        unread = {"beta": self.beta != 1, "reference": self.reference != "start"}
        for name in (name for name, set_ in unread.items() if set_ and self.student_score == "mean"):
            raise ValueError(f"{name}: read with student_score: log_ratio alone, got {getattr(self, name)}")


def widened(scores: RankedScores) -> RankedScores:
    """float32 or wider, with harmless numbers in the masked places (so that NaN cannot leak a gradient).

    The teacher keeps its own width: rounding it to the student's could tie what it orders.
    """
    wide = torch.promote_types(scores.student.dtype, torch.float32)
    teacher = scores.teacher.detach()
    teacher = teacher.to(torch.promote_types(teacher.dtype, torch.float32))
    return replace(
        scores,
        student=torch.where(scores.valid, scores.student.to(wide), 0.0),
        teacher=torch.where(scores.valid, teacher, 0.0),
        best_nll=None if scores.best_nll is None else scores.best_nll.to(wide),
        outside=None if scores.outside is None else scores.outside.to(wide),
    )


def _scaled(scores: RankedScores, beta: float) -> RankedScores:
    if beta == 1:
        return scores
    outside = None if scores.outside is None else beta * scores.outside
    return replace(scores, student=beta * scores.student, outside=outside)


def centred(values: Float[Tensor, "B K"], valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Differences to the mean of each list's valid entries; 0 where masked. Masked entries must be finite."""
    mean = torch.where(valid, values, 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    return torch.where(valid, values - mean[:, None], 0.0)


def list_log_softmax(values: Float[Tensor, "B K"], valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """log softmax over the valid entries; finite everywhere, meaningless where masked."""
    # The least finite number, not -inf: an all-masked list has to stay finite.
    return values.masked_fill(~valid, torch.finfo(values.dtype).min).log_softmax(dim=1)


def require_one_of(name: str, value: str, words: object) -> None:
    """ValueError unless ``value`` is one of a Literal's words."""
    if value not in get_args(words):
        raise ValueError(f"{name}: expected one of {', '.join(get_args(words))}, got {value!r}")


def require_count(name: str, value: int | None) -> None:
    """ValueError unless a field is None or a whole number of at least 1."""
    if value is not None and value < 1:
        raise ValueError(f"{name}: expected a whole number >= 1, got {value}")


def require_positive(name: str, value: float) -> None:
    """ValueError unless a field is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")


def require_non_negative(name: str, value: float) -> None:
    """ValueError unless a field is a finite number, zero or more."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
