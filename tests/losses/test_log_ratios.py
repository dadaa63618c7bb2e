"""Losses on log-ratios to a reference: the published objectives that they are, by value, and TRL's own code."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_lists import bundle, ragged
from torch import Tensor
from torch.nn.functional import logsigmoid

from cyclealign.losses import (
    CPRD,
    DPO,
    KL,
    PLD,
    SPPO,
    LambdaRank,
    ListMLE,
    ListNet,
    MarginMSE,
    PointwiseMSE,
    RankedScores,
    RankingLoss,
    RankNet,
    SimPO,
    feeds,
    losses_fed_by,
)

BETA = 0.3


def log_ratios(lists: int, width: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log pi - log pi_ref in nats per response, and teacher utilities."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = -60 * torch.rand(2, lists, width, dtype=torch.float64, generator=generator)
    return policy - reference, torch.randn(lists, width, dtype=torch.float64, generator=generator)


def whole(student: Tensor, teacher: Tensor) -> RankedScores:
    return RankedScores(student=student, teacher=teacher, valid=torch.ones(student.shape, dtype=torch.bool))


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def dpo_of_two(ratios: Tensor, teacher: Tensor) -> Tensor:
    sign = (teacher[:, 0] - teacher[:, 1]).sign()
    return -logsigmoid(BETA * sign * (ratios[:, 0] - ratios[:, 1]))


# What beta does -----------------------------------------------------------------------------------------------

LIST_LOSSES = (ListMLE, LambdaRank, ListNet, KL, MarginMSE, PointwiseMSE, RankNet, PLD, CPRD)


@pytest.mark.parametrize("cls", LIST_LOSSES)
def test_beta_multiplies_the_students_scores_and_nothing_else(cls: Any) -> None:
    ratios, teacher = log_ratios(6, 4)
    student = ratios.clone().requires_grad_()
    got = cls(student_score="log_ratio", beta=BETA)(whole(student, teacher))
    same(got.per_list, cls()(whole(BETA * ratios, teacher)).per_list)
    assert torch.autograd.gradcheck(
        lambda s: cls(student_score="log_ratio", beta=0.01)(whole(s, teacher)).loss, (student,), rtol=1e-6, atol=1e-7
    )


def test_beta_reaches_the_candidates_outside_of_the_list() -> None:
    ratios, teacher = log_ratios(3, 4)
    outside = torch.tensor([[1.0, -torch.inf]] * 3, dtype=torch.float64)
    scaled = RankedScores(student=BETA * ratios, teacher=teacher, valid=ratios < 99, outside=BETA * outside)
    raw = RankedScores(student=ratios, teacher=teacher, valid=ratios < 99, outside=outside)
    same(CPRD(student_score="log_ratio", beta=BETA)(raw).per_list, CPRD()(scaled).per_list)


# The published objectives -------------------------------------------------------------------------------------


def test_of_two_candidates_plackett_luce_and_ranknet_are_dpo() -> None:
    ratios, teacher = log_ratios(50, 2)
    expected = dpo_of_two(ratios, teacher)
    for loss in (ListMLE, RankNet, CPRD):
        same(loss(student_score="log_ratio", beta=BETA)(whole(ratios, teacher)).per_list, expected)
    for loss in (DPO(beta=BETA), ListMLE(student_score="log_ratio", beta=BETA, top=1)):
        same(loss(whole(ratios, teacher)).per_list, expected)


def test_ranknet_of_a_list_is_dpo_over_all_pairs() -> None:
    ratios, teacher = log_ratios(10, 5)
    got = RankNet(student_score="log_ratio", beta=BETA)(whole(ratios, teacher))
    same(got.per_list, DPO(beta=BETA, pairs="all")(whole(ratios, teacher)).per_list)


def test_plackett_luce_dpo_is_the_likelihood_of_the_teachers_order_among_all() -> None:
    """Over the list's K! orders the likelihoods sum to 1, and of the first ``top`` places it is their marginal."""
    ratios, teacher = log_ratios(4, 4)

    def likelihood(h: Sequence[float], order: Sequence[int], places: int) -> float:
        left, product = list(order), 1.0
        for i in order[:places]:
            product *= math.exp(BETA * h[i]) / sum(math.exp(BETA * h[j]) for j in left)
            left.remove(i)
        return product

    for top in (None, 1, 2, 3, 9):
        got = ListMLE(student_score="log_ratio", beta=BETA, top=top)(whole(ratios, teacher)).per_list
        for b in range(4):
            h, best = ratios[b].tolist(), teacher[b].argsort(descending=True).tolist()
            agreeing = [o for o in itertools.permutations(range(4)) if list(o[: top or 4]) == best[: top or 4]]
            total = math.fsum(likelihood(h, order, 4) for order in agreeing)
            assert math.exp(-got[b].item()) == pytest.approx(total, rel=1e-9)


