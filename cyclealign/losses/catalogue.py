"""All ranking losses, and which of them a teacher can feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from cyclealign.losses.base import Needs, RankingLoss
from cyclealign.losses.cprd import CPRD
from cyclealign.losses.dpo import DPO
from cyclealign.losses.kl import KL
from cyclealign.losses.lambdarank import LambdaRank
from cyclealign.losses.listmle import ListMLE
from cyclealign.losses.listnet import ListNet
from cyclealign.losses.margin_mse import MarginMSE
from cyclealign.losses.multi_level_ranking import MultiLevelRanking
from cyclealign.losses.ndcg2 import NDCG2
from cyclealign.losses.pld import PLD
from cyclealign.losses.pointwise_mse import PointwiseMSE
from cyclealign.losses.pro import PRO
from cyclealign.losses.python_loss import PythonLoss
from cyclealign.losses.ranknet import RankNet
from cyclealign.losses.rrhf import RRHF
from cyclealign.losses.simpo import SimPO
from cyclealign.losses.sppo import SPPO

AnyLoss = (
    RRHF
    | PRO
    | ListMLE
    | PLD
    | SimPO
    | DPO
    | MarginMSE
    | CPRD
    | NDCG2
    | MultiLevelRanking
    | RankNet
    | LambdaRank
    | ListNet
    | KL
    | PointwiseMSE
    | SPPO
)
AnyPolicyLoss = AnyLoss | PythonLoss  # one of the user's own is for policies


def feeds(gives: Needs, needs: Needs) -> bool:
    """Whether a teacher that gives this can feed a loss that needs that.

    Levels are tiers of equal quality: an order has them (of one candidate each, where it ties nothing), and they
    are an order. Neither says by how much. Votes, of two passes or more, do, and can be had from no score.
    """
    if needs == "votes":
        return gives == "votes"
    return gives in ("magnitude", "votes") or needs != "magnitude"


def unfed(loss: RankingLoss, gives: Needs, teacher: str, instead: Sequence[str] = ()) -> str:
    """The line about a loss that a teacher cannot feed, with the losses that it can; ``instead``: other remedies."""
    given = {"order": "an order alone", "levels": "levels alone", "magnitude": "scores without votes"}.get(gives, gives)
    needed = "votes of two passes or more" if loss.needs == "votes" else "magnitudes"
    ways = [*instead, *(["loss.gap_temperature=false (pro)"] if loss.needs == "magnitude" else [])]
    use = (f"{', '.join(ways)}, or " if ways else "") + ", ".join(losses_fed_by(gives))
    return f"loss.name: {loss.name} needs {needed}, but {teacher} gives {given}; use {use}"


def losses_fed_by(gives: Needs) -> tuple[str, ...]:
    """Names of the losses that such a teacher can feed, under their default settings."""
    classes: tuple[type[RankingLoss], ...] = get_args(AnyLoss)
    losses = [cls() for cls in classes]  # type: ignore[call-arg]
    return tuple(loss.name for loss in losses if feeds(gives, loss.needs))
