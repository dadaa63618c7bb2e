"""A loss of the user's own at work: a function of a Python file, called with one list after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from cyclealign.losses import PythonLoss, RankedScores
from cyclealign.rankers.own_code import Code, function_of, said
from cyclealign.types import UserError

KEY = "loss.function"
FORM = "expected a function of (student, teacher), tensors of shape [K], that returns a scalar tensor, the list's loss"
TRIED = (2, 3)  # candidates of the lists that it is tried on; there may be as few as two


@dataclass(frozen=True, kw_only=True)
class OwnLoss(PythonLoss):
    """The loss of a config, with the code that it names.

    The function gets a list's valid candidates alone, so that it knows no mask, and one list at a time, so that its
    value is one list's: the mean over the lists of all processes and accumulation steps is taken as for any loss.
    """

    code: Code

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        """Raises UserError where the function fails, or gives what is no loss."""
        call = function_of(self.code, KEY, FORM, None, None)
        losses = [
            self._checked(call, student[valid], teacher[valid]) if counts else student.sum() * 0
            for student, teacher, valid, counts in zip(
                scores.student, scores.teacher, scores.valid, scores.counted.tolist(), strict=True
            )
        ]
        found = torch.stack(losses)
        # Scores that are not finite have diverged: that is the trainer's to say.
        if not found.isfinite().all() and scores.student.isfinite().all():
            bad = found[~found.isfinite()][0].item()
            raise UserError(f"{self.where}: expected a finite loss, got {bad}")
        return found

    @property
    def where(self) -> str:
        return f"{KEY}: {self.code.file}: {self.code.function}"

    def _checked(
        self, call: Callable[..., object], student: Float[Tensor, " K"], teacher: Float[Tensor, " K"]
    ) -> Float[Tensor, ""]:
        try:
            with redirect_stdout(sys.stderr):
                found = call(student, teacher)
        except (Exception, SystemExit) as error:
            raise UserError(f"{KEY}: {said(error, self.code)}") from error
        if not isinstance(found, Tensor) or found.shape != ():
            got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"{self.where}: expected a scalar tensor, got {got}")
        if student.requires_grad and not found.requires_grad:
            raise UserError(f"{self.where}: expected a loss of the student's scores, got one without a gradient")
        return found.to(student.dtype)


def opened(loss: PythonLoss, code: Code) -> OwnLoss:
    """The loss, with its file run and its function tried on small lists.

    Raises:
        UserError: the file fails, there is no such function, or what it returns is no loss.
    """
    section = {f.name: getattr(loss, f.name) for f in fields(PythonLoss)}
    own = OwnLoss(**section, code=code)
    for count in TRIED:
        student = torch.linspace(-1.0, -2.0, count).requires_grad_()
        teacher = torch.linspace(1.0, 0.0, count)
        scores = RankedScores(student=student[None], teacher=teacher[None], valid=torch.ones(1, count).bool())
        with torch.enable_grad():
            (found,) = torch.autograd.grad(own(scores).loss, student, allow_unused=True)
        if found is None or not found.isfinite().all():
            got = "none" if found is None else found.tolist()
            raise UserError(f"{own.where}: expected a finite gradient of the student's scores, got {got}")
    return own
