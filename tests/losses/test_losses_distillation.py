"""The distillers' ranking losses by value: brute-force loops, gradients, independent implementations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_lists import bundle, log_sum_exp, ragged, softmax
from torch import Tensor

from cyclealign.losses import (
    CPRD,
    KL,
    NDCG2,
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
    feeds,
    losses_fed_by,
    tier_levels,
)
from cyclealign.losses.catalogue import unfed
from cyclealign.losses.lambda_pairs import student_places

Scores = Sequence[float]
Oracle = Callable[[Scores, Scores], float]
LOG2 = math.log(2)


def whole(student: Tensor, teacher: Tensor) -> RankedScores:
    return RankedScores(student=student, teacher=teacher, valid=torch.ones(student.shape, dtype=torch.bool))


def f64(*rows: Scores) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Brute force ------------------------------------------------------------------------------------------------


def margin_mse(s: Scores, t: Scores) -> float:
    pairs = list(itertools.combinations(range(len(s)), 2))
    return sum(((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs) / len(pairs)


def pointwise_mse(s: Scores, t: Scores) -> float:
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def listnet(s: Scores, t: Scores) -> float:
    return -sum(p * (a - log_sum_exp(s)) for p, a in zip(softmax(t), s, strict=True))


def kl(s: Scores, t: Scores) -> float:
    p, q = softmax([v / 2.5 for v in t]), softmax([v / 2.5 for v in s])
    return 2.5**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def ranknet(s: Scores, t: Scores) -> float:
    terms = [math.log1p(math.exp(s[j] - s[i])) for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
    return sum(terms) / max(len(terms), 1)


def by_teacher(s: Scores, t: Scores, among: Sequence[int]) -> list[int]:
    """Best first; tied candidates in the student's order."""
    return sorted(among, key=lambda i: (-t[i], -s[i]))


def cprd(
    hard: int | None, threshold: float | str | None, rank_cut: int | None, *, easy: bool, temperature: float
) -> Oracle:
    def oracle(s: Scores, t: Scores) -> float:
        z = [v / temperature for v in s]
        n = range(len(s))
        worst_hard = sorted(s, reverse=True)[min(hard or len(s), len(s)) - 1]
        chosen = [i for i in n if s[i] >= worst_hard]
        outside = [z[i] for i in n if i not in chosen] if easy else []
        bound = sum(t) / len(t) if threshold == "mean" else -math.inf if threshold is None else float(threshold)
        order = by_teacher(s, t, chosen)
        total = 0.0
        for place, i in enumerate(order):
            if t[i] >= bound and (rank_cut is None or place < rank_cut):
                total += log_sum_exp([z[j] for j in order[place:]] + outside) - z[i]
        return total

    return oracle


def gains_of(t: Scores, k: int | None) -> list[float]:
    top = min(k or len(t), len(t))
    plain = dict(zip(sorted(range(len(t)), key=lambda i: -t[i]), range(top, top - len(t), -1), strict=True))
    tiers = [[max(plain[j], 0) for j in range(len(t)) if t[j] == t[i]] for i in range(len(t))]
    return [sum(tier) / len(tier) for tier in tiers]


def lambda_loss(k: int | None, weight: Callable[[int, int], float]) -> Oracle:
    """The published double sum over the places by student."""

    def oracle(s: Scores, t: Scores) -> float:
        gains = gains_of(t, k)
        ideal = sum((2**g - 1) / math.log2(1 + p) for p, g in enumerate(sorted(gains, reverse=True), 1))
        order = sorted(range(len(s)), key=lambda i: (-s[i], -t[i]))
        total = 0.0
        for a, i in enumerate(order, 1):
            for b, j in enumerate(order, 1):
                if gains[i] > gains[j]:
                    value = abs((2 ** gains[i] - 2 ** gains[j]) / ideal)
                    total += weight(a, b) * value * math.log1p(math.exp(s[j] - s[i])) / LOG2
        return total

    return oracle


def apart(a: int, b: int) -> float:
    return abs(1 / math.log2(1 + abs(a - b)) - 1 / math.log2(2 + abs(a - b)))


def swapped(a: int, b: int) -> float:
    return abs(1 / math.log2(1 + a) - 1 / math.log2(1 + b))


