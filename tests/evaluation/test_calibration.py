"""A win rate corrected for its judge's errors: by hand, by simulation, through the commands, and what is refused."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, prefers, same_slot

from cyclealign.cli.main import main
from cyclealign.evaluation.calibration import Calibration, corrected

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]


def shares(right: int, of: int) -> tuple[float, ...]:
    return (1.0,) * right + (0.0,) * (of - right)


def known(q1: tuple[int, int], q0: tuple[int, int]) -> Calibration:
    return Calibration(a_better=shares(*q1), b_better=shares(*q0), shared=False)


def test_the_formula_by_hand() -> None:
    """theta = (0.6 + 0.8 - 1) / (0.8 + 0.9 - 1); the interval by the paper's terms, written out."""
    found = corrected(shares(60, 100), known((90, 100), (40, 50)))
    assert found is not None
    assert found.value == pytest.approx(0.4 / 0.7)
    z = 1.959963984540054
    n, m0, m1 = 100 + z * z, 52, 102
    p, q0, q1 = (60 + z * z / 2) / n, 41 / m0, 91 / m1
    theta = (p + q0 - 1) / (q0 + q1 - 1)
    v0, v1 = q0 * (1 - q0) / m0, q1 * (1 - q1) / m1
    moved = 2 * z * z * (theta * v1 - (1 - theta) * v0)
    half = z * math.sqrt(p * (1 - p) / n + (1 - theta) ** 2 * v0 + theta**2 * v1) / (q0 + q1 - 1)
    assert (found.low, found.high) == (pytest.approx(theta + moved - half), pytest.approx(theta + moved + half))
    assert found.n == 100


def test_a_perfect_judge_leaves_the_share_as_it_is_and_none_judged_is_none() -> None:
    perfect = known((500, 500), (500, 500))
    found = corrected(shares(30, 40), perfect)
    assert found is not None
    assert found.value == 0.75
    assert corrected((), perfect) is None


@given(
    values=st.lists(st.sampled_from((0.0, 0.5, 1.0)), min_size=1, max_size=60),
    right=st.lists(st.sampled_from((0.0, 0.5, 1.0)), min_size=1, max_size=40),
    shared=st.booleans(),
)
def test_the_interval_holds_the_estimate_and_swapping_the_sides_mirrors_it(
    values: list[float], right: list[float], shared: bool
) -> None:
    a, b = (*right, 1.0), (*right[1:], 1.0, 1.0)
    errors = Calibration(a_better=a, b_better=a if shared else b, shared=shared)
    if errors.power < 1.3:
        return
    found = corrected(values, errors)
    mirrored = corrected(
        [1 - v for v in values], Calibration(a_better=errors.b_better, b_better=errors.a_better, shared=shared)
    )
    assert found is not None
    assert mirrored is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert mirrored.low is not None
    assert mirrored.value == pytest.approx(1 - found.value, abs=1e-12)
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-9)


@pytest.mark.parametrize("design", ["by side", "of any pairs, both orders"])
def test_intervals_hold_the_truth(monkeypatch: pytest.MonkeyPatch, design: str) -> None:
    """The script's own simulation, shorter: 400 judges; a coverage of 95% lies in 92 to 98% of them but once in 600."""
    monkeypatch.syspath_prepend(ROOT / "evals" / "judges")
    script = importlib.import_module("corrected_win_rate")
    found = script.row(design, 400, script.PAIRS, script.LABELS)
    assert 0.92 <= found["corrected"]["interval holds theta"]["value"] <= 0.98
    assert abs(found["corrected"]["mean error"]) < 0.01
    assert found["raw"]["interval holds theta"]["value"] < 0.75


def test_the_result_of_the_script_is_what_the_page_says() -> None:
    found = json.loads((ROOT / "evals/results/corrected_win_rate.json").read_text())
    page = (ROOT / "docs/evals.md").read_text(encoding="utf-8")
    assert found["judges"] == 1000
    for row in found["rows"]:
        held, raw = (row[k]["interval holds theta"]["value"] for k in ("corrected", "raw"))
        if (row["pairs"], row["labels a class"]) == (300, 150):
            assert 0.93 <= held <= 0.97
        width = row["corrected"]["mean width"]
        cells = (row["labels"], row["pairs"], row["labels a class"], f"{held:.1%}", f"{width:.2f}", f"{raw:.1%}")
        assert f"| {' | '.join(map(str, cells))} |" in page