def test_the_tail_behind_top_has_no_order() -> None:
    ratios, _ = log_ratios(5, 5)
    loss = ListMLE(student_score="log_ratio", beta=BETA, top=2)
    one = loss(whole(ratios, torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]] * 5))).per_list
    same(loss(whole(ratios, torch.tensor([[5.0, 4.0, 1.0, 3.0, 2.0]] * 5))).per_list, one)


def test_lipo_of_two_candidates_is_dpo_weighted_by_its_lambda() -> None:
    """Places 1 and 2 have gains 2^2 - 1 and 2^1 - 1; swapping them moves the discount by 1 - 1 / log2(3)."""
    ratios, teacher = log_ratios(50, 2)
    step = 1 - 1 / math.log2(3)
    max_dcg = 3 + 1 / math.log2(3)
    weight = step * (3 - 1) / max_dcg / math.log(2)  # its logarithm is to base 2
    got = LambdaRank(student_score="log_ratio", beta=BETA)(whole(ratios, teacher)).per_list
    same(got, weight * dpo_of_two(ratios, teacher))


def test_infonca_is_listnet_and_kl_is_it_but_for_the_teachers_entropy() -> None:
    """- sum_i [e^(r_i/a) / sum_j e^(r_j/a)] log [e^(beta h_i) / sum_j e^(beta h_j)], with naive exponentials."""
    ratios, rewards = log_ratios(8, 4)
    alpha = 0.7
    share = (rewards / alpha).exp() / (rewards / alpha).exp().sum(dim=1, keepdim=True)
    model = (BETA * ratios).exp() / (BETA * ratios).exp().sum(dim=1, keepdim=True)
    expected = -(share * model.log()).sum(dim=1)
    got = ListNet(student_score="log_ratio", beta=BETA, temperature=alpha)(whole(ratios, rewards)).per_list
    same(got, expected)
    kl = KL(student_score="log_ratio", beta=BETA * alpha, temperature=alpha)(whole(ratios, rewards)).per_list
    same(kl / alpha**2, expected + (share * share.log()).sum(dim=1))


def test_infonca_of_a_sure_teacher_is_dpo() -> None:
    ratios, teacher = log_ratios(20, 2)
    got = ListNet(student_score="log_ratio", beta=BETA, temperature=1e-6)(whole(ratios, teacher)).per_list
    same(got, dpo_of_two(ratios, teacher))


def test_rebel_is_margin_mse_on_log_ratios() -> None:
    """((1 / eta) (log-ratio of y - log-ratio of y') - (r(y) - r(y')))^2."""
    ratios, rewards = log_ratios(30, 2)
    eta = 4.0
    expected = ((ratios[:, 0] - ratios[:, 1]) / eta - (rewards[:, 0] - rewards[:, 1])) ** 2
    got = MarginMSE(student_score="log_ratio", beta=1 / eta, reference="previous")(whole(ratios, rewards)).per_list
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


# SPPO ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(lists=ragged(), seed=st.integers(0, 9))
def test_sppo_by_brute_force(lists: list[list[tuple[float, float]]], seed: int) -> None:
    scores = bundle(lists, seed)
    out = SPPO(eta=3.0)(scores)
    expected = [
        sum((h - 3.0 * (p - 0.5)) ** 2 for h, p in entries) / len(entries) if len(entries) > 1 else 0.0
        for entries in lists
    ]
    assert out.per_list.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    (gradient,) = torch.autograd.grad(out.loss, scores.student)
    assert gradient.isfinite().all()
    assert (gradient[~scores.valid] == 0).all()


def test_sppo_golden() -> None:
    """Win rates 1, 1/2, 0 draw to +5, 0 and -5 nats: ((1 - 5)^2 + 2^2 + (-1 + 5)^2) / 3."""
    student = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    out = SPPO()(whole(student, torch.tensor([[1.0, 0.5, 0.0]])))
    assert out.loss.item() == pytest.approx(12.0, abs=1e-12)
    (gradient,) = torch.autograd.grad(out.loss, student)
    assert gradient[0].tolist() == pytest.approx([-8 / 3, 4 / 3, 8 / 3], abs=1e-12)