CASES: dict[str, tuple[RankingLoss, Oracle]] = {
    "margin_mse": (MarginMSE(), margin_mse),
    "margin_mse-scaled": (MarginMSE(teacher_scale=0.5), lambda s, t: margin_mse(s, [v / 2 for v in t])),
    "mse": (PointwiseMSE(), pointwise_mse),
    "listnet": (ListNet(), listnet),
    "kl": (KL(temperature=2.5), kl),
    "ranknet": (RankNet(), ranknet),
    "idcm": (NDCG2(k=2), lambda_loss(2, apart)),
    "idcm-long": (NDCG2(k=9), lambda_loss(9, apart)),
    "lambdarank": (LambdaRank(), lambda_loss(None, swapped)),
    "cprd": (CPRD(), cprd(None, None, None, easy=False, temperature=1.0)),
    "cprd-hard": (CPRD(hard=3), cprd(3, None, None, easy=True, temperature=1.0)),
    "cprd-no-easy": (CPRD(hard=2, include_easy=False), cprd(2, None, None, easy=False, temperature=1.0)),
    "cprd-cut": (
        CPRD(hard=3, rank_cut=1, temperature=0.7),
        cprd(3, None, 1, easy=True, temperature=0.7),
    ),
    "cprd-threshold": (CPRD(threshold=0.5), cprd(None, 0.5, None, easy=True, temperature=1.0)),
    "cprd-both": (
        CPRD(hard=4, threshold="mean", rank_cut=2),
        cprd(4, "mean", 2, easy=True, temperature=1.0),
    ),
}
each = pytest.mark.parametrize(("loss", "oracle"), CASES.values(), ids=CASES.keys())


@each
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


@pytest.mark.parametrize("loss", [loss for loss, _ in CASES.values()], ids=CASES.keys())
def test_gradcheck(loss: RankingLoss) -> None:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    teacher = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()

    def total(s: Tensor) -> Tensor:
        return loss(RankedScores(student=s, teacher=teacher, valid=valid)).loss

    assert torch.autograd.gradcheck(total, (student,), eps=1e-6, atol=1e-7, rtol=1e-6)


# Margin-MSE -------------------------------------------------------------------------------------------------


def test_two_candidates_are_the_published_margin_mse() -> None:
    """The margin with its sign, also where the teacher disagrees with the label; no scale and no temperature."""
    published = ((3.0 - 1.0) - (2.0 - 4.0)) ** 2
    assert MarginMSE()(whole(f64((3.0, 1.0)), f64((2.0, 4.0)))).loss.item() == published == 16.0
    generator = torch.Generator().manual_seed(0)
    pos, neg, t_pos, t_neg = torch.randn(4, 32, dtype=torch.float64, generator=generator)
    expected = torch.nn.functional.mse_loss(pos - neg, t_pos - t_neg)
    got = MarginMSE()(whole(torch.stack([pos, neg], 1), torch.stack([t_pos, t_neg], 1)))
    torch.testing.assert_close(got.loss, expected, rtol=1e-14, atol=0)


def test_margins_keep_their_digits_under_a_large_teacher_offset() -> None:
    """A float64 teacher around 1e9 with margins of 1: float32 alone would see 0 or 64."""
    teacher = f64((1e9, 1e9 + 1))
    student = torch.tensor([[0.0, 1.0]])
    assert MarginMSE()(whole(student, teacher)).loss.item() == pytest.approx(0, abs=1e-12)


# CPRD -------------------------------------------------------------------------------------------------------


def test_cprd_between_infonce_and_listmle() -> None:
    student, teacher = f64((0.3, -1.0, 0.9, 0.1)), f64((2.0, 0.5, 1.0, -1.0))
    scores = whole(student, teacher)
    infonce = torch.nn.functional.cross_entropy(student, torch.tensor([0]))
    torch.testing.assert_close(CPRD(rank_cut=1)(scores).loss, infonce)
    torch.testing.assert_close(CPRD()(scores).loss, ListMLE()(scores).loss)
    torch.testing.assert_close(CPRD(rank_cut=4)(scores).loss, ListMLE()(scores).loss)
    # Sharpened student, same order.
    torch.testing.assert_close(
        CPRD(rank_cut=1, temperature=0.05)(scores).loss,
        torch.nn.functional.cross_entropy(student / 0.05, torch.tensor([0])),
    )


def test_who_reaches_the_threshold_counts() -> None:
    scores = whole(f64((0.3, -0.2, 0.9)), f64((2.0, 1.0, 0.0)))
    at, below, above = (CPRD(threshold=t)(scores).loss.item() for t in (1.0, 0.5, 1.5))
    assert at == below
    assert at > above