# The commands ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def labelled(n: int, right: int, ids: bool = False) -> str:
    """Pairs of which a judge of length gets ``right`` of ``n`` right."""
    rows: list[dict[str, Any]] = []
    for k in range(n):
        good, bad = ("long good reply", "bad") if k < right else ("good", "long bad reply")
        pair = [{"text": f"{good} {k}", "grade": 1}, {"text": f"{bad} {k}", "grade": 0}]
        names = ("a", "b") if k % 2 else ("b", "a")
        rows.append(
            {"prompt": f"q{k}", "candidates": [{"id": name, **c} for name, c in zip(names, pair, strict=True)]}
            if ids
            else {"prompt": f"q{k}", "chosen": pair[0]["text"], "rejected": pair[1]["text"]}
        )
    Path("labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return "labels.jsonl"


def responses() -> list[str]:
    for name, texts in (("a", ["a longer reply"] * 7 + ["x"] * 3), ("b", ["short"] * 10)):
        rows = [{"prompt": f"question {n}", "response": text} for n, text in enumerate(texts)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return ["eval", "winrate", "a.jsonl", "b.jsonl"]


def openai(server: Loopback, *more: str) -> list[str]:
    return ["--ranker", "openai:judge", f"base_url={server.url}", *more]


def test_a_win_rate_is_corrected_by_the_judges_own_result() -> None:
    with Loopback(judge=prefers(len)) as server:
        assert main(["eval", "ranker", labelled(20, 17), *openai(server)]) == 0
        asked = len(server.requests)
        words = [*responses(), *openai(server, "price.input=1", "price.output=1"), "--calibration", "eval_ranker.json"]
        assert main([*words, "--dry-run"]) == 0
        assert len(server.requests) == asked
        assert main(words) == 0
    result = json.loads(Path("eval_winrate.json").read_text())
    metrics = result["metrics"]
    assert metrics["win_rate"]["value"] == 0.7
    assert metrics["corrected_win_rate"]["value"] == pytest.approx((0.7 + 0.85 - 1) / 0.7)
    assert metrics["calibration"]["q1"] == metrics["calibration"]["q0"]
    assert (metrics["calibration"]["q0"]["value"], metrics["calibration"]["labels"]) == (0.85, 20)
    assert (metrics["calibration"]["by_side"], result["about"]["calibration"]) == (False, "eval_ranker.json")
    assert "corrected" in Path("eval_winrate.html").read_text()


def test_labels_of_the_same_two_sides_count_for_their_side() -> None:
    assert main(["eval", "ranker", labelled(40, 33, ids=True), "--ranker", "python:longest.py:judge"]) == 2
    Path("longest.py").write_text("def judge(messages, replies):\n    return [len(r) for r in replies]\n")
    assert main(["eval", "ranker", "labels.jsonl", "--ranker", "python:longest.py:judge"]) == 0
    words = [*responses(), "--ranker", "python:longest.py:judge", "--calibration", "eval_ranker.json"]
    assert main(words) == 0
    metrics = json.loads(Path("eval_winrate.json").read_text())["metrics"]
    q1, q0 = (metrics["calibration"][q]["value"] for q in ("q1", "q0"))
    assert (q1, q0, metrics["calibration"]["by_side"]) == (16 / 20, 17 / 20, True)
    assert metrics["corrected_win_rate"]["value"] == pytest.approx((0.7 + q0 - 1) / (q0 + q1 - 1))
    Path("longest.py").write_text("def judge(messages, replies):\n    return [-len(r) for r in replies]\n")
    assert main(words) == 2  # the same name, other code


def test_what_cannot_correct_is_refused_before_a_call(capsys: Captured) -> None:
    with Loopback(judge=prefers(len)) as server, Loopback(judge=same_slot) as slot:
        assert main(["eval", "ranker", labelled(20, 17), *openai(server), "--out", "good.json"]) == 0
        assert main(["eval", "ranker", labelled(20, 12), *openai(server), "--out", "bad.json"]) == 0
        assert main(["eval", "ranker", labelled(20, 17), *openai(slot), "--out", "slot.json"]) == 0
        assert main(["eval", "ranker", labelled(20, 17), *openai(server, "passes=1"), "--out", "once.json"]) == 0
        assert main([*responses(), *openai(server), "--out", "winrate.json"]) == 0
        Path("none.json").write_text("{}")
        asked = len(server.requests), len(slot.requests)
        capsys.readouterr()
        for file, judge, said in (
            ("good.json", openai(slot), "is of another judge (openai:judge base_url="),
            ("good.json", ["--ranker", "local"], "is of another judge"),
            ("good.json", openai(server, "reasoning=low"), "is of another judge"),
            ("bad.json", openai(server), "right on 60.0% of the pairs (whose b is better: 60.0%); below 1.3"),
            ("slot.json", openai(slot), "right on 50.0% of the pairs"),
            ("once.json", openai(server), "is of another judge"),
            ("once.json", openai(server, "passes=1"), "were shown in one order only"),
            ("winrate.json", openai(server), "expected a result of cyclealign eval ranker, got one of winrate"),
            ("none.json", openai(server), "expected a result of cyclealign eval"),
            ("missing.json", openai(server), "cannot be read"),
        ):
            assert main([*responses(), *judge, "--calibration", file]) == 2, file
            assert said in capsys.readouterr().err, file
        assert (len(server.requests), len(slot.requests)) == asked


def test_labels_too_few_to_know_that_a_judge_is_any_good_are_refused(capsys: Captured) -> None:
    """One of one, and three of ten, are 1.3 in all; with the interval's made-up outcomes they are 1, as of a coin."""
    Path("longest.py").write_text("def judge(messages, replies):\n    return [len(r) for r in replies]\n")
    rows = [sided(n, right) for n, right in enumerate([True, True] + [False] * 7 + [True] * 2)]
    rows[0]["candidates"][0]["grade"], rows[0]["candidates"][1]["grade"] = 1, 0
    Path("few.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["eval", "ranker", "few.jsonl", "--ranker", "python:longest.py:judge"]) == 0
    words = [*responses(), "--ranker", "python:longest.py:judge", "--calibration", "eval_ranker.json"]
    capsys.readouterr()
    assert main(words) == 2
    assert "1 labels (whose b is better: 10) are too few to know" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["NaN", "1e400", '"x"', "[]"])
def test_a_result_whose_values_are_no_numbers_is_refused(value: str, capsys: Captured) -> None:
    Path("longest.py").write_text("def judge(messages, replies):\n    return [len(r) for r in replies]\n")
    assert main(["eval", "ranker", labelled(20, 17), "--ranker", "python:longest.py:judge"]) == 0
    found = json.loads(Path("eval_ranker.json").read_text())
    found["items"][3]["value"] = "odd"
    Path("odd.json").write_text(json.dumps(found).replace('"odd"', value))
    capsys.readouterr()
    assert main([*responses(), "--ranker", "python:longest.py:judge", "--calibration", "odd.json"]) == 2
    assert "expected finite numbers" in capsys.readouterr().err


def sided(n: int, right: bool) -> dict[str, Any]:
    """A list of sides a and b, of which b is better, and longer where a judge by length is right; the first of a."""
    texts = ("a longer reply", "short") if n == 0 or not right else ("short", "a longer reply")
    sides = zip("ab", texts, (0, 1), strict=True)
    return {"prompt": f"question {n}", "candidates": [{"id": i, "text": t, "grade": g} for i, t, g in sides]}


def test_more_concurrency_or_another_price_is_no_other_judge() -> None:
    with Loopback(judge=prefers(len)) as server:
        assert main(["eval", "ranker", labelled(4, 4), *openai(server)]) == 0
        free = ("max_concurrency=3", "price={input: 1, output: 2}", "attempts=2")
        assert main([*responses(), *openai(server, *free), "--calibration", "eval_ranker.json"]) == 0
