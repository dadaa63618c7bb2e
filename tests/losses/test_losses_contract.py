"""What every loss promises besides its value: invariances, masks, widths, denominators, config."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Annotated, Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from cyclealign.losses import (
    CPRD,
    DPO,
    KL,
    NDCG2,
    PLD,
    PRO,
    RRHF,
    SPPO,
    AnyLoss,
    EmbeddingMatch,
    LambdaRank,
    ListMLE,
    ListNet,
    LossOutput,
    MarginMSE,
    MultiLevelRanking,
    PointwiseMSE,
    QuantiDCEKD,
    RankedScores,
    RankingLoss,
    RankNet,
    SimPO,
    tier_levels,
)
from cyclealign.losses.base import centred, widened


class Tiered(MultiLevelRanking):
    """Multi-level ranking on the tiers of the teacher's ranking, as a run of the cycle has it."""

    def list_losses(self, scores: RankedScores) -> Tensor:
        return super().list_losses(replace(scores, levels=tier_levels(scores.teacher, scores.valid)))


LIST_LOSSES = (ListMLE, LambdaRank, ListNet, KL, MarginMSE, PointwiseMSE, RankNet, PLD, CPRD)
LOSSES: list[RankingLoss] = [
    RRHF(),
    PRO(),
    PRO(gap_temperature=False),
    ListMLE(),
    PLD(),
    SimPO(),
    SimPO(pairs="adjacent"),
    DPO(),
    DPO(pairs="all"),
    MarginMSE(),
    PointwiseMSE(),
    CPRD(),
    CPRD(hard=2, rank_cut=1, temperature=0.5),
    CPRD(hard=3, threshold="mean"),
    NDCG2(k=2),
    LambdaRank(),
    Tiered(),
    Tiered(squash="sigmoid"),
    RankNet(),
    ListNet(),
    KL(temperature=2.0),
    ListMLE(top=2),
    ListNet(temperature=0.5),
    *(cls(student_score="log_ratio", beta=0.3) for cls in LIST_LOSSES),
    SPPO(),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def drawn(lists: int = 5, width: int = 4, *, ties: bool = False, seed: int = 0) -> RankedScores:
    """Random ragged lists, with two valid entries each at least."""
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(lists, width, dtype=torch.float64, generator=g)
    teacher = torch.randn(lists, width, dtype=torch.float64, generator=g)
    if ties:
        teacher = teacher.round()
    sizes = torch.randint(2, width + 1, (lists, 1), generator=g)
    return RankedScores(student=student, teacher=teacher, valid=torch.arange(width) < sizes)


def gradient(loss: RankingLoss, scores: RankedScores) -> Tensor:
    student = scores.student.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(replace(scores, student=student)).loss, student)
    return grad


@every_loss
@pytest.mark.parametrize("ties", [False, True])
def test_columns_come_in_any_order(loss: RankingLoss, ties: bool) -> None:
    scores = drawn(ties=ties)
    for seed in range(4):
        columns = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
        turned = RankedScores(
            student=scores.student[:, columns],
            teacher=scores.teacher[:, columns],
            valid=scores.valid[:, columns],
        )
        torch.testing.assert_close(loss(turned).per_list, loss(scores).per_list, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(loss, turned), gradient(loss, scores)[:, columns], rtol=1e-12, atol=1e-12)


@every_loss
def test_padding_changes_nothing(loss: RankingLoss) -> None:
    scores = drawn()
    junk = torch.full((5, 3), math.nan, dtype=torch.float64)
    padded = RankedScores(
        student=torch.cat([junk, scores.student], dim=1),
        teacher=torch.cat([junk, scores.teacher], dim=1),
        valid=torch.cat([torch.zeros(5, 3, dtype=torch.bool), scores.valid], dim=1),
    )
    torch.testing.assert_close(loss(padded).per_list, loss(scores).per_list, rtol=1e-12, atol=1e-12)
    grad = gradient(loss, padded)
    torch.testing.assert_close(grad[:, 3:], gradient(loss, scores), rtol=1e-12, atol=1e-12)
    assert (grad[:, :3] == 0).all()