def test_the_order_in_the_invalid_tail_has_no_say() -> None:
    student, teacher = f64((0.3, -1.0, 0.9, 0.1, 0.4)), f64((2.0, 0.5, 1.0, -1.0, -3.0))
    for loss in (CPRD(rank_cut=2), CPRD(threshold=0.9)):
        before = loss(whole(student, teacher)).per_list
        for tail in itertools.permutations((0.5, -1.0, -3.0)):
            mixed = f64((2.0, tail[0], 1.0, tail[1], tail[2]))
            torch.testing.assert_close(loss(whole(student, mixed)).per_list, before, rtol=0, atol=1e-15)
    # At a fixed cut only the order counts.
    monotone = CPRD(rank_cut=3)(whole(student, teacher.exp() * 7)).per_list
    torch.testing.assert_close(monotone, CPRD(rank_cut=3)(whole(student, teacher)).per_list, rtol=0, atol=0)


def test_easy_candidates_stand_in_every_denominator_and_are_never_the_positive() -> None:
    student = f64((0.9, 0.8, -2.0)).requires_grad_()
    teacher = f64((1.0, 2.0, 9.0))  # the teacher likes the easy one best: it is easy all the same
    with_easy = CPRD(hard=2)(whole(student, teacher)).loss
    a, b, e = 0.9, 0.8, -2.0
    expected = log_sum_exp((b, a, e)) - b + log_sum_exp((a, e)) - a
    assert with_easy.item() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(with_easy, student)
    assert gradient[0, 2] > 0
    without = CPRD(hard=2, include_easy=False)(whole(student, teacher)).loss
    (gradient,) = torch.autograd.grad(without, student)
    assert gradient[0, 2] == 0
    assert without.item() == pytest.approx(log_sum_exp((a, b)) - b, abs=1e-12)


def test_candidates_outside_of_the_list_are_easy_ones() -> None:
    """The same numbers as one list whose easy candidates are those of the batch; nothing there changes nothing."""
    student, teacher = f64((0.9, 0.8)).requires_grad_(), f64((1.0, 2.0))
    beside = f64((-2.0, 0.3, -math.inf)).requires_grad_()
    scores = replace(whole(student, teacher), outside=beside)
    got = CPRD(rank_cut=1, temperature=0.5)(scores).loss
    z = [2 * v for v in (0.8, 0.9, -2.0, 0.3)]
    assert got.item() == pytest.approx(log_sum_exp(z) - z[0], abs=1e-12)
    (gradient,) = torch.autograd.grad(got, beside)
    top = log_sum_exp(z)
    assert gradient[0].tolist() == pytest.approx([2 * math.exp(z[2] - top), 2 * math.exp(z[3] - top), 0.0])
    alone = CPRD()(whole(student, teacher)).loss
    for nothing in (f64((-math.inf,)), f64(())):
        torch.testing.assert_close(CPRD()(replace(scores, outside=nothing)).loss, alone)
    torch.testing.assert_close(CPRD(include_easy=False)(scores).loss, alone)


def test_who_is_hard_is_the_students_choice_among_the_valid() -> None:
    student = f64((0.1, 0.9, 0.8, 5.0))
    valid = torch.tensor([[True, True, True, False]])
    scores = RankedScores(student=student, teacher=f64((1.0, 2.0, 3.0, 4.0)), valid=valid)
    got = CPRD(hard=2, include_easy=False)(scores).loss.item()
    assert got == pytest.approx(log_sum_exp((0.8, 0.9)) - 0.8, abs=1e-12)
    # More hard ones asked for than there are: all of them.
    torch.testing.assert_close(CPRD(hard=9)(scores).loss, ListMLE()(scores).loss)


# nDCG2 ------------------------------------------------------------------------------------------------------


def test_ndcg2_by_hand() -> None:
    """Three candidates, k = 2, student order (1, 0, 2): gains 2, 1, 0."""
    student, teacher = (0.5, 1.0, -0.5), (3.0, 2.0, 1.0)
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    near, far = abs(1 / math.log2(2) - 1 / math.log2(3)), abs(1 / math.log2(3) - 1 / math.log2(4))

    def term(weight: float, gap: float, margin: float) -> float:
        return weight * gap / ideal * math.log2(1 + math.exp(-margin))

    expected = term(near, 2, -0.5) + term(near, 3, 1.0) + term(far, 1, 1.5)
    assert NDCG2(k=2)(whole(f64(student), f64(teacher))).loss.item() == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.4339784388340661, abs=1e-12)


def test_of_equal_students_the_teachers_better_one_stands_first() -> None:
    scores = whole(f64((1.0, 1.0, 2.0, 1.0)), f64((0.0, 2.0, 1.0, 1.0)))
    assert student_places(scores).tolist() == [[4, 2, 1, 3]]


