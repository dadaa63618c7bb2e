"""The user's own loss: as a built-in of the same equation by value, and every way in which it is none."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from cyclealign.losses import ListNet, PythonLoss, RankedScores, RankingLoss
from cyclealign.rankers.own_code import read_code
from cyclealign.training.own_loss import KEY, OwnLoss, opened
from cyclealign.types import UserError

LISTNET = "import torch\n\ndef f(student, teacher):\n    return -(teacher.softmax(0) * student.log_softmax(0)).sum()\n"
BODY = "import torch\n\ndef f(student, teacher):\n    "


def own(tmp_path: Path, source: str, **section: object) -> OwnLoss:
    file = tmp_path / "mine.py"
    file.write_text(source)
    return opened(PythonLoss(function=f"{file}:f", **section), read_code(f"{file}:f", KEY))  # type: ignore[arg-type]


def ragged(dtype: torch.dtype = torch.float32) -> RankedScores:
    """Lists of 4, 2, 1 and no candidates, with whatever stands in the other places."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(4, 4, generator=generator) for _ in range(2))
    valid = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    student = student.masked_fill(~valid, torch.nan).to(dtype).requires_grad_()
    nll = torch.tensor([0.5, 1.5, 2.5, 3.5])
    return RankedScores(student=student, teacher=teacher.masked_fill(~valid, torch.nan), valid=valid, best_nll=nll)


def outcome(loss: RankingLoss, dtype: torch.dtype, lists: float | None) -> tuple[torch.Tensor, ...]:
    scores = ragged(dtype)
    out = loss(scores, lists=lists)
    return out.loss.detach(), out.per_list.detach(), torch.autograd.grad(out.loss, scores.student)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lists", [None, 3.0])
def test_it_is_the_loss_of_its_equation(tmp_path: Path, dtype: torch.dtype, lists: float | None) -> None:
    section = {"student_score": "log_ratio", "beta": 0.3, "sft_weight": 0.1}
    found = outcome(own(tmp_path, LISTNET, needs="magnitude", **section), dtype, lists)
    expected = outcome(ListNet(**section), dtype, lists)  # type: ignore[arg-type]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[1].tolist()[2:] == [0, 0]


def test_it_goes_to_another_process_with_its_code(tmp_path: Path) -> None:
    """As a loader's workers are given it; the file may have changed since."""
    loss = own(tmp_path, LISTNET)
    (tmp_path / "mine.py").write_text("raise ValueError")
    again = pickle.loads(pickle.dumps(loss))  # noqa: S301  our own
    torch.testing.assert_close(outcome(again, torch.float32, None), outcome(loss, torch.float32, None))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def g(student, teacher):\n    return student.sum()\n", "py: f: expected a function of (student, teacher)"),
        ("def f(student):\n    return student.sum()\n", "a scalar tensor, the list's loss: too many positional"),
        ("f = 3\n", "the list's loss; got int"),
        ("def f(:\n", "mine.py, line 1: SyntaxError"),
        (f"{BODY}return student.nope\n", "mine.py, line 4: AttributeError: 'Tensor' object has no attribute 'nope'"),
        (f"{BODY}return student\n", "expected a scalar tensor, got shape [2]"),
        (f"{BODY}return student[2]\n", "mine.py, line 4: IndexError"),
        (f"{BODY}return student.sum(0, keepdim=True)\n", "expected a scalar tensor, got shape [1]"),
        (f"{BODY}return student.sum().item()\n", "expected a scalar tensor, got float"),
        (f"{BODY}return student.sum() / 0\n", "expected a finite loss, got -inf"),
        (f"{BODY}return (student * torch.nan).sum()\n", "expected a finite loss, got nan"),
        (f"{BODY}return student.detach().sum()\n", "a loss of the student's scores, got one without a gradient"),
        (f"{BODY}return teacher.requires_grad_().sum()\n", "a finite gradient of the student's scores, got none"),
        (f"{BODY}return (student * 0).sum().sqrt()\n", "a finite gradient of the student's scores, got [nan, nan]"),
    ],
)
def test_what_is_no_loss_is_one_line(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        own(tmp_path, source)
    line = str(raised.value)
    assert line.startswith(f"{KEY}: {tmp_path}/mine.py")
    assert said in line
    assert "\n" not in line


def test_what_is_no_loss_on_some_list_of_a_run_alone_is_too(tmp_path: Path) -> None:
    loss = own(tmp_path, f"{BODY}return student.sum() / (0 if len(student) > 3 else 1)\n")
    with pytest.raises(UserError, match="f: expected a finite loss, got"):
        loss(ragged())
    diverged = RankedScores(
        student=torch.full((1, 2), torch.nan), teacher=torch.ones(1, 2), valid=torch.ones(1, 2).bool()
    )
    assert loss(diverged).loss.isnan()  # the weights' fault, of which the trainer speaks
