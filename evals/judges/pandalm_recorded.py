"""PandaLM's human-annotated test set: agreement of its two recorded judges with the annotators, against the published.

    python evals/judges/pandalm_recorded.py --data testset.jsonl.gz --out evals/results/pandalm_recorded.json

As its authors count: the label is the majority of three annotators (the first vote where all three differ), an
unparsable verdict counts as a tie. ``published``: their figures over all 999 pairs, in the comments of
``data/compute_metrics.py`` and the README of github.com/WeOpenML/PandaLM.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from cyclealign.evaluation.recorded import class_agreement, cohen_kappa
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.evaluation.statistics import Figures, share
from cyclealign.files.foreign_json import json_rows

WHOLE = 999
JUDGES = ("gpt35", "pandalm7b")
PUBLISHED: dict[str, dict[str, float]] = {
    "gpt35": {"accuracy": 0.7107, "macro_precision": 0.5879, "macro_recall": 0.5736, "macro_f1": 0.5755},
    "pandalm7b": {"accuracy": 0.6677, "macro_precision": 0.5738, "macro_recall": 0.5750, "macro_f1": 0.5743},
}
PUBLISHED_KAPPAS = {"1-2": 0.85, "1-3": 0.88, "2-3": 0.86}
VERDICTS = {"tie": 0, "garbage": 0, "0": 0, "1": 1, "2": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [row for _, row in json_rows(arguments.data)]
    gold: list[int] = [Counter(row["annotators"]).most_common(1)[0][0] for row in rows]
    metrics: dict[str, Any] = {judge: judge_figures(rows, gold, judge) for judge in JUDGES}
    metrics["annotators"] = annotators(rows)
    metrics["labels"] = {str(label): gold.count(label) for label in (0, 1, 2)}
    question = "agreement of PandaLM's recorded judges with its three human annotators"
    about: Figures = {"question": question, "pairs": len(rows)}
    result = make_result("pandalm_recorded", about=about, seed=0, metrics=metrics, items=[], primary="accuracy")
    write_result(arguments.out, result)
    for judge in JUDGES:
        ours, theirs = metrics[judge]["accuracy"], PUBLISHED[judge]["accuracy"]
        print(f"{judge}: {ours.value:.4f} ({ours.low:.4f} to {ours.high:.4f}); published {theirs}")


def verdict(recorded_verdict: Any) -> int:
    return VERDICTS[str(recorded_verdict).lower()]


def judge_figures(rows: list[dict[str, Any]], gold: list[int], judge: str) -> dict[str, Any]:
    """Agreement with the majority and with each annotator; and how far it is from the published figure, and why."""
    said = [verdict(row[judge]) for row in rows]
    figures = class_agreement(gold, said)
    correct = figures["correct"]
    assert isinstance(correct, int)
    decided = [(g, s) for g, s in zip(gold, said, strict=True) if g and s]
    figures["accuracy_where_both_decide"] = share(sum(g == s for g, s in decided), len(decided))
    figures["unparsable"] = sum(str(row[judge]) == "garbage" for row in rows)
    figures["says_first"] = share(said.count(1), said.count(1) + said.count(2))
    figures["labels_say_first"] = share(gold.count(1), gold.count(1) + gold.count(2))
    for n in range(3):
        figures[f"kappa_annotator_{n + 1}"] = cohen_kappa([row["annotators"][n] for row in rows], said)
    return figures | {"published": PUBLISHED[judge], **rest_of_the_set(correct, len(rows), judge)}


def rest_of_the_set(correct: int, n: int, judge: str) -> dict[str, Any]:
    """What the published accuracy of the whole set leaves for the pairs missing here, and whether that is chance.

    ``z``: our count against what ``n`` pairs drawn from the whole set give (hypergeometric); None for the whole set.
    """
    right = round(PUBLISHED[judge]["accuracy"] * WHOLE)
    missing = WHOLE - n
    if missing <= 0:
        return {"difference_in_count": correct - right, "z": None}
    share_right = right / WHOLE
    deviation = math.sqrt(n * share_right * (1 - share_right) * missing / (WHOLE - 1))
    return {
        "missing_pairs": missing,
        "accuracy_of_missing_by_difference": (right - correct) / missing,
        "possible": 0 <= right - correct <= missing,
        "z": (correct - n * share_right) / deviation,
    }


def annotators(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Cohen's kappa of each two annotators, with the published one."""
    votes = [[row["annotators"][n] for row in rows] for n in range(3)]
    kappas = {f"{a + 1}-{b + 1}": cohen_kappa(votes[a], votes[b]) for a, b in combinations(range(3), 2)}
    no_majority = sum(len(set(row["annotators"])) == 3 for row in rows)
    return {"kappa": kappas, "published_kappa": PUBLISHED_KAPPAS, "no_majority": no_majority}


if __name__ == "__main__":
    main()
