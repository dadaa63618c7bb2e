"""Align your own language model with the judgement of one that you can only call."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and their modules, imported at first use: `cyclealign --help` must not wait for torch.
_PUBLIC = {
    "BlackBoxRanker": "cyclealign.rankers.black_box",
    "Candidate": "cyclealign.types",
    "CandidateSet": "cyclealign.types",
    "Config": "cyclealign.config.schema",
    "Cycle": "cyclealign.cycle.starting",
    "Demonstration": "cyclealign.types",
    "DemonstrationPool": "cyclealign.judge.demonstrations",
    "Ledger": "cyclealign.judge.ledger",
    "Prompt": "cyclealign.types",
    "Ranking": "cyclealign.types",
    "RankingTrainer": "cyclealign.training.trainer",
    "RewardModelRanker": "cyclealign.rankers.reward_model",
    "RunDir": "cyclealign.files.run_dir",
    "Unranked": "cyclealign.types",
    "UserError": "cyclealign.types",
    "load_config": "cyclealign.config.loading",
}

if TYPE_CHECKING:
    from cyclealign.config.loading import load_config
    from cyclealign.config.schema import Config
    from cyclealign.cycle.starting import Cycle
    from cyclealign.files.run_dir import RunDir
    from cyclealign.judge.demonstrations import DemonstrationPool
    from cyclealign.judge.ledger import Ledger
    from cyclealign.rankers.black_box import BlackBoxRanker
    from cyclealign.rankers.reward_model import RewardModelRanker
    from cyclealign.training.trainer import RankingTrainer
    from cyclealign.types import Candidate, CandidateSet, Demonstration, Prompt, Ranking, Unranked, UserError

__all__ = [
    "BlackBoxRanker",
    "Candidate",
    "CandidateSet",
    "Config",
    "Cycle",
    "Demonstration",
    "DemonstrationPool",
    "Ledger",
    "Prompt",
    "Ranking",
    "RankingTrainer",
    "RewardModelRanker",
    "RunDir",
    "Unranked",
    "UserError",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cyclealign' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
