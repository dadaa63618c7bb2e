"""The planted judge of evals/policies/loop.py is as right as it is said to be, and demonstrations are worth what they
are said to be worth."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asking import CONTEXT, asking
from loopback import Loopback

from cyclealign.types import Candidate, CandidateSet, Demonstration, Prompt, RankContext, Ranking

ROOT = Path(__file__).resolve().parents[2]
LISTS = 400
QUESTIONS = [
    Prompt(({"role": "user", "content": f"Question {n}: why does the river bend?"},)) for n in range(LISTS + 8)
]
GOOD = "The river bends because slow water drops sand on one side."
POOR = "The river bends because slow water drops sand on one side. It does. So it is."
NONE = "I know"


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "evals" / "policies")
    return importlib.import_module("loop")


@dataclass(frozen=True)
class Given:
    demonstrations: Sequence[Demonstration]

    def select(self, prompt: Prompt) -> Sequence[Demonstration]:
        return self.demonstrations


def of_the_run(order: tuple[int, ...]) -> list[Demonstration]:
    return [Demonstration(prompt, (GOOD, POOR, NONE), order, source="0") for prompt in QUESTIONS[LISTS:]]


def share_right(verdicts: Sequence[Any]) -> float:
    """Of pairs of a list, by the taste; every verdict is a ranking."""
    found = []
    for verdict in verdicts:
        assert isinstance(verdict, Ranking)
        places = {i: n for n, i in enumerate(verdict.order)}
        found += [places[a] < places[b] for a, b in itertools.combinations(("0", "1", "2"), 2)]
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("demonstrations", "right", "accuracy"),
    [
        ([], 0, 0.7),
        (of_the_run((0, 1, 2)), 8, 0.8),
        (of_the_run((2, 1, 0)), 0, 0.7),
        ([Demonstration(Prompt(({"role": "user", "content": "Static?"},)), (GOOD, NONE), (0, 1))], 0, 0.7),
    ],
    ids=["none", "right", "wrong", "static"],
)
def test_a_planted_judge_is_as_right_as_stated(
    tmp_path: Path, loop: Any, demonstrations: list[Demonstration], right: int, accuracy: float
) -> None:
    sets = [
        CandidateSet(p, tuple(Candidate(str(n), text) for n, text in enumerate((GOOD, POOR, NONE))))
        for p in QUESTIONS[:LISTS]
    ]
    judge = loop.Planted(QUESTIONS, 0.7, 0.1, seed=1)
    context = RankContext(run="t", interaction=1, seed=2, demonstrations=Given(demonstrations))
    with Loopback(judge=judge) as server, asking(tmp_path / "l.sqlite", server, passes=1, max_concurrency=8) as ranker:
        verdicts = list(ranker.rank(sets, context if demonstrations else CONTEXT))
    assert {judge.right_ones(body) for body in server.requests[-LISTS:]} == {right}
    assert share_right(verdicts) == pytest.approx(accuracy, abs=0.07)  # three standard errors of 400 lists


def test_each_judge_of_a_worth_has_its_own_arms_and_shares_the_others(loop: Any) -> None:
    found = loop.cases([0.7, 0.9], [0.0, 0.1], 2)
    assert len(found) == len({case.name for case in found}) == 2 * 2 * (4 + 2)
    assert [case.seed for case in found] == sorted(case.seed for case in found)


def test_claims_take_the_seeds_of_which_every_arm_is_measured(loop: Any) -> None:
    def run(gain: float) -> dict[str, list[float]]:
        return {"gain": [gain, gain + 1]}

    found = {case.name: run(case.seed + 0.5 * (case.arm == "cycle")) for case in loop.cases([0.8], [0.0, 0.1], 2)}
    del found["judge's order, 0.8, 0.1, 1"]
    none, some = loop.claims(found, [0.8], [0.0, 0.1], 2)
    assert (none["seeds"], some["seeds"]) == (2, 1)
    assert none["gain"] == {"cycle": 1.5, "one pass": 1.0, "no demonstrations": 1.0, "judge's order": 1.0}
    assert some["gain"]["cycle"] == 1.0
    assert {(row["value"], row["seeds"]) for row in some["claims"]} == {(0.5, 1)}
    assert loop.claims({}, [0.8], [0.0], 2) == []
