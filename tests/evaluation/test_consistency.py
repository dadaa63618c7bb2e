"""The figure that says whether a judge reads: values, edges, words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import t

from cyclealign.evaluation.consistency import consistency, consistency_text, recorded_consistency, reversal_tau
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.run_records import verdict_record
from cyclealign.rankers.consensus import aggregate
from cyclealign.types import Ranking, Unranked


def shown_twice(first: str, reverse: str, prompt_id: str = "p") -> Ranking:
    return replace(aggregate(prompt_id, [first]), reverse=tuple(reverse))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (shown_twice("abcd", "abcd"), 1.0),
        (shown_twice("abcd", "dcba"), -1.0),
        (shown_twice("abcd", "abdc"), 2 / 3),
        (shown_twice("ab", "ba"), -1.0),
        (aggregate("p", ["abc"]), None),
        (Unranked("p", "refusal"), None),
    ],
)
def test_tau_of_an_order_and_its_reverse(verdict: Ranking | Unranked, expected: float | None) -> None:
    assert reversal_tau(verdict) == (None if expected is None else pytest.approx(expected))


def test_the_interval_is_students_and_a_point_where_all_are_alike() -> None:
    taus = [1.0, 0.0, 1 / 3, -1 / 3, 2 / 3]
    mean, deviation = 1 / 3, (sum((x - 1 / 3) ** 2 for x in taus) / 4) ** 0.5
    half = t.ppf(0.975, 4) * deviation / 5**0.5
    found = consistency(taus)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert consistency([]) is None
    by_slot = consistency([-1.0] * 32)
    assert by_slot is not None
    assert (by_slot.value, by_slot.interval, by_slot.n) == (-1.0, (-1.0, -1.0), 32)
    alone = consistency([0.3])
    assert alone is not None
    assert alone.interval is None


@pytest.mark.parametrize(
    ("taus", "words"),
    [
        ([-1.0] * 32, "tau -1.00 (95% -1.00 to -1.00) between 32 orders and their reverses: it answers by the slot"),
        ([1.0, -1.0] * 16, "not told from a coin"),
        ([1.0] * 31 + [0.0], "it reads what it ranks"),
        ([1.0, -1 / 3] * 16, "it reads, but often contradicts itself"),
        ([0.3], "tau +0.30 between 1 orders and their reverses: too few lists to tell"),
    ],
)
def test_words(taus: list[float], words: str) -> None:
    found = consistency(taus)
    assert found is not None
    assert words in consistency_text(found)


def test_what_is_on_record_is_found_again(tmp_path: Path) -> None:
    verdicts = [shown_twice("abc", "abc", "1"), aggregate("2", ["abc"]), Unranked("3", "error", '"reverse"')]
    write_jsonl(tmp_path / "0.jsonl", [verdict_record(v) for v in verdicts])
    write_jsonl(tmp_path / "1.jsonl", [verdict_record(shown_twice("abc", "cba", "4"))])
    found = recorded_consistency([tmp_path / "0.jsonl", tmp_path / "1.jsonl", tmp_path / "none.jsonl"])
    assert found is not None
    assert (found.value, found.n) == (0.0, 2)
