"""The report's figures by value: intervals against brute force, the headline against the records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_page import Node, page
from report_run import REWARDS, hand_made_run

from cyclealign.evaluation.intervals import wilson
from cyclealign.evaluation.replies import reply_statistics
from cyclealign.evaluation.statistics import paired_difference
from cyclealign.evaluation.words import words
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.records import write_record
from cyclealign.files.run_records import read_sets, verdict_record
from cyclealign.reporting.figures import jackknife, mean_interval, newcombe
from cyclealign.reporting.headline import headline
from cyclealign.types import CandidateSet, Ranking


def ends(before: Sequence[float], after: Sequence[float]) -> tuple[float, float] | None:
    found = paired_difference(before, after)
    assert found is not None
    return found.interval


def test_wilson_against_known_values() -> None:
    # Newcombe 1998, table I: 81/263, 15/148 and 0/20 by method 3, without continuity correction.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_newcombe_against_known_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 873-890), table II, method 10.
    assert newcombe(48 / 80, 80, 56 / 70, 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(3 / 10, 10, 9 / 10, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert newcombe(0.0, 10, 1.0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])
    without = [float(np.delete(values, n).mean()) for n in range(4)]
    assert jackknife(3.0, without) == pytest.approx(mean_interval(list(values))[1])
    assert jackknife(3.0, [2.0]) is None


def test_intervals_of_drift_are_over_prompts(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    ids = [p.id for p in run.eval_prompts()]
    nll = {0: dict.fromkeys(ids, 2.0), 2: {i: 2.0 + 0.01 * n for n, i in enumerate(ids)}}
    for n, own in nll.items():
        write_record(run.evaluation(n) / "metrics.json", replace(run.evaluations()[n], nll_by_prompt=own))
    rows = headline(run).rows
    assert (rows[1].low, rows[1].high) == ends(list(nll[0].values()), list(nll[2].values()))
    replies = [read_sets(run.evaluation(n) / "candidates.jsonl") for n in (0, 2)]
    lengths = [[np.mean([len(words(c.text)) for c in s[i].candidates]) for i in ids] for s in replies]
    assert (rows[3].low, rows[3].high) == pytest.approx(ends(*lengths), abs=1e-12)

    def distinct2(sets: dict[str, CandidateSet], left_out: str) -> float:
        texts = [c.text for i, s in sets.items() if i != left_out for c in s.candidates]
        return reply_statistics(texts).distinct2

    whole = distinct2(replies[1], "") - distinct2(replies[0], "")
    without = [distinct2(replies[1], i) - distinct2(replies[0], i) for i in ids]
    assert (rows[2].low, rows[2].high) == pytest.approx(jackknife(whole, without), abs=1e-12)


def test_accuracies_are_paired_where_the_verdicts_are_on_record(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    rows = headline(run).rows
    assert (rows[4].low, rows[4].high) == newcombe(0.5, 64, 0.6, 64)
    assert (rows[5].low, rows[5].high) == newcombe(0.75, 60, 0.75, 60)
    right = {0: [1, 0, 0.5, 0] * 10, 2: [1, 1, 0.5, 0] * 10}
    orders = {1: (("chosen",), ("rejected",)), 0: (("rejected",), ("chosen",)), 0.5: (("chosen", "rejected"),)}
    for n, values in right.items():
        verdicts = [Ranking(prompt_id=str(i), tiers=orders[v]) for i, v in enumerate(values)]
        write_jsonl(run.evaluation(n) / "black_box.jsonl", map(verdict_record, verdicts))
    black = headline(run).rows[5]
    assert (black.low, black.high) == ends(right[0], right[2])


def test_mean_interval() -> None:
    mean, interval = mean_interval([1.0, 2.0, 3.0, 6.0])
    half = 1.959963984540054 * math.sqrt(14 / 3) / 2
    assert mean == 3.0
    assert interval == pytest.approx((3.0 - half, 3.0 + half))
    assert mean_interval([2.0]) == (2.0, None)


def test_headline_by_value(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    metrics, figures = run.evaluations(), headline(run)
    odd = [p.id for n, p in enumerate(run.eval_prompts()) if n % 2 == 1]
    before, after = ([metrics[n].rewards[i] for i in odd] for n in (0, 2))
    gain = np.subtract(after, before)
    half = 2.093024054408263 * gain.std(ddof=1) / math.sqrt(20)  # Student's t of 19
    reward, nll, distinct2, words, white, black = figures.rows
    assert reward.start == pytest.approx(metrics[0].reward, abs=1e-12)
    assert reward.kept == pytest.approx(metrics[2].reward, abs=1e-12)
    assert reward.change == pytest.approx(gain.mean(), abs=1e-12)
    assert (reward.low, reward.high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=1e-12)
    assert reward.low < REWARDS[2] - REWARDS[0] < reward.high
    assert nll.text == ("2.000", "2.100", "+0.100 (+5.0%)", "")
    assert distinct2.text[:3] == ("0.800", "0.780", "-0.020 (-2.5%)")
    assert words.text[:3] == ("12.0", "14.0", "+2.0 (+16.7%)")
    assert white.text[:3] == ("0.500", "0.600", "+0.100")
    assert black.text[:3] == ("0.750", "0.750", "+0.000")
    assert figures.kept_text == "the model after 2 of 3 interactions; highest reward on the choosing half"
    assert (figures.status, figures.label, figures.prompts) == ("finished", "kept", 20)
    assert figures.spend.startswith("0.0300 USD, 31 calls (0 failed), 15,000 tokens in, 240 out; 1 without a reply")


def test_the_page_shows_the_headline_as_the_terminal_does(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    header = page(run).all("header")[0]
    rows = [[cell.text for cell in row.children if isinstance(cell, Node)] for row in header.all("tr")]
    assert rows[0] == ["measure", "start", "kept", "change", "95% interval"]
    assert rows[1:] == [[row.measure, *row.text] for row in headline(run).rows]


def test_a_prompt_without_a_reply_at_one_end_is_left_out_of_the_pairs(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    gone = run.eval_prompts()[1].id
    metrics = run.evaluations()[2]
    left = {i: reward for i, reward in metrics.rewards.items() if i != gone}
    write_record(run.evaluation(2) / "metrics.json", replace(metrics, reward_by_prompt=left))
    odd = [p.id for n, p in enumerate(run.eval_prompts()) if n % 2 == 1 and p.id != gone]
    figures, start = headline(run), run.evaluations()[0].rewards
    assert figures.prompts == len(odd) == 19
    assert figures.rows[0].start == pytest.approx(np.mean([start[i] for i in odd]), abs=1e-12)


def test_without_a_scorer_there_is_drift_but_no_reward(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    for n, metrics in run.evaluations().items():
        kept = replace(metrics, scorer=None, reward=None, reward_choosing=None, reward_by_prompt=None)
        kept = replace(kept, white_box_accuracy=None, black_box_accuracy=None)
        write_record(run.evaluation(n) / "metrics.json", kept)
    root = page(run)
    assert [row.measure.split(",")[0] for row in headline(run).rows] == [
        "NLL under the start model",
        "distinct-2",
        "length",
    ]
    keys = [node.attributes["id"] for node in root.all("figure")]
    assert "reward" not in keys
    assert "accuracy" not in keys
    assert "drift-nll-start" in keys
