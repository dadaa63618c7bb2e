"""The losses that compare vectors: LEAF's embedding match and QuantiDCE's regulariser, by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclealign.losses import EmbeddingMatch, EmbeddingPairs, ModelStates, QuantiDCEKD


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# LEAF -------------------------------------------------------------------------------------------------------


def test_embedding_match_by_hand() -> None:
    pairs = EmbeddingPairs(
        student=torch.tensor([[3.0, 4.0], [1.0, 1.0]]), teacher=torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    )
    assert EmbeddingMatch()(pairs).per_list.tolist() == [25.0, 0.0]
    assert EmbeddingMatch(power=1)(pairs).per_list.tolist() == [5.0, 0.0]
    assert EmbeddingMatch()(pairs).loss.item() == 12.5
    assert EmbeddingMatch()(pairs, texts=5).loss.item() == 5.0


def test_squared_distance_of_unit_vectors_is_two_minus_twice_the_cosine() -> None:
    student, teacher = (torch.nn.functional.normalize(drawn(7, 16, seed=s), dim=1) for s in (0, 1))
    out = EmbeddingMatch()(EmbeddingPairs(student=student, teacher=teacher))
    torch.testing.assert_close(out.loss, 2 - 2 * out.metrics["cosine"])


@pytest.mark.parametrize("power", [1, 2])
def test_a_perfect_student_has_no_loss_at_any_width(power: int) -> None:
    """Truncated AND renormalised on both sides: with the student alone renormalised it would be 0.1 or so."""
    teacher = torch.nn.functional.normalize(drawn(5, 16), dim=1)
    student = teacher.clone().requires_grad_()
    loss = EmbeddingMatch(power=power, widths=(16, 8, 2))(EmbeddingPairs(student=student, teacher=teacher)).loss  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()


def test_widths_by_hand() -> None:
    student, teacher = drawn(4, 6), drawn(4, 6, seed=1)
    got = EmbeddingMatch(widths=(6, 3))(EmbeddingPairs(student=student, teacher=teacher)).per_list
    for n in range(4):
        whole = sum((student[n, d] - teacher[n, d]) ** 2 for d in range(6))
        s, t = student[n, :3] / student[n, :3].norm(), teacher[n, :3] / teacher[n, :3].norm()
        assert got[n].item() == pytest.approx(((whole + ((s - t) ** 2).sum()) / 2).item(), abs=1e-12)
    raw = EmbeddingMatch(widths=(3,), renormalise=False)(EmbeddingPairs(student=student, teacher=teacher)).per_list
    torch.testing.assert_close(raw, (student[:, :3] - teacher[:, :3]).square().sum(dim=1))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("widths", [(), (4, 2)])
def test_embedding_match_gradients_and_masks(power: int, widths: tuple[int, ...]) -> None:
    student, teacher = drawn(3, 4).requires_grad_(), drawn(3, 4, seed=1)
    valid = torch.tensor([True, False, True])
    match = EmbeddingMatch(power=power, widths=widths)  # type: ignore[arg-type]

    def total(s: Tensor) -> Tensor:
        return match(EmbeddingPairs(student=s, teacher=teacher, valid=valid)).loss

    assert torch.autograd.gradcheck(total, (student,), atol=1e-7, rtol=1e-6)
    torn = teacher.masked_fill(~valid[:, None], torch.nan)
    out = match(EmbeddingPairs(student=student.masked_fill(~valid[:, None], torch.nan), teacher=torn, valid=valid))
    torch.testing.assert_close(out.loss, total(student), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(out.loss, student)
    assert (gradient[1] == 0).all()
    assert out.per_list[1] == 0


def test_embedding_match_without_texts_and_in_half_precision() -> None:
    none = EmbeddingPairs(student=torch.zeros(2, 3), teacher=torch.zeros(2, 3), valid=torch.zeros(2).bool())
    assert EmbeddingMatch()(none).loss.item() == 0
    assert (
        EmbeddingMatch(power=1)(EmbeddingPairs(student=torch.zeros(0, 3), teacher=torch.zeros(0, 3))).loss.item() == 0
    )
    half = EmbeddingPairs(student=torch.ones(2, 3).half(), teacher=torch.zeros(2, 3))
    assert EmbeddingMatch()(half).loss.dtype == torch.float32


@pytest.mark.usefixtures("without_jaxtyping")
def test_embedding_match_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="power: expected 1 or 2, got 3"):
        EmbeddingMatch(power=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="widths: expected a whole number >= 1"):
        EmbeddingMatch(widths=(0,))
    with pytest.raises(ValueError, match="widths: expected at most the vectors' 4, got 8"):
        EmbeddingMatch(widths=(8,))(EmbeddingPairs(student=torch.zeros(1, 4), teacher=torch.zeros(1, 4)))


def test_embedding_match_matches_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="needs extra retrieval")
    student, teacher = drawn(6, 8).float(), drawn(6, 8, seed=1).float()
    theirs = losses.EmbedDistillLoss(torch.nn.Identity(), distance_metric="l2")
    expected = theirs.compute_loss_from_embeddings([student], [teacher])
    got = EmbeddingMatch(power=1)(EmbeddingPairs(student=student, teacher=teacher))
    assert got.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert got.metrics["match_loss"].item() == got.loss.item()
    one = EmbeddingPairs(student=student[:1], teacher=teacher[:1])
    torch.testing.assert_close(EmbeddingMatch()(one, texts=0.5).loss, 2 * EmbeddingMatch()(one).loss)


# QuantiDCE's second stage -------------------------------------------------------------------------------------


def states(seed: int, *, layers: int = 2, pairs: int = 3, tokens: int = 4) -> ModelStates:
    return ModelStates(
        score=drawn(pairs, seed=seed).sigmoid(),
        hidden=tuple(drawn(pairs, tokens, 5, seed=seed + 10 * n) for n in range(layers + 1)),
        attention=tuple(drawn(pairs, 2, tokens, tokens, seed=seed + 99 * n).softmax(-1) for n in range(layers)),
    )


def test_quantidce_kd_is_the_published_sum_without_padding() -> None:
    student, frozen, rating = states(0), states(1), torch.tensor([1.0, 3.5, 5.0], dtype=torch.float64)
    mse = torch.nn.functional.mse_loss
    kept = sum(mse(a, b) for a, b in zip(student.hidden, frozen.hidden, strict=True))
    kept = kept + sum(mse(a, b) for a, b in zip(student.attention, frozen.attention, strict=True))
    kept = kept + mse(student.score, frozen.score)
    expected = mse(4 * student.score + 1, rating) + 5 * kept
    out = QuantiDCEKD()(student, frozen, tokens=torch.ones(3, 4).bool(), rating=rating)
    torch.testing.assert_close(out.loss, expected)
    alone = QuantiDCEKD(kd_weight=2.0)(student, frozen, tokens=torch.ones(3, 4).bool()).loss
    torch.testing.assert_close(alone, 2 * kept)
    plain = QuantiDCEKD(kd_weight=0.0)(student, frozen, tokens=torch.ones(3, 4).bool(), rating=rating)
    torch.testing.assert_close(plain.loss, plain.per_list.mean())


def test_quantidce_kd_of_one_pair_is_its_rating_term() -> None:
    student, rating = states(0, pairs=1), torch.tensor([2.0], dtype=torch.float64)
    out = QuantiDCEKD(kd_weight=0.0)(student, states(1, pairs=1), tokens=torch.ones(1, 4).bool(), rating=rating)
    torch.testing.assert_close(out.loss, (4 * student.score[0] + 1 - 2) ** 2)


def test_quantidce_kd_of_one_number_is_its_square() -> None:
    student, frozen = (
        ModelStates(score=torch.tensor([0.5]), hidden=(torch.tensor([[[value]]]),), attention=())
        for value in (3.0, 1.0)
    )
    assert QuantiDCEKD(kd_weight=1.0)(student, frozen, tokens=torch.ones(1, 1).bool()).loss.item() == 4.0


def test_quantidce_kd_leaves_padding_out() -> None:
    """Longer padding with other junk changes neither value nor gradient; a copy of the frozen model has no loss."""
    tokens = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, True, True]])
    student, frozen = states(0), states(1)
    before = QuantiDCEKD()(student, frozen, tokens=tokens).loss
    mask = tokens[:, :, None]
    both = (tokens[:, :, None] & tokens[:, None, :])[:, None]
    hidden = tuple(torch.where(mask, h, 7.0).requires_grad_() for h in student.hidden)
    attention = tuple(torch.where(both, a, 7.0).requires_grad_() for a in student.attention)
    junk = ModelStates(score=student.score, hidden=hidden, attention=attention)
    after = QuantiDCEKD()(junk, frozen, tokens=tokens).loss
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    gradients = torch.autograd.grad(after, (*hidden, *attention))
    assert all((g.masked_select(~mask) == 0).all() for g in gradients[: len(hidden)])
    assert all((g.masked_select(~both) == 0).all() for g in gradients[len(hidden) :])
    assert QuantiDCEKD()(frozen, frozen, tokens=tokens).loss.item() == 0


def test_quantidce_kd_wants_the_same_architecture() -> None:
    with pytest.raises(ValueError, match="hidden: expected a frozen copy with the student's 3 layers, got 4"):
        QuantiDCEKD()(states(0), states(1, layers=3), tokens=torch.ones(3, 4).bool())
    with pytest.raises(ValueError, match="kd_weight: expected a finite number >= 0"):
        QuantiDCEKD(kd_weight=-1.0)