def test_votes_alone_feed_sppo() -> None:
    assert [gives for gives in ("order", "levels", "magnitude", "votes") if feeds(gives, "votes")] == ["votes"]
    assert set(losses_fed_by("votes")) - set(losses_fed_by("magnitude")) == {"sppo"}


# TRL's own code -----------------------------------------------------------------------------------------------


class Given(torch.nn.Module):
    """Stands in for a model: the log-probs of its responses are given."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs: Tensor) -> None:
        super().__init__()
        self.logprobs = logprobs

    def forward(self, **_: Any) -> Any:
        unused = torch.zeros_like(self.logprobs)  # what is logged beside the loss
        return SimpleNamespace(log_probs=self.logprobs, entropy=unused, mean_logits=unused, is_top1=unused.bool())


def response_logprobs(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Rows' log-probs of the response tokens, 0 elsewhere."""
    found = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return found * mask[:, 1:]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of policy and reference [2 B, T, V], ids, response mask: chosen rows first, responses of many lengths."""
    generator = torch.Generator().manual_seed(5)
    rows, length, vocabulary = 12, 9, 17
    policy, reference = torch.randn(2, rows, length, vocabulary, generator=generator)
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    ends = torch.randint(4, length + 1, (rows, 1), generator=generator)
    place = torch.arange(length)
    return policy, reference, ids, ((place >= 2) & (place < ends)).long()


def trl_dpo(batch: tuple[Tensor, Tensor, Tensor, Tensor], loss_type: str) -> float:
    """``DPOTrainer``'s loss of these logits, computed by its own method."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer", reason="needs trl").DPOTrainer
    policy, reference, ids, mask = batch
    stand_in: Any = trainer.__new__(trainer)
    vars(stand_in).update(
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        model=Given(torch.zeros(0)),
        ref_model=Given(response_logprobs(reference, ids, mask)),
        beta=BETA,
        loss_types=[loss_type],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
        ld_alpha=None,
        use_weighting=False,
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    return float(stand_in._compute_loss(Given(response_logprobs(policy, ids, mask)), inputs, return_outputs=False))


def ours(batch: tuple[Tensor, Tensor, Tensor, Tensor], loss: RankingLoss, *, mean: bool = False) -> float:
    """The same rows as lists of two: chosen with utility 1, rejected with 0."""
    policy, reference, ids, mask = batch
    rows = (response_logprobs(policy, ids, mask) - response_logprobs(reference, ids, mask)).sum(dim=1)
    if mean:
        rows = rows / mask.sum(dim=1)
    student = torch.stack(rows.chunk(2), dim=1)
    return loss(whole(student, torch.tensor([[1.0, 0.0]]).expand(len(student), 2))).loss.item()


def test_dpo_is_trls(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    expected = trl_dpo(batch, "sigmoid")
    for loss in (DPO(beta=BETA), ListMLE(student_score="log_ratio", beta=BETA)):
        assert ours(batch, loss) == pytest.approx(expected, rel=1e-5)


def test_ipo_is_margin_mse_to_a_fixed_margin(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """TRL's is of means per token, with the margin 1 / (2 beta) for every pair."""
    got = ours(batch, MarginMSE(student_score="log_ratio", teacher_scale=1 / (2 * BETA)), mean=True)
    assert got == pytest.approx(trl_dpo(batch, "ipo"), rel=1e-5)


def test_sppo_of_a_sure_judge_is_trls(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """TRL adds the two candidates' terms, here is their mean."""
    assert 2 * ours(batch, SPPO(eta=1 / BETA)) == pytest.approx(trl_dpo(batch, "sppo_hard"), rel=1e-5)


def test_simpo_is_trls() -> None:
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer", reason="needs trl").CPOTrainer
    chosen, rejected = -3 * torch.rand(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    settings_ = {"alpha": 0.0, "beta": 2.5, "simpo_gamma": 1.25, "loss_type": "simpo", "label_smoothing": 0.0}
    stand_in = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")), **settings_)
    expected = trainer.cpo_loss(stand_in, chosen, rejected)[0]
    teacher = torch.tensor([[1.0, 0.0]]).expand(16, 2)
    same(SimPO(beta=2.5, gamma_ratio=0.5)(whole(torch.stack([chosen, rejected], dim=1), teacher)).per_list, expected)
