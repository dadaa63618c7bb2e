"""A loss of the user's own, by the name of a Python function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from cyclealign.losses.base import ListLoss, RankedScores, require_one_of
from cyclealign.losses.lazy_torch import Tensor

TeacherNeeds = Literal["order", "magnitude", "votes"]


@dataclass(frozen=True, kw_only=True)
class PythonLoss(ListLoss):
    """f(student, teacher) of each list: both vectors of its K candidates, in any order; a scalar comes back.

    This is its config section alone. What computes it is ``training.own_loss``, which runs the file.
    """

    name: Literal["python"] = "python"
    """A function of your own, in a Python file."""
    function: str
    """``FILE.py:FUNCTION``, which gets the student's and the teacher's scores of one list, two tensors of shape [K],
    and returns the list's loss, a scalar tensor."""
    needs: TeacherNeeds = "order"
    """What the teacher's scores have to be: an ``order`` alone, whose numbers mean nothing, ``magnitude``, or
    ``votes``, win rates of two passes or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("needs", self.needs, TeacherNeeds)
        if ".py:" not in self.function:
            raise ValueError(f"function: expected FILE.py:FUNCTION, got {self.function!r}")

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        raise NotImplementedError(f"{self.function} has not been opened: training.own_loss.OwnLoss")
