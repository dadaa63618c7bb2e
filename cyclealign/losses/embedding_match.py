"""Embedding match: the student's vectors in the teacher's space, LEAF's loss."""

# No `from __future__ import annotations` here: jaxtyping checks the fields of a dataclass only where their
# annotations are objects, not strings.
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from cyclealign.losses.base import LossOutput, require_count
from cyclealign.losses.lazy_torch import Tensor, torch


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingPairs:
    """N texts, each with the student's vector and the teacher's; rows that are not ``valid`` may hold anything.

    Raises ValueError where the widths differ: a student of another width needs its projection first.
    """

    student: Float[Tensor, "N D"]
    teacher: Float[Tensor, "N D"]
    valid: Bool[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        if self.student.shape != self.teacher.shape:
            raise ValueError(
                f"teacher: expected the student's shape {list(self.student.shape)}, got {list(self.teacher.shape)};"
                " project the student to the teacher's width, and compare prefixes by widths=(...)"
            )


@dataclass(frozen=True, kw_only=True)
class EmbeddingMatch:
    """Distance between the student's vector y and the teacher's, per text: no pairs, no negatives.

    l = ||y - y_teacher||^power (LEAF: Vujanic and Rückstiess 2025, arXiv 2509.12539; whether its norm is squared is
    not settled, so ``power`` is 1 or 2). ``widths``: the mean of l over these prefixes of both vectors instead of the
    whole; with ``renormalise`` BOTH are brought back to length 1 after truncation, so that a perfect student has a
    loss of 0 at every width. The whole vector is compared as it is: a model that normalises does so itself.

    ``per_list`` is per text; the loss is their mean. Metrics: the mean cosine of the whole vectors.
    """

    name: Literal["leaf"] = "leaf"
    """LEAF's match of the student's vectors to the teacher's."""
    power: Literal[1, 2] = 2
    """Power of the distance of two vectors."""
    widths: tuple[int, ...] = ()
    """The mean over these prefixes of the vectors in place of the whole; empty: the whole."""
    renormalise: bool = True
    """Prefixes of both are brought back to length 1."""

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise ValueError(f"power: expected 1 or 2, got {self.power}")
        for width in self.widths:
            require_count("widths", width)

    def __call__(self, pairs: EmbeddingPairs, *, texts: Tensor | float | int | None = None) -> LossOutput:
        """Reduce over texts; float16 and bfloat16 are computed in float32.

        Args:
            texts: what to divide by, where it is not the number of valid rows (as ``lists`` of a ranking loss).
        """
        wide = torch.promote_types(pairs.student.dtype, torch.float32)
        valid = pairs.student.new_ones(len(pairs.student), dtype=torch.bool) if pairs.valid is None else pairs.valid
        student = torch.where(valid[:, None], pairs.student.to(wide), 0.0)
        teacher = torch.where(valid[:, None], pairs.teacher.detach().to(wide), 0.0)
        per_text = self._distances(student, teacher)
        denominator = valid.sum() if texts is None else torch.as_tensor(texts, device=per_text.device)
        denominator = torch.where(denominator > 0, denominator, 1).to(wide)
        loss = per_text.sum() / denominator
        cosine = torch.nn.functional.cosine_similarity(student.detach(), teacher, dim=1).sum() / denominator
        return LossOutput(loss=loss, per_list=per_text, metrics={"match_loss": loss.detach(), "cosine": cosine})

    def _distances(self, student: Float[Tensor, "N D"], teacher: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        whole = student.shape[1]
        terms = []
        for width in self.widths or (whole,):
            if width > whole:
                raise ValueError(f"widths: expected at most the vectors' {whole}, got {width}")
            mine, theirs = student[:, :width], teacher[:, :width]
            if self.renormalise and width < whole:
                mine, theirs = torch.nn.functional.normalize(mine, dim=1), torch.nn.functional.normalize(theirs, dim=1)
            difference = mine - theirs
            # vector_norm, not the root of the square: its gradient at 0 is 0, not NaN.
            squared = self.power == 2
            terms.append(difference.square().sum(dim=1) if squared else torch.linalg.vector_norm(difference, dim=1))
        return torch.stack(terms).mean(dim=0)
