"""Ranking losses: each one small file, one frozen dataclass that is its own config section.

``EmbeddingMatch`` and ``QuantiDCEKD`` compare vectors and take their own bundles.
"""

from cyclealign.losses.base import LossOutput, Needs, RankedScores, RankingLoss
from cyclealign.losses.catalogue import AnyLoss, AnyPolicyLoss, feeds, losses_fed_by, unfed
from cyclealign.losses.cprd import CPRD
from cyclealign.losses.dpo import DPO
from cyclealign.losses.embedding_match import EmbeddingMatch, EmbeddingPairs
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
from cyclealign.losses.quantidce_kd import ModelStates, QuantiDCEKD
from cyclealign.losses.ranknet import RankNet
from cyclealign.losses.rrhf import RRHF
from cyclealign.losses.simpo import SimPO
from cyclealign.losses.sppo import SPPO
from cyclealign.losses.tiers import tier_levels

__all__ = [
    "CPRD",
    "DPO",
    "KL",
    "NDCG2",
    "PLD",
    "PRO",
    "RRHF",
    "SPPO",
    "AnyLoss",
    "AnyPolicyLoss",
    "EmbeddingMatch",
    "EmbeddingPairs",
    "LambdaRank",
    "ListMLE",
    "ListNet",
    "LossOutput",
    "MarginMSE",
    "ModelStates",
    "MultiLevelRanking",
    "Needs",
    "PointwiseMSE",
    "PythonLoss",
    "QuantiDCEKD",
    "RankNet",
    "RankedScores",
    "RankingLoss",
    "SimPO",
    "feeds",
    "losses_fed_by",
    "tier_levels",
    "unfed",
]