@every_loss
def test_shifts(loss: RankingLoss) -> None:
    """A shift of the teacher changes nothing; nor one of the student, except under PRO's temperatures and a
    sigmoid. Pointwise MSE and SPPO alone ask for the level."""
    scores = drawn()
    before = loss(scores).per_list
    shifted = loss(replace(scores, teacher=scores.teacher + 7)).per_list
    if isinstance(loss, PointwiseMSE | SPPO):
        assert not torch.allclose(shifted, before)
    else:
        torch.testing.assert_close(shifted, before)
    shifted = loss(replace(scores, student=scores.student - 3)).per_list
    squashed = isinstance(loss, MultiLevelRanking) and loss.squash == "sigmoid"
    if (isinstance(loss, PRO) and loss.gap_temperature) or isinstance(loss, PointwiseMSE | SPPO) or squashed:
        assert not torch.allclose(shifted, before)
    else:
        torch.testing.assert_close(shifted, before)


@every_loss
@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_entries_have_no_say(loss: RankingLoss, fill: float) -> None:
    scores = drawn()
    hidden = ~scores.valid
    filled = replace(
        scores,
        student=scores.student.masked_fill(hidden, fill),
        teacher=scores.teacher.masked_fill(hidden, fill),
    )
    torch.testing.assert_close(loss(filled).per_list, loss(scores).per_list, rtol=0, atol=0)
    grad = gradient(loss, filled)
    assert grad.isfinite().all()
    assert (grad[hidden] == 0).all()


@every_loss
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (3, 1), (3, 2)])
def test_lists_that_do_not_count(loss: RankingLoss, shape: tuple[int, int]) -> None:
    """Empty batches, no columns, one column, one valid entry, none: a finite zero with a zero gradient."""
    student = torch.full(shape, math.nan, requires_grad=True)
    valid = torch.zeros(shape, dtype=torch.bool)
    for one in (False, True):
        if one and shape[1] > 0:
            valid[:, 0] = True
            student = torch.where(valid, 0.5, math.nan).requires_grad_()
        for lists in (None, 0, torch.tensor(0)):
            scores = RankedScores(
                student=student, teacher=torch.zeros(shape), valid=valid, best_nll=torch.ones(shape[0])
            )
            out = loss(scores, lists=lists)
            assert out.loss.item() == 0
            assert out.per_list.tolist() == [0.0] * shape[0]
            (grad,) = torch.autograd.grad(out.loss, student)
            assert (grad == 0).all()
            assert loss.list_losses(widened(scores)).isfinite().all()


def test_an_output_needs_no_figures_for_the_log() -> None:
    zero = torch.zeros(())
    first, second = (LossOutput(loss=zero, per_list=torch.zeros(1)) for _ in range(2))
    assert first.metrics == {}
    assert first.metrics is not second.metrics


