"""What ``test_ddp.py`` launches: for each case two interactions of a tiny policy, their logs and scores as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tiny_policy import examples, tiny_config
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from cyclealign.models.processes import leave_process_group, process_state
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.types import Candidate, CandidateSet, Prompt, RankContext, Ranking


class Held(TrainerCallback):
    """The share of a model's weights that this process holds at each step."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        parameters = list(model.parameters())
        whole = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)  # DeepSpeed's own count
        held = sum((p.to_local() if isinstance(p, DTensor) else getattr(p, "ds_tensor", p)).numel() for p in parameters)
        self.shares.append(held / whole)


def main(model: Path, out: Path, cases: str) -> None:
    for name, settings in json.loads(cases).items():
        two_interactions(model, out / name, settings)


def two_interactions(model: Path, out: Path, settings: dict[str, Any]) -> None:
    config = tiny_config(model, **settings)
    held = Held()
    white_box = WhiteBox(config, base=str(model), total_steps=6, seed=5, callbacks=[held])
    # 7 lists do not divide into batches of 4: the last one is filled up.
    first = white_box.fit(examples(7), start=None, out=out / "0")
    sets = [
        CandidateSet(Prompt(e.messages), tuple(Candidate(str(i), t) for i, t in enumerate(e.responses)))
        for e in examples(5)
    ]
    context = RankContext(run="r", interaction=1, seed=0, demonstrations=None)  # type: ignore[arg-type]
    ranked = [r for r in white_box.rank(sets, context) if isinstance(r, Ranking)]
    second = white_box.fit(examples(4), start=out / "0", out=out / "1")
    nll = white_box.nll([(s.prompt, s.candidates[0]) for s in sets], start_model=True)
    result = {
        "steps": second.global_step,
        "logs": [dict(row) for row in first.logs + second.logs],
        "scores": [dict(r.scores or {}) for r in ranked],
        "nll": nll,
        "held": held.shares,
    }
    (out / f"result-{process_state().process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    leave_process_group()
