"""Ranking losses: each one small file, one frozen dataclass that is its own config section."""

from cyclealign.losses.base import LossOutput, RankedScores, RankingLoss
from cyclealign.losses.dpo import DPO
from cyclealign.losses.listmle import ListMLE
from cyclealign.losses.multi_level_ranking import MultiLevelRanking
from cyclealign.losses.pld import PLD
from cyclealign.losses.pro import PRO
from cyclealign.losses.rrhf import RRHF
from cyclealign.losses.simpo import SimPO

__all__ = [
    "DPO",
    "PLD",
    "PRO",
    "RRHF",
    "ListMLE",
    "LossOutput",
    "MultiLevelRanking",
    "RankedScores",
    "RankingLoss",
    "SimPO",
]
