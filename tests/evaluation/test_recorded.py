"""Recorded judgements: figures by hand, and the benchmarks' own counts where the data is here."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cyclealign.evaluation.recorded import TwoOrders, class_agreement, cohen_kappa, two_order_figures

ROOT = Path(__file__).resolve().parents[2]


def test_two_orders_by_hand() -> None:
    pairs = [
        TwoOrders("a", "1", "1", "1"),  # right in both
        TwoOrders("b", "1", "1", "2"),  # always the first slot
        TwoOrders("c", "2", "1", "2"),  # always the first slot
        TwoOrders("d", "2", None, "1"),  # no winner, and wrong
    ]
    figures = two_order_figures(pairs)
    assert (figures["correct_given"], figures["correct_swapped"], figures["correct_both"]) == (2, 2, 1)
    assert figures["accuracy"].value == 0.5
    assert figures["no_winner"].value == 1 / 8
    assert (figures["same_winner"].value, figures["same_winner"].n) == (pytest.approx(1 / 3), 3)
    position = figures["position_bias"]
    assert position["flip_rate"].value == pytest.approx(2 / 3)
    # Presentations a: slots 1 and 2; b and c: slot 1 twice; d: in the swapped order "1" stood second.
    assert position["first_slot_share"].value == pytest.approx(5 / 7)
    assert position["first_slot_flips"].value == 1.0


def test_class_agreement_by_hand() -> None:
    gold, said = [0, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 1]
    figures = class_agreement(gold, said)
    assert figures["correct"] == 4
    assert figures["macro_precision"] == pytest.approx((0 + 2 / 4 + 1) / 3)
    assert figures["macro_recall"] == pytest.approx((0 + 1 + 2 / 3) / 3)
    assert figures["macro_f1"] == pytest.approx((0 + 2 / 3 + 0.8) / 3)
    assert cohen_kappa(gold, said) == pytest.approx((4 / 6 - 14 / 36) / (1 - 14 / 36))
    assert cohen_kappa([1, 1], [1, 1]) == 1.0


def test_whole_cells_must_equal_what_is_published(tmp_path: Path) -> None:
    data, published = tmp_path / "data", tmp_path / "Dataset/LLMBar/Adversarial/GPT^Out/evaluators/GPT-4/Chain_of"
    data.mkdir()
    published.mkdir(parents=True)
    instances = [{"id": f"i{n}", "subset": "Adversarial/GPTOut", "label": 1 + n % 2} for n in range(3)]
    with gzip.open(data / "instances.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(i) + "\n" for i in instances)
    with gzip.open(data / "llm_judgments.tsv.gz", "wt") as file:
        file.write("id\tevaluator\tstrategy\twinner_given_order\twinner_swapped_order\n")
        file.writelines(f"i{n}\tGPT-4\tChain-of\t{a}\t{b}\n" for n, (a, b) in enumerate(("11", "21", ("NA", "1"))))
    counts = {"correct_False": "2 / 3 = 66.7%", "correct_True": "2 / 3 = 66.7%", "correct_both": "1 / 3 = 33.3%"}
    for wrong in (False, True):
        stated = counts | ({"correct_True": "1 / 3 = 33.3%"} if wrong else {})
        (published / "statistics.json").write_text(json.dumps(stated))
        out = tmp_path / "out.json"
        where = ["--data", str(data), "--published", str(tmp_path), "--out", str(out)]
        subprocess.run(
            [sys.executable, "evals/judges/llmbar_recorded.py", *where], cwd=ROOT, check=True, capture_output=True
        )
        found = json.loads(out.read_text())["metrics"]["against_published"]
        equal = 3 - wrong
        assert found == {"counts": 3, "possible": equal, "counts_of_whole_cells": 3, "equal_of_whole_cells": equal}


@pytest.mark.data
def test_llmbar_is_recomputed_and_stands_as_recorded(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "llmbar.json"
    command = [
        sys.executable,
        "evals/judges/llmbar_recorded.py",
        "--data",
        str(shared_data / "llmbar"),
        "--out",
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    now, then = (json.loads(p.read_text()) for p in (out, ROOT / "evals/results/llmbar_recorded.json"))
    assert now["metrics"]["cells"] == 499
    counts = ("n", "correct_given", "correct_swapped", "correct_both")
    assert [[i["values"][c] for c in counts] for i in now["items"]] == [
        [i["values"][c] for c in counts] for i in then["items"]
    ]
    assert now["subsets"] == then["subsets"]
