"""What a run measured, as records of its files: a summary an interaction, metrics an evaluation, rows of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from cyclealign.files.records import decode


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeFigures:
    """Calls and tokens that a cascade saved, in counts of lists, against the agreement that it lost on audited ones.

    ``tau``, ``best_first``: means over the audited lists, None where there is none.
    """

    whole: int
    pruned: int
    alone: int
    audited: int
    calls_saved: int
    tokens_saved: int
    tau: float | None
    best_first: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFigures:
    """How the black box ranks its own replies: ``ranked`` lists hold one, ``first`` of them have it at their top (a tie
    counts its share), and chance would put it there in ``by_chance``."""

    ranked: int
    first: float
    by_chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """``summary.json`` of an interaction: means over the prompts that both rankers ranked, counts, the pool after it.

    ``unranked``: prompts by reason. ``lcs``: mean length, candidates; ``agreement``: over the list's length;
    ``agreement_corrected``: against chance. ``pass_tau``: None where each list was asked about once.
    """

    FORMAT: ClassVar[int] = 1

    interaction: int
    batch: int
    round: int
    prompts: int
    ranked: int
    unranked: Mapping[str, int]
    lcs: float
    lcs_by_chance: float
    agreement: float
    agreement_corrected: float
    pass_tau: float | None
    settled: int
    cascade: CascadeFigures | None = None
    answers: AnswerFigures | None = None
    accepted: int
    pool: int
    pool_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeFit:
    """``cascade.json``: the local ranker of an interaction; without weights while there are too few rankings.

    ``alone_from``: expected agreement from which on it answers alone, found on ``calibration`` lists; None: never.
    """

    FORMAT: ClassVar[int] = 1

    lists: int | None = None
    accuracy: float | None = None
    error: float | None = None
    useful: bool
    weights: Mapping[str, float] | None = None
    alone_from: float | None = None
    calibration: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """A line of ``train.jsonl``: means over the lists since the line before, at an optimiser step of the whole run.

    ``others``: what a loss of one's own, or transformers, logs besides.
    """

    loss: float
    grad_norm: float | None = None
    learning_rate: float | None = None
    anchor: float | None = None
    leaf: float | None = None
    best_nll: float | None = None
    rank_loss: float | None = None
    accuracy: float | None = None
    tokens: float | None = None
    step: float
    others: Mapping[str, float] | None = None


def train_row(logged: Mapping[str, float]) -> TrainRow:
    """The row that a Trainer logged."""
    known = {field.name for field in fields(TrainRow)}
    row: dict[str, object] = {name: value for name, value in logged.items() if name in known}
    others = {name: value for name, value in logged.items() if name not in known}
    return decode(TrainRow, row | ({"others": others} if others else {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of labelled pairs ranked as labelled, over the ``ranked`` ones of those ``asked``; a tie counts half."""

    accuracy: float
    ranked: int
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """``metrics.json`` of an evaluation. The fields of reward and ranker are None without a witness.

    ``nll_start``: nats a token under the frozen start model, None where every reply is empty. ``reward``: mean over the
    reporting half, ``reward_choosing``: over the choosing half (``evaluation.halves``). ``scorer``: the witness.
    ``ranker_by_prompt``: how far the run's own ranker puts the first reply above the start model's
    (``reply_pairs.ranker_gains``), of prompts of the choosing half. ``unfinished``: samples that never left their
    thinking; None: none.
    """

    FORMAT: ClassVar[int] = 1

    replies: int
    mean_words: float
    distinct1: float
    distinct2: float
    kept_of_drawn: float
    unfinished: int | None = None
    nll_start: float | None
    nll_by_prompt: Mapping[str, float]
    scorer: str | None = None
    reward: float | None = None
    reward_choosing: float | None = None
    reward_by_prompt: Mapping[str, float] | None = None
    ranker_by_prompt: Mapping[str, float] | None = None
    white_box_accuracy: Accuracy | None
    black_box_accuracy: Accuracy | None
    version: str

    @property
    def rewards(self) -> Mapping[str, float]:
        """Reward by prompt, empty without a scorer."""
        return self.reward_by_prompt or {}