def test_centred_is_the_difference_to_the_mean_of_what_is_there() -> None:
    values = torch.tensor([[5.0, 9.0, 1.0], [5.0, 9.0, 1.0], [5.0, 9.0, 1.0]])
    valid = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    assert centred(values, valid).tolist() == [[0.0, 0.0, 0.0], [-2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]


@every_loss
def test_a_teacher_that_ties_all_moves_nothing(loss: RankingLoss) -> None:
    """No pair counts under the pair losses; the likelihoods ask for the student's own order only; those that regress
    or match a distribution ask for equal scores."""
    scores = replace(drawn(), teacher=torch.zeros(5, 4, dtype=torch.float64))
    out = loss(scores)
    pairwise = loss.name in ("rrhf", "simpo", "dpo", "ranknet", "idcm", "lambdarank")
    if pairwise:
        assert out.loss.item() == 0
    if pairwise or (isinstance(loss, PRO) and loss.gap_temperature):
        assert (gradient(loss, scores) == 0).all()
    flipped = replace(scores, student=-scores.student)
    assert loss(flipped).per_list.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(loss: RankingLoss, dtype: torch.dtype) -> None:
    scores = drawn()
    half = replace(scores, student=scores.student.to(dtype), teacher=scores.teacher.to(dtype))
    wide = replace(scores, student=half.student.float(), teacher=half.teacher.float())
    out = loss(half)
    assert out.loss.dtype == out.per_list.dtype == torch.float32
    torch.testing.assert_close(out.per_list, loss(wide).per_list, rtol=0, atol=0)
    assert gradient(loss, half).dtype == dtype


@every_loss
def test_extreme_scores_stay_finite(loss: RankingLoss) -> None:
    """logsumexp, never exp-then-log: likelihoods of -1e4 nats per token underflow every exp."""
    student = torch.tensor([[-1e4, 0.0, -3e3], [-9e3, -9.5e3, -9.9e3]], requires_grad=True)
    scores = RankedScores(
        student=student,
        teacher=torch.tensor([[9.0, 4.0, -7.0], [1.0, 2.0, 3.0]]),
        valid=torch.ones(2, 3).bool(),
    )
    out = loss(scores)
    assert out.per_list.isfinite().all()
    assert (out.per_list >= 0).all()
    assert out.per_list[1] > 0  # the student has the second list the wrong way round
    assert gradient(loss, scores).isfinite().all()


@every_loss
def test_teacher_orders_in_its_own_width(loss: RankingLoss) -> None:
    """Utilities that float32 would tie are still an order; the output keeps the student's width."""
    teacher = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    student = torch.tensor([[0.5, -0.5]])
    valid = torch.ones(1, 2).bool()
    out = loss(RankedScores(student=student, teacher=teacher, valid=valid))
    assert out.loss.dtype == torch.float32
    if loss.name == "rrhf":
        assert out.loss.item() == 1.0


@every_loss
def test_parts_of_a_batch_add_up(loss: RankingLoss) -> None:
    """With ``lists`` the number over all parts, losses and gradients of the parts sum to the whole's."""
    whole = replace(drawn(6), best_nll=torch.rand(6, dtype=torch.float64))
    whole.valid[4] = torch.tensor([True, False, False, False])  # does not count
    total = whole.counted.sum()
    assert total == 5
    parts = []
    for rows in (slice(0, 1), slice(1, 6)):
        assert whole.best_nll is not None
        parts.append(
            RankedScores(
                student=whole.student[rows],
                teacher=whole.teacher[rows],
                valid=whole.valid[rows],
                best_nll=whole.best_nll[rows],
            )
        )
    outs = [loss(part, lists=total) for part in parts]
    expected = loss(whole)
    torch.testing.assert_close(outs[0].loss + outs[1].loss, expected.loss)
    for key, value in expected.metrics.items():
        torch.testing.assert_close(outs[0].metrics[key] + outs[1].metrics[key], value)
    # A fraction is a denominator like any other: two processes whose gradients are averaged.
    torch.testing.assert_close(loss(whole, lists=total / 2).loss, 2 * expected.loss)
    torch.testing.assert_close(loss(whole, lists=0.5).loss, 10 * expected.loss)


def test_sft_gradient_reaches_the_nll() -> None:
    nll = torch.tensor([1.0, 2.0], requires_grad=True)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    scores = RankedScores(student=torch.zeros(2, 3), teacher=torch.rand(2, 3), valid=valid, best_nll=nll)
    (grad,) = torch.autograd.grad(PRO(sft_weight=0.1)(scores).loss, nll)
    torch.testing.assert_close(grad, torch.tensor([0.1 * 4 / 2, 0.1 * 1 / 2]))


def test_pld_takes_the_known_positive_first() -> None:
    scores = drawn()
    worst = torch.where(scores.valid, scores.teacher, math.inf).argmin(dim=1)
    with_positive = PLD()(replace(scores, positive=worst)).per_list
    assert not torch.allclose(with_positive, PLD()(scores).per_list)
    unknown = PLD()(replace(scores, positive=torch.full((5,), -1))).per_list
    torch.testing.assert_close(unknown, PLD()(scores).per_list, rtol=0, atol=0)
    # The positive first is the order that its utility would give if it were the highest, with the old weights.
    raised = scores.teacher.scatter(1, worst[:, None], 1e6)
    alpha = torch.where(scores.valid, scores.teacher, -math.inf).softmax(dim=1)
    order = torch.where(scores.valid, raised, -math.inf).argsort(dim=1, descending=True)
    for b in range(5):
        s, n = scores.student[b, order[b]][: scores.valid[b].sum()], scores.valid[b].sum()
        terms = torch.stack([s[k:].logsumexp(0) - s[k] for k in range(int(n))])
        torch.testing.assert_close((alpha[b, order[b]][:n] * terms).sum(), with_positive[b])


def test_what_the_losses_ask_for() -> None:
    assert {loss.name: loss.needs for loss in (RRHF(), ListMLE(), SimPO(), DPO())} == dict.fromkeys(
        ("rrhf", "listmle", "simpo", "dpo"), "order"
    )
    assert PRO().needs == PLD().needs == "magnitude"
    assert PRO(gap_temperature=False).needs == "order"
    assert {loss.needs for loss in (MarginMSE(), PointwiseMSE(), ListNet(), KL())} == {"magnitude"}
    assert {loss.needs for loss in (CPRD(), NDCG2(), RankNet(), LambdaRank())} == {"order"}
    assert MultiLevelRanking().needs == "levels"
    assert {cls().student_score for cls in (*LIST_LOSSES, RRHF, PRO, SimPO, NDCG2)} == {"mean"}
    assert SPPO().student_score == "log_ratio"
    assert (SPPO().needs, SPPO().reference, DPO().reference) == ("votes", "previous", "start")
    assert DPO().student_score == "log_ratio"
    assert PRO(sft_reduction="sum").sft_reduction == "sum"
    assert {loss.sft_reduction for loss in LOSSES} == {"mean"}
    assert (RRHF().sft, PRO().sft, ListMLE().sft, PLD().sft) == (1.0, 0.05, 0.0, 0.0)


# As a section of the config ---------------------------------------------------------------------------------

Loss = Annotated[AnyLoss, Field(discriminator="name")]


class Parent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    loss: Loss = RRHF()


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "rrhf"}, RRHF()),
        (
            {"name": "pro", "gap_temperature": False, "sft_weight": 0.1},
            PRO(gap_temperature=False, sft_weight=0.1),
        ),
        ({"name": "pro", "sft_reduction": "sum"}, PRO(sft_reduction="sum")),
        ({"name": "listmle", "sft_weight": 1}, ListMLE(sft_weight=1.0)),
        ({"name": "pld", "teacher_temperature": 2}, PLD(teacher_temperature=2.0)),
        ({"name": "simpo", "pairs": "adjacent"}, SimPO(pairs="adjacent")),
        ({"name": "dpo", "beta": 0.01, "pairs": "all"}, DPO(beta=0.01, pairs="all")),
        ({"name": "margin_mse", "sft_weight": 0.1}, MarginMSE(sft_weight=0.1)),
        ({"name": "mse"}, PointwiseMSE()),
        (
            {"name": "cprd", "hard": 8, "threshold": "mean", "temperature": 0.05},
            CPRD(hard=8, threshold="mean", temperature=0.05),
        ),
        ({"name": "cprd", "threshold": 1, "include_easy": False}, CPRD(threshold=1.0, include_easy=False)),
        ({"name": "idcm", "k": 2}, NDCG2(k=2)),
        ({"name": "lambdarank", "k": None}, LambdaRank()),
        ({"name": "quantidce", "squash": "sigmoid"}, MultiLevelRanking(squash="sigmoid")),
        ({"name": "ranknet"}, RankNet()),
        ({"name": "listnet"}, ListNet()),
        ({"name": "kl", "temperature": 4}, KL(temperature=4.0)),
        (
            {"name": "listmle", "student_score": "log_ratio", "beta": 0.1, "reference": "previous", "top": 2},
            ListMLE(student_score="log_ratio", beta=0.1, reference="previous", top=2),
        ),
        ({"name": "sppo", "eta": 1000, "reference": "start"}, SPPO(eta=1000.0, reference="start")),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_read_from_config(section: dict[str, object], expected: RankingLoss) -> None:
    parent = Parent.model_validate({"loss": section})
    assert parent.loss == expected
    assert TypeAdapter(Parent).validate_python(parent.model_dump()) == parent


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"name": "rrhf", "betaa": 1}, "betaa"),
        ({"name": "simpo", "sft_weight": 1}, "sft_weight"),
        ({"name": "ppo"}, "ppo"),
        ({}, "name"),
        ({"name": "rrhf", "sft_weight": -1}, "sft_weight: expected a finite number >= 0, got -1"),
        ({"name": "pro", "sft_weight": math.nan}, "sft_weight"),
        ({"name": "pro", "sft_reduction": "max"}, "sft_reduction"),
        ({"name": "listmle", "sft_weight": math.inf}, "sft_weight"),
        ({"name": "pld", "teacher_temperature": 0}, "teacher_temperature: expected a finite number > 0"),
        ({"name": "simpo", "beta": 0}, "beta: expected"),
        ({"name": "simpo", "gamma_ratio": -0.1}, "gamma_ratio: expected"),
        ({"name": "simpo", "pairs": "some"}, "pairs"),
        ({"name": "dpo", "beta": -1}, "beta: expected"),
        ({"name": "cprd", "hard": 2.5}, "hard"),
        ({"name": "cprd", "threshold": "median"}, "threshold"),
        ({"name": "listmle", "top": 0}, "top: expected a whole number >= 1"),
        ({"name": "listnet", "temperature": 0}, "temperature: expected a finite number > 0"),
        ({"name": "ranknet", "student_score": "sum"}, "student_score"),
        ({"name": "ranknet", "beta": 0.1}, "beta: read with student_score: log_ratio alone, got 0.1"),
        ({"name": "kl", "reference": "previous"}, "reference: read with student_score: log_ratio alone"),
        ({"name": "mse", "student_score": "log_ratio", "beta": 0}, "beta: expected a finite number > 0"),
        ({"name": "pro", "student_score": "log_ratio"}, "student_score"),
        ({"name": "sppo", "eta": 0}, "eta: expected"),
        ({"name": "sppo", "beta": 1}, "beta"),
        ({"name": "idcm", "k": 0}, "k: expected a whole number >= 1"),
        ({"name": "quantidce", "separation": -0.1}, "separation: expected"),
    ],
    ids=str,
)
def test_refused_in_config(section: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Parent.model_validate({"loss": section})


LIST_FIELDS = {"sft_weight": 0.0, "student_score": "mean", "beta": 1.0, "reference": "start"}
PAIRED = {"pairs": "best_worst"}
PUBLISHED: list[tuple[type[Any], str, dict[str, object]]] = [
    (RRHF, "rrhf", {"sft_weight": 1.0}),
    (PRO, "pro", {"gap_temperature": True, "sft_weight": 0.05, "sft_reduction": "mean"}),
    (ListMLE, "listmle", LIST_FIELDS | {"top": None}),
    (PLD, "pld", LIST_FIELDS | {"teacher_temperature": 1.0}),
    (SimPO, "simpo", PAIRED | {"beta": 2.0, "gamma_ratio": 0.5}),
    (DPO, "dpo", PAIRED | {"beta": 0.1, "reference": "start"}),
    (MarginMSE, "margin_mse", LIST_FIELDS | {"teacher_scale": 1.0}),
    (
        CPRD,
        "cprd",
        LIST_FIELDS | {"hard": None, "threshold": None, "rank_cut": None, "include_easy": True, "temperature": 1.0},
    ),
    (NDCG2, "idcm", {"sft_weight": 0.0, "k": 4}),
    (MultiLevelRanking, "quantidce", {"sft_weight": 0.0, "separation": 0.3, "compactness": 0.1, "squash": "none"}),
    (RankNet, "ranknet", LIST_FIELDS),
    (LambdaRank, "lambdarank", LIST_FIELDS | {"k": None}),
    (ListNet, "listnet", LIST_FIELDS | {"temperature": 1.0}),
    (KL, "kl", LIST_FIELDS | {"temperature": 1.0}),
    (PointwiseMSE, "mse", LIST_FIELDS),
    (SPPO, "sppo", {"eta": 10.0, "reference": "previous"}),
    (EmbeddingMatch, "leaf", {"power": 2, "widths": (), "renormalise": True}),
    (QuantiDCEKD, "quantidce_kd", {"kd_weight": 5.0, "rating_weight": 1.0}),
]


published_settings = pytest.mark.parametrize(
    ("cls", "name", "published"), PUBLISHED, ids=[name for _, name, _ in PUBLISHED]
)


@published_settings
def test_defaults_are_the_published_settings(cls: type[Any], name: str, published: dict[str, object]) -> None:
    assert asdict(cls()) == {"name": name} | published


@pytest.mark.usefixtures("without_jaxtyping")
@published_settings
def test_every_field_is_checked_in_python_too(cls: type[Any], name: str, published: dict[str, object]) -> None:
    assert cls().name == name
    for field, value in published.items():
        unchecked = (field == "threshold" or isinstance(value, bool)) or field in ("squash", "widths")
        wrong: object = "some" if isinstance(value, str) else 0 if value is None or type(value) is int else math.inf
        if not unchecked:
            with pytest.raises(ValueError, match=f"^{field}: expected"):
                cls(**{field: wrong})
    if "beta" in published:
        with pytest.raises(ValueError, match=r"^beta: expected a finite number > 0, got 0"):
            cls(beta=0.0, **({"student_score": "log_ratio"} if "student_score" in published else {}))
        for read in ("beta", "reference") if "student_score" in published else ():
            with pytest.raises(ValueError, match=f"^{read}: read with student_score: log_ratio alone, got "):
                cls(**{read: 0.5 if read == "beta" else "previous"})


@pytest.mark.usefixtures("without_jaxtyping")
def test_zero_is_a_weight_and_one_a_count() -> None:
    for cls in (RRHF, PRO, ListMLE):
        assert cls(sft_weight=0.0).sft == 0
    assert MultiLevelRanking(separation=0.0, compactness=0.0).separation == 0
    assert (SimPO(gamma_ratio=0.0).gamma_ratio, QuantiDCEKD(kd_weight=0.0, rating_weight=0.0).kd_weight) == (0, 0)
    assert (NDCG2(k=1).k, ListMLE(top=1).top, CPRD(hard=1, rank_cut=1).hard) == (1, 1, 1)


@pytest.mark.usefixtures("without_jaxtyping")
def test_refused_in_python() -> None:
    with pytest.raises(ValueError, match="pairs: expected one of best_worst, adjacent, all, got 'some'"):
        SimPO(pairs="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta: expected a finite number > 0, got -1"):
        DPO(beta=-1)
    with pytest.raises(ValueError, match="sft_reduction: expected mean or sum"):
        PRO(sft_reduction="max")  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_jaxtyping")
def test_shapes_that_do_not_belong_together() -> None:
    student, valid = torch.zeros(2, 3), torch.ones(2, 3).bool()
    with pytest.raises(ValueError, match=r"teacher: expected shape \[2, 3\] to go with student, got \[2, 2\]"):
        RankedScores(student=student, teacher=torch.zeros(2, 2), valid=valid)
    with pytest.raises(ValueError, match=r"best_nll: expected shape \[2\]"):
        RankedScores(student=student, teacher=student, valid=valid, best_nll=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"student: expected shape \[lists, candidates\], got \[3\]"):
        RankedScores(student=student[0], teacher=student[0], valid=valid[0])
    with pytest.raises(ValueError, match="valid: expected a bool tensor"):
        RankedScores(student=student, teacher=student, valid=torch.ones(2, 3))


def test_integer_utilities_are_fine() -> None:
    scores = RankedScores(
        student=torch.tensor([[0.1, 0.4]]), teacher=torch.tensor([[2, 1]]), valid=torch.ones(1, 2).bool()
    )
    assert RRHF()(scores).loss.item() == pytest.approx(0.3)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("teacher", [[3.0, 1.0, 2.0, 0.0], [2.0, 2.0, 1.0, 0.0, 0.0], [1.0, 1.0]])
def test_unread_candidates_change_nothing(loss: RankingLoss, teacher: list[float]) -> None:
    """What `read` leaves out has no say, and without it the value is the same."""
    scores = torch.linspace(-1, 1, len(teacher), dtype=torch.float64).sin()[None].requires_grad_()
    places = list(loss.read(teacher))
    bundle = RankedScores(
        student=scores, teacher=torch.tensor([teacher]), valid=torch.ones(1, len(teacher), dtype=torch.bool)
    )
    whole = loss(bundle)
    (gradient,) = torch.autograd.grad(whole.loss, scores)
    assert all(gradient[0, i] == 0 for i in range(len(teacher)) if i not in places)
    part = RankedScores(student=scores[:, places], teacher=bundle.teacher[:, places], valid=bundle.valid[:, places])
    assert loss(part).loss.item() == pytest.approx(whole.loss.item(), abs=1e-12)


def test_best_worst_reads_two_of_a_list() -> None:
    assert SimPO().read([1.0, 3.0, 2.0, 0.0]) == DPO().read([1.0, 3.0, 2.0, 0.0]) == (1, 3)
    assert RRHF().read([1.0, 3.0, 2.0]) == SimPO(pairs="adjacent").read([1.0, 3.0, 2.0]) == (0, 1, 2)