def test_only_the_teachers_top_k_and_their_order_count() -> None:
    student, teacher = f64((0.3, -1.0, 0.9, 0.1, 0.4)), f64((5.0, 4.0, 3.0, 2.0, 1.0))
    before = NDCG2(k=2)(whole(student, teacher)).per_list
    for tail in itertools.permutations((3.0, 2.0, 1.0)):
        torch.testing.assert_close(NDCG2(k=2)(whole(student, f64((5.0, 4.0, *tail)))).per_list, before)
    torch.testing.assert_close(NDCG2(k=2)(whole(student, teacher.exp())).per_list, before, rtol=0, atol=0)
    assert not torch.allclose(NDCG2(k=2)(whole(student, f64((4.0, 5.0, 3.0, 2.0, 1.0)))).per_list, before)


def test_long_lists_stay_finite() -> None:
    """2^g of 3000 gains has no float."""
    student = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = LambdaRank()(whole(student, torch.arange(3000.0)[None]))
    assert out.loss.isfinite()
    assert torch.autograd.grad(out.loss, student)[0].isfinite().all()


# Independent implementations ----------------------------------------------------------------------------------


class GivenScores(torch.nn.Module):
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


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("sentence_transformers.cross_encoder.losses", reason="needs extra retrieval")


DOCUMENTS = [["0", "1", "2", "3"], ["4", "5"]]


def two_lists(labels: list[Tensor]) -> tuple[Tensor, RankedScores]:
    """Six scores as lists of four and two."""
    flat = torch.randn(6, generator=torch.Generator().manual_seed(4))
    student, teacher = torch.zeros(2, 4), torch.zeros(2, 4)
    student[0], student[1, :2], teacher[0], teacher[1, :2] = flat[:4], flat[4:], labels[0], labels[1]
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    return flat, RankedScores(student=student, teacher=teacher, valid=valid)


def test_listnet_matches_sentence_transformers(theirs: Any) -> None:
    labels = [torch.tensor([0.3, 2.0, -1.0, 0.9]), torch.tensor([0.1, 0.5])]
    flat, scores = two_lists(labels)
    expected = theirs.ListNetLoss(GivenScores(flat))([["q0", "q1"], DOCUMENTS], labels)
    assert ListNet()(scores).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_ranknet_matches_sentence_transformers(theirs: Any) -> None:
    """They divide by the pairs of the whole batch (6 + 1), we by those of each list."""
    labels = [torch.tensor([0.3, 2.0, 1.0, 0.9]), torch.tensor([0.1, 0.5])]
    flat, scores = two_lists(labels)
    expected = theirs.RankNetLoss(GivenScores(flat), reduction_log="natural")([["q0", "q1"], DOCUMENTS], labels)
    per_list = RankNet()(scores).per_list
    assert (per_list @ torch.tensor([6.0, 1.0]) / 7).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("scheme", "loss", "pairs"),
    [("NDCGLoss2Scheme", NDCG2(k=2), (5, 1)), ("LambdaRankScheme", LambdaRank(), (6, 1))],
    ids=["idcm", "lambdarank"],
)
def test_lambda_losses_match_sentence_transformers(
    theirs: Any, scheme: str, loss: RankingLoss, pairs: tuple[int, int]
) -> None:
    """Their labels are the gains, ours follow from the order; they divide by the pairs of the whole batch."""
    order = [torch.tensor([0.3, 2.0, -1.0, 0.9]), torch.tensor([0.1, 0.5])]
    flat, scores = two_lists(order)
    k = loss.k if isinstance(loss, NDCG2) else None
    gains = [torch.tensor(gains_of(values.tolist(), k)) for values in order]
    their_loss = theirs.LambdaLoss(GivenScores(flat), weighting_scheme=getattr(theirs, scheme)())
    expected = their_loss([["q0", "q1"], DOCUMENTS], gains)
    assert (loss(scores).per_list.sum() / sum(pairs)).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.fixture(scope="module")
def dense() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="needs extra retrieval")


