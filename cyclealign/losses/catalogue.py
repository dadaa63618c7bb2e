"""All ranking losses, and which of them a teacher can feed."""

from __future__ import annotations

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
from cyclealign.losses.ranknet import RankNet
from cyclealign.losses.rrhf import RRHF
from cyclealign.losses.simpo import SimPO

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
)


def feeds(gives: Needs, needs: Needs) -> bool:
    """Whether a teacher that gives this can feed a loss that needs that.

    Levels are tiers of equal quality: an order has them (of one candidate each, where it ties nothing), and they
    are an order. Neither says by how much.
    """
    return gives == "magnitude" or needs != "magnitude"


def losses_fed_by(gives: Needs) -> tuple[str, ...]:
    """Names of the losses that such a teacher can feed, under their default settings."""
    classes: tuple[type[RankingLoss], ...] = get_args(AnyLoss)
    losses = [cls() for cls in classes]  # type: ignore[call-arg]
    return tuple(loss.name for loss in losses if feeds(gives, loss.needs))
