"""What stands under every ranking loss: the term of the best reply's likelihood, and what is told beside a loss."""

from __future__ import annotations

from dataclasses import replace

import torch

from cyclealign.losses import DPO, PLD, PRO, RRHF, ListMLE, RankedScores, SimPO


def drawn() -> RankedScores:
    """Five random ragged lists of up to four, of which the first has one valid candidate."""
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, dtype=torch.float64, generator=g) for _ in range(2))
    return RankedScores(
        student=student,
        teacher=teacher,
        valid=torch.arange(4) < torch.tensor([[1], [2], [4], [3], [4]]),
        best_nll=torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64),
    )


def test_sft_term() -> None:
    scores = drawn()  # the first list does not count, nor does its NLL
    sizes = scores.valid.sum(dim=1)[1:]
    nll = torch.tensor([2.0, 3, 4, 5], dtype=torch.float64)
    weighted = ((RRHF(sft_weight=2.0), 2.0), (ListMLE(sft_weight=0.3), 0.3), (PLD(sft_weight=1.0), 1.0))
    for loss, weight in weighted:
        out = loss(scores)
        torch.testing.assert_close(out.loss, out.metrics["rank_loss"] + weight * nll.mean())
        torch.testing.assert_close(out.metrics["best_nll"], nll.mean())
        torch.testing.assert_close(out.per_list.sum() / 4, out.metrics["rank_loss"])
    out = PRO()(scores)
    published = (0.05 * (sizes - 1) ** 2 * nll).mean()
    torch.testing.assert_close(out.loss, out.metrics["rank_loss"] + published)
    for loss in (SimPO(), DPO(), ListMLE(), RRHF(sft_weight=0.0)):
        assert loss.sft == 0
        assert "best_nll" not in loss(scores).metrics
        torch.testing.assert_close(loss(scores).loss, loss(replace(scores, best_nll=None)).loss)


def test_a_loss_of_plain_likelihoods_has_the_start_model_for_its_reference() -> None:
    assert RRHF().reference == "start"
    assert RRHF().beta == 1.0
