"""The config section of a loss of one's own."""

from __future__ import annotations

import pytest
import torch

from cyclealign.losses import RankedScores
from cyclealign.losses.python_loss import PythonLoss


@pytest.mark.usefixtures("without_jaxtyping")
def test_the_section_knows_its_form() -> None:
    with pytest.raises(ValueError, match=r"function: expected FILE\.py:FUNCTION, got 'mine'"):
        PythonLoss(function="mine")
    with pytest.raises(ValueError, match="needs: expected one of order, magnitude, votes, got 'levels'"):
        PythonLoss(function="a.py:f", needs="levels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta: read with student_score: log_ratio alone"):
        PythonLoss(function="a.py:f", beta=0.5)
    own = PythonLoss(function="a.py:f")
    assert (own.name, own.needs) == ("python", "order")
    two = torch.zeros(1, 2)
    with pytest.raises(NotImplementedError, match=r"a\.py:f has not been opened"):
        own(RankedScores(student=two, teacher=two, valid=two == 0))