def test_margin_mse_matches_sentence_transformers(dense: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    query, positive, negative = torch.randn(3, 5, 8, generator=generator)
    labels = torch.randn(5, generator=generator)
    expected = dense.MarginMSELoss(torch.nn.Identity()).compute_loss_from_embeddings(
        [query, positive, negative], labels
    )
    student = torch.stack([(query * positive).sum(dim=1), (query * negative).sum(dim=1)], dim=1)
    scores = whole(student, torch.stack([labels, torch.zeros(5)], 1))
    assert MarginMSE()(scores).loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_matches_sentence_transformers(dense: Any, temperature: float) -> None:
    generator = torch.Generator().manual_seed(6)
    query, *documents = torch.randn(4, 5, 8, generator=generator)
    labels = torch.randn(5, 3, generator=generator)
    expected = dense.DistillKLDivLoss(torch.nn.Identity(), temperature=temperature).compute_loss_from_embeddings(
        [query, *documents], labels
    )
    student = torch.stack([(query * d).sum(dim=1) for d in documents], dim=1)
    assert KL(temperature=temperature)(whole(student, labels)).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_pld_follows_the_appendix() -> None:
    """Appendix C as it is described: sort, label to its place, gather, reversed logcumsumexp, weigh, sum, mean."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = torch.randn(2, 16, 10, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 10, (16,), generator=generator)
    ascending = teacher.argsort(dim=1)
    rows = [
        [*(c for c in row if c != label), label] for row, label in zip(ascending.tolist(), labels.tolist(), strict=True)
    ]
    order = torch.tensor(rows)  # worst first, the label last
    ordered = student.gather(1, order)
    weights = (teacher / 2.0).softmax(dim=1).gather(1, order)
    expected = (weights * (ordered.logcumsumexp(dim=1) - ordered)).sum(dim=1).mean()
    got = PLD(teacher_temperature=2.0)(replace(whole(student, teacher), positive=labels)).loss
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


# What feeds what ----------------------------------------------------------------------------------------------


def test_tiers_are_levels() -> None:
    teacher = torch.tensor([[0.5, 2.0, 0.5, -1.0, 9.0], [1.0, 1.0, 1.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True, True, False], [True] * 5])
    levels = tier_levels(teacher, valid)
    assert levels[0, :4].tolist() == [1, 0, 1, 2]
    assert levels[1].tolist() == [0, 0, 0, 1, 1]


def test_the_line_about_a_teacher_that_does_not_feed_a_loss() -> None:
    order = ", ".join(losses_fed_by("order"))
    assert order == ("rrhf, listmle, simpo, dpo, cprd, idcm, quantidce, ranknet, lambdarank")
    assert unfed(PLD(), "order", "the judge") == (
        "loss.name: pld needs magnitudes, but the judge gives an order alone; use loss.gap_temperature=false (pro),"
        f" or {order}"
    )
    assert unfed(KL(), "levels", "the file", ("other scores",)) == (
        "loss.name: kl needs magnitudes, but the file gives levels alone; use other scores,"
        f" loss.gap_temperature=false (pro), or {order}"
    )
    assert unfed(SPPO(), "magnitude", "the scores").startswith(
        "loss.name: sppo needs votes of two passes or more, but the scores gives scores without votes; use rrhf, pro,"
    )
    assert unfed(SPPO(), "order", "it", ("more passes",)) == (
        f"loss.name: sppo needs votes of two passes or more, but it gives an order alone; use more passes, or {order}"
    )


def test_an_order_feeds_all_but_magnitudes() -> None:
    assert losses_fed_by("order") == (
        *("rrhf", "listmle", "simpo", "dpo", "cprd", "idcm", "quantidce", "ranknet", "lambdarank"),
    )
    assert losses_fed_by("levels") == losses_fed_by("order")
    assert set(losses_fed_by("magnitude")) - set(losses_fed_by("order")) == {
        *("pro", "pld", "margin_mse", "listnet", "kl", "mse"),
    }
    assert CPRD().needs == CPRD(rank_cut=2).needs == "order"
    assert CPRD(threshold=0.0).needs == CPRD(threshold="mean").needs == "magnitude"
    assert not feeds("levels", "magnitude")
    assert feeds("votes", "magnitude")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CPRD(hard=0), "hard: expected a whole number >= 1, got 0"),
        (lambda: CPRD(rank_cut=0), "rank_cut: expected a whole number >= 1"),
        (lambda: CPRD(threshold=math.nan), "threshold: expected a finite number, mean or null, got nan"),
        (lambda: CPRD(temperature=0.0), "temperature: expected a finite number > 0"),
        (lambda: NDCG2(k=0), "k: expected a whole number >= 1"),
        (lambda: KL(temperature=-1.0), "temperature: expected a finite number > 0"),
        (lambda: MarginMSE(teacher_scale=0.0), "teacher_scale: expected a finite number > 0"),
        (lambda: MarginMSE(sft_weight=-1.0), "sft_weight: expected a finite number >= 0"),
    ],
)
def test_refused(make: Callable[[], RankingLoss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
