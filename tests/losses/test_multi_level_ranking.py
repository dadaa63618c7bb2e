"""Multi-level ranking by value: hand-made cases, a plain loop, gradients, masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclealign.losses.base import RankedScores
from cyclealign.losses.multi_level_ranking import MultiLevelRanking


def bundle(student: Tensor, levels: Tensor, valid: Tensor | None = None) -> RankedScores:
    valid = torch.ones_like(student, dtype=torch.bool) if valid is None else valid
    return RankedScores(student=student, teacher=torch.zeros_like(student), valid=valid, levels=levels)


def by_loops(student: Tensor, levels: Tensor, valid: Tensor, separation: float, compactness: float) -> float:
    """QuantiDCE's three sums over one list, written out."""
    groups: dict[int, list[float]] = {}
    for score, level, there in zip(student.tolist(), levels.tolist(), valid.tolist(), strict=True):
        if there:
            groups.setdefault(level, []).append(score)
    centre = {level: sum(scores) / len(scores) for level, scores in groups.items()}
    total = 0.0
    for level, scores in groups.items():
        spread = sum(abs(score - centre[level]) for score in scores) / len(scores)
        total += max(0.0, spread - compactness)
    for better in centre:
        for worse in centre:
            if better < worse:
                total += max(0.0, (worse - better) * separation - abs(centre[better] - centre[worse]))
                total += max(0.0, centre[worse] - centre[better])
    return total


def test_collapsed_scores_cost_the_separation_of_all_pairs() -> None:
    """Three levels of five at one score: 0.3 + 0.3 + 0.6, the published maximum of the separation term."""
    levels = torch.arange(15)[None] // 5
    out = MultiLevelRanking()(bundle(torch.full((1, 15), 0.5), levels))
    torch.testing.assert_close(out.per_list, torch.tensor([1.2]))


def test_each_term_alone() -> None:
    loss = MultiLevelRanking()
    levels = torch.tensor([[0, 0, 1, 1]])
    apart = torch.tensor([[0.9, 0.9, 0.1, 0.1]])
    assert loss(bundle(apart, levels)).loss == 0.0
    # Wrong way round, far apart: only the ordering term, 0.9 - 0.1.
    torch.testing.assert_close(loss(bundle(1 - apart, levels)).loss, torch.tensor(0.8))
    # Centres 0.9 and 0.3; level 1 deviates by 0.3 on average, 0.2 over the bound.
    spread = torch.tensor([[0.9, 0.9, 0.6, 0.0]])
    torch.testing.assert_close(loss(bundle(spread, levels)).loss, torch.tensor(0.2))
    # Centres 0.2 apart: 0.1 short of the separation.
    torch.testing.assert_close(loss(bundle(torch.tensor([[0.7, 0.7, 0.5, 0.5]]), levels)).loss, torch.tensor(0.1))


def test_levels_further_apart_must_be_separated_more() -> None:
    levels = torch.tensor([[0, 2]])
    out = MultiLevelRanking(separation=0.25)(bundle(torch.tensor([[0.6, 0.4]]), levels))
    torch.testing.assert_close(out.loss, torch.tensor(0.3))


@pytest.mark.parametrize("squash", ["none", "sigmoid"])
def test_agrees_with_plain_loops_on_ragged_lists(squash: str) -> None:
    torch.manual_seed(3)
    student = torch.randn(40, 9, dtype=torch.float64)
    levels = torch.randint(0, 4, (40, 9))
    valid = torch.rand(40, 9) > 0.3
    valid[:, :2] = True
    loss = MultiLevelRanking(separation=0.2, compactness=0.05, squash=squash)  # type: ignore[arg-type]
    # What stands in masked places must not matter, levels and not-a-number included.
    masked = bundle(student.where(valid, torch.nan), levels.where(valid, -7), valid)
    seen = student.sigmoid() if squash == "sigmoid" else student
    expected = [by_loops(*row, 0.2, 0.05) for row in zip(seen, levels, valid, strict=True)]
    out = loss(masked)
    torch.testing.assert_close(out.per_list, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(out.loss, torch.tensor(expected, dtype=torch.float64).mean())
    shuffled = torch.randperm(9)
    other = loss(bundle(student[:, shuffled], levels[:, shuffled], valid[:, shuffled]))
    torch.testing.assert_close(other.per_list, out.per_list)


def test_gradients_are_exact_and_zero_for_masked_entries() -> None:
    torch.manual_seed(5)
    student = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([[0, 0, 1, 1, 2, 2]]).expand(4, 6)
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0, 3:] = False
    valid[1] = False
    loss = MultiLevelRanking(squash="sigmoid")
    assert torch.autograd.gradcheck(lambda x: loss(bundle(x, levels, valid)).loss, student)
    (gradient,) = torch.autograd.grad(loss(bundle(student, levels, valid)).loss, student)
    assert not gradient[~valid].any()
    assert gradient[2:].any()


def test_lists_without_two_entries_count_for_nothing() -> None:
    student = torch.tensor([[1.0, 0.0], [0.2, 5.0]], requires_grad=True)
    valid = torch.tensor([[True, False], [False, False]])
    out = MultiLevelRanking()(bundle(student, torch.tensor([[0, 1], [0, 1]]), valid))
    assert out.loss == 0.0
    assert out.per_list.tolist() == [0.0, 0.0]


def test_says_what_is_wrong_with_the_levels() -> None:
    student = torch.zeros(1, 2)
    valid = torch.ones(1, 2, dtype=torch.bool)
    loss = MultiLevelRanking()
    assert loss.needs == "levels"
    with pytest.raises(ValueError, match="expected levels"):
        loss(RankedScores(student=student, teacher=student, valid=valid))
    with pytest.raises(ValueError, match="negative"):
        loss(bundle(student, torch.tensor([[0, -1]])))
