"""The losses by value: golden numbers, brute-force loops on ragged lists, gradients, independent formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_lists import bundle, log_sum_exp, ragged, softmax
from torch import Tensor

from cyclealign.losses import DPO, PLD, PRO, RRHF, ListMLE, RankedScores, RankingLoss, SimPO

Order = Sequence[int]
Oracle = Callable[[Sequence[float], Sequence[float]], float]


def f64(values: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_list(student: Sequence[float], teacher: Sequence[float], **extra: Tensor) -> RankedScores:
    scores = f64([student]).requires_grad_()
    return RankedScores(
        student=scores, teacher=f64([teacher]), valid=torch.ones(1, len(student), dtype=torch.bool), **extra
    )


def value_and_gradient(loss: RankingLoss, scores: RankedScores) -> tuple[float, list[float]]:
    out = loss(scores)
    (gradient,) = torch.autograd.grad(out.loss, scores.student)
    return out.loss.item(), gradient[0].tolist()


# Golden values ----------------------------------------------------------------------------------------------

P, R = (-1.2, -0.9, -1.5), (2.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (RRHF(), 0.3),
        (ListMLE(), 1.56587812039201),
        (PRO(gap_temperature=False), 1.56587812039201),
        (PRO(), 1.9646666882985624),
    ],
    ids=["rrhf", "listmle", "pro-order", "pro-gaps"],
)
def test_golden_values(loss: RankingLoss, value: float) -> None:
    assert value_and_gradient(loss, one_list(P, R))[0] == pytest.approx(value, abs=1e-9)


def test_golden_gradients_by_hand() -> None:
    # RRHF: the one violated pair is (0 better than 1).
    assert value_and_gradient(RRHF(), one_list(P, R))[1] == pytest.approx([-1.0, 1.0, 0.0], abs=1e-9)
    # ListMLE: softmax over the whole list, then over the last two.
    whole, last = softmax(P), softmax(P[1:])
    expected = [whole[0] - 1, whole[1] + last[0] - 1, whole[2] + last[1]]
    assert value_and_gradient(ListMLE(), one_list(P, R))[1] == pytest.approx(expected, abs=1e-9)
    # PRO: coefficients (1.5, 1, 1.5) for the first place, (0.5, 0.5) for the second.
    first, second = softmax([1.5 * P[0], 1.0 * P[1], 1.5 * P[2]]), softmax([0.5 * P[1], 0.5 * P[2]])
    expected = [1.5 * (first[0] - 1), first[1] + 0.5 * (second[0] - 1), 1.5 * first[2] + 0.5 * second[1]]
    assert value_and_gradient(PRO(), one_list(P, R))[1] == pytest.approx(expected, abs=1e-9)


def test_rrhf_has_no_gradient_where_the_student_ties() -> None:
    """As in the published code, whose hinge is flat at equality."""
    assert value_and_gradient(RRHF(), one_list((1.0, 1.0), (2.0, 1.0))) == (0.0, [0.0, 0.0])


@pytest.mark.parametrize(
    ("temperature", "value", "gradient"),
    [
        (1.0, 0.8865315533, (-0.271334, -0.181019, 0.083095, 0.369258)),
        (4.0, 0.7954257167, (-0.145404, -0.159784, -0.049529, 0.354717)),
    ],
)
def test_golden_pld(temperature: float, value: float, gradient: tuple[float, ...]) -> None:
    student, teacher = (0.2, 1.0, -0.5, 0.3), (2.0, 1.5, 0.1, -1.0)
    scores = one_list(student, teacher, positive=torch.tensor([1]))
    got, got_gradient = value_and_gradient(PLD(teacher_temperature=temperature), scores)
    assert got == pytest.approx(value, abs=1e-9)
    assert got_gradient == pytest.approx(gradient, abs=6e-7)
    # The closed form sum_k alpha_k (sigma_k - e_k) has all the digits.
    alpha, order = softmax([t / temperature for t in teacher]), (1, 0, 2, 3)
    closed = [0.0] * 4
    for k, anchor in enumerate(order):
        for i, sigma in zip(order[k:], softmax([student[i] for i in order[k:]]), strict=True):
            closed[i] += alpha[anchor] * (sigma - (i == anchor))
    assert got_gradient == pytest.approx(closed, abs=1e-9)
    assert sum(got_gradient) == pytest.approx(0, abs=1e-12)


# Brute force ------------------------------------------------------------------------------------------------


def plackett_luce(s: Sequence[float], order: Order, weights: Sequence[float]) -> float:
    return sum(weights[i] * (log_sum_exp([s[j] for j in order[k:]]) - s[i]) for k, i in enumerate(order))


def pro_along(s: Sequence[float], t: Sequence[float], order: Order) -> float:
    total = 0.0
    for k in range(len(order) - 1):
        i, later = order[k], order[k + 1 :]
        gaps = [t[i] - t[j] for j in later]
        own = max(gaps) * s[i]
        total += log_sum_exp([own, *(gap * s[j] for gap, j in zip(gaps, later, strict=True))]) - own
    return total


def orders(t: Sequence[float]) -> list[Order]:
    """All orders that agree with the utilities: several where there are ties."""
    falls = (p for p in itertools.permutations(range(len(t))))
    return [p for p in falls if all(t[a] >= t[b] for a, b in itertools.pairwise(p))]


def brute_rrhf(s: Sequence[float], t: Sequence[float]) -> float:
    n = range(len(s))
    return sum(max(0.0, s[i] - s[j]) for i in n for j in n if t[i] < t[j])


def brute_listmle(s: Sequence[float], t: Sequence[float]) -> float:
    return min(plackett_luce(s, order, [1.0] * len(s)) for order in orders(t))


def brute_pro(s: Sequence[float], t: Sequence[float]) -> float:
    return min(pro_along(s, t, order) for order in orders(t))


def brute_pld(s: Sequence[float], t: Sequence[float]) -> float:
    alpha = softmax([v / 1.7 for v in t])
    return min(plackett_luce(s, order, alpha) for order in orders(t))


def brute_pairs(kind: str, t: Sequence[float]) -> list[tuple[int, int]]:
    levels = sorted(set(t), reverse=True)
    if len(levels) < 2:
        return []
    if kind == "best_worst":
        allowed = {(levels[0], levels[-1])}
    elif kind == "adjacent":
        allowed = set(itertools.pairwise(levels))
    else:
        allowed = set(itertools.combinations(levels, 2))
    return [(i, j) for i in range(len(t)) for j in range(len(t)) if (t[i], t[j]) in allowed]


def brute_logistic(kind: str, beta: float, gamma: float) -> Oracle:
    def oracle(s: Sequence[float], t: Sequence[float]) -> float:
        terms = [math.log1p(math.exp(-(beta * (s[i] - s[j]) - gamma))) for i, j in brute_pairs(kind, t)]
        return sum(terms) / max(len(terms), 1)

    return oracle


KINDS = ("best_worst", "adjacent", "all")
CASES: list[tuple[RankingLoss, Oracle]] = [
    (RRHF(), brute_rrhf),
    (ListMLE(), brute_listmle),
    (PRO(), brute_pro),
    (PRO(gap_temperature=False), brute_listmle),
    (PLD(teacher_temperature=1.7), brute_pld),
    *((SimPO(beta=2.5, gamma_ratio=0.3, pairs=k), brute_logistic(k, 2.5, 0.75)) for k in KINDS),
    *((DPO(beta=0.7, pairs=k), brute_logistic(k, 0.7, 0.0)) for k in KINDS),
]
LOSSES = [loss for loss, _ in CASES]
NAMES = ["rrhf", "listmle", "pro", "pro-order", "pld", *(f"{n}-{k}" for n in ("simpo", "dpo") for k in KINDS)]


@pytest.mark.parametrize(("loss", "oracle"), CASES, ids=NAMES)
@settings(max_examples=40, deadline=None)
@given(lists=ragged(), seed=st.integers(0, 9))
def test_brute_force(loss: RankingLoss, oracle: Oracle, lists: list[list[tuple[float, float]]], seed: int) -> None:
    scores = bundle(lists, seed)
    out = loss(scores)
    expected = [oracle(*zip(*entries, strict=True)) if len(entries) > 1 else 0.0 for entries in lists]
    assert out.per_list.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    counted = sum(len(entries) > 1 for entries in lists)
    assert out.loss.item() == pytest.approx(sum(expected) / max(counted, 1), rel=1e-9, abs=1e-9)
    (gradient,) = torch.autograd.grad(out.loss, scores.student)
    assert gradient.isfinite().all()
    assert (gradient[~scores.valid] == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_gradcheck(loss: RankingLoss) -> None:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    teacher = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()

    def total(s: Tensor) -> Tensor:
        return loss(RankedScores(student=s, teacher=teacher, valid=valid)).loss

    assert torch.autograd.gradcheck(total, (student,), eps=1e-6, atol=1e-7, rtol=1e-6)


# Independent formulas ---------------------------------------------------------------------------------------


def test_pro_matches_the_published_code() -> None:
    """The published loop over places, naive exp with its 1e-10, on values where that does no harm."""
    generator = torch.Generator().manual_seed(0)
    scores = -torch.rand(3, 4, dtype=torch.float64, generator=generator)
    rewards = torch.rand(3, 4, dtype=torch.float64, generator=generator).sort(dim=1, descending=True).values
    total = torch.zeros((), dtype=torch.float64)
    for k in range(3):
        gaps = rewards[:, k : k + 1] - rewards[:, k + 1 :]
        own = gaps.amax(dim=1)
        positive = torch.exp(own * scores[:, k])
        rest = torch.exp(gaps * scores[:, k + 1 :]).sum(dim=1)
        total = total + (torch.log(1e-10 + positive + rest) - own * scores[:, k]).mean()
    got = PRO()(RankedScores(student=scores, teacher=rewards, valid=torch.ones(3, 4, dtype=torch.bool)))
    assert got.loss.item() == pytest.approx(total.item(), abs=1e-9)


def test_dpo_of_two_is_the_textbook_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    chosen, rejected, ref_chosen, ref_rejected = -50 * torch.rand(4, 8, dtype=torch.float64, generator=generator)
    delta = (chosen - rejected) - (ref_chosen - ref_rejected)
    expected = -torch.nn.functional.logsigmoid(0.1 * delta)
    student = torch.stack([rejected - ref_rejected, chosen - ref_chosen], dim=1)
    teacher = torch.tensor([[0.0, 1.0]]).expand(8, 2)
    for pairs in KINDS:
        got = DPO(pairs=pairs)(RankedScores(student=student, teacher=teacher, valid=torch.ones(8, 2).bool()))
        torch.testing.assert_close(got.per_list, expected, rtol=1e-12, atol=1e-12)
        assert got.loss.item() == pytest.approx(expected.mean().item(), abs=1e-12)


def test_dpo_of_two_is_plackett_luce() -> None:
    scores = one_list((0.4, -1.3), (0.0, 1.0))
    assert DPO(beta=1.0)(scores).loss.item() == pytest.approx(ListMLE()(scores).loss.item(), abs=1e-12)


def test_simpo_is_the_published_formula() -> None:
    got = SimPO(beta=2.0, gamma_ratio=0.5)(one_list((-0.9, -1.2), (1.0, 0.0)))
    assert got.loss.item() == pytest.approx(math.log1p(math.exp(-(2.0 * 0.3 - 1.0))), abs=1e-12)


def test_pld_reduces_to_listmle_and_to_cross_entropy() -> None:
    student, teacher = (0.2, 1.0, -0.5, 0.3), (2.0, 1.5, 0.1, -1.0)
    scores = one_list(student, teacher)
    uniform = PLD(teacher_temperature=1e12)(scores).loss.item()
    assert 4 * uniform == pytest.approx(ListMLE()(scores).loss.item(), abs=1e-9)
    sure = PLD(teacher_temperature=1e-3)(scores).loss
    cross_entropy = torch.nn.functional.cross_entropy(f64([student]), torch.tensor([0]))
    assert sure.item() == pytest.approx(cross_entropy.item(), abs=1e-12)


def test_both_suffix_softmax_paths_agree() -> None:
    """Equal gaps of 1 and an unranked coefficient: the matrix path must give the cumulative one."""
    from cyclealign.losses.suffix_softmax import suffix_softmax

    student = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 30
    valid = torch.arange(6) < torch.tensor([[6], [3], [0]])
    weights = torch.rand(3, 6, dtype=torch.float64)
    cumulative = suffix_softmax(student, valid, weights)
    matrix = suffix_softmax(student, valid, weights, torch.ones(3, 6, 6, dtype=torch.float64))
    torch.testing.assert_close(cumulative, matrix, rtol=1e-12, atol=1e-12)


class FixedScores(torch.nn.Module):
    """Stands in for a cross-encoder: its scores are given."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def preprocess(self, pairs: list[tuple[str, str]], **_: object) -> dict[str, Tensor]:
        return {"rows": torch.tensor([int(document) for _, document in pairs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.scores[features["rows"]]}


def test_listmle_matches_sentence_transformers() -> None:
    theirs = pytest.importorskip("sentence_transformers.cross_encoder.losses", reason="needs extra retrieval")
    flat = torch.randn(6, generator=torch.Generator().manual_seed(4))
    labels = [torch.tensor([0.3, 2.0, -1.0, 0.9]), torch.tensor([0.1, 0.5])]
    loss = theirs.ListMLELoss(FixedScores(flat), respect_input_order=False)
    expected = loss([["q0", "q1"], [["0", "1", "2", "3"], ["4", "5"]]], labels)
    student, teacher = torch.zeros(2, 2, 4)
    student[0], student[1, :2], teacher[0], teacher[1, :2] = flat[:4], flat[4:], labels[0], labels[1]
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    got = ListMLE()(RankedScores(student=student, teacher=teacher, valid=valid))
    assert got.loss.item() == pytest.approx(expected.item(), abs=1e-6)
