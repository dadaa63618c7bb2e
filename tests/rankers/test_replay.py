"""Recorded rankings: by prompt and by what the candidates say, and nothing made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from replayed import CONTEXT, PROMPT, SET, write

from cyclealign.rankers.replay import ReplayRanker
from cyclealign.types import (
    Candidate,
    CandidateSet,
    Prompt,
    Ranker,
    Ranking,
    Reason,
    Unranked,
    UserError,
)


def replay(path: Path, *sets: CandidateSet) -> list[Ranking | Unranked]:
    ranker = ReplayRanker(path)
    assert isinstance(ranker, Ranker)
    return list(ranker.rank(iter(sets or (SET,)), CONTEXT))


@pytest.mark.parametrize(
    "line",
    [
        {"prompt_id": PROMPT.id, "order": ["good", "fair", "bad"]},
        {"messages": list(PROMPT.messages), "ranking": ["good", "fair", "bad"]},
        {"prompt_id": PROMPT.id, "tiers": [["good"], ["fair"], ["bad"]]},
        {"prompt_id": PROMPT.id, "order": ["1", "2", "0"]},
        {
            "prompt_id": PROMPT.id,
            "order": ["a", "b", "c"],
            "candidates": [{"id": "c", "text": "bad"}, {"id": "a", "text": "good"}, {"id": "b", "text": "fair"}],
        },
    ],
)
def test_an_order_is_matched_by_text_or_id(tmp_path: Path, line: dict[str, Any]) -> None:
    path = write(tmp_path / "r.jsonl", "", line)
    assert ReplayRanker(path).gives == "order"
    assert replay(path) == [Ranking.from_order(PROMPT.id, ["1", "2", "0"])]


def test_scores_are_magnitudes_and_equal_ones_tie(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": PROMPT.id, "scores": {"bad": -1, "good": 2.5, "fair": -1}})
    assert ReplayRanker(path).gives == "magnitude"
    (verdict,) = replay(path)
    assert isinstance(verdict, Ranking)
    assert verdict.tiers == (("1",), ("0", "2"))
    assert verdict.scores == {"0": -1, "1": 2.5, "2": -1}


def test_the_verdicts_of_a_run_come_back_whole(tmp_path: Path) -> None:
    """Ids of another sampling mean other texts: the candidates beside the file say which."""
    here = tmp_path / "run" / "interactions" / "0000"
    line = {
        "prompt_id": PROMPT.id,
        "tiers": [["0"], ["1", "2"]],
        "votes": {"0": 0.5, "1": 0.25, "2": 0.25},
        "confidence": 0.5,
        "passes": [["0", "1", "2"], ["0", "2", "1"]],
        "reasons": [{"shown": ["2", "0", "1"], "text": "It is kind."}],
    }
    path = write(here / "black_box.jsonl", line)
    texts = {"0": "good", "1": "bad", "2": "fair"}
    candidates = [{"id": i, "text": t, "finish": "stop"} for i, t in texts.items()]
    write(
        here / "candidates.jsonl", {"prompt_id": PROMPT.id, "messages": list(PROMPT.messages), "candidates": candidates}
    )
    expected = Ranking(
        prompt_id=PROMPT.id,
        tiers=(("1",), ("0", "2")),
        votes={"1": 0.5, "0": 0.25, "2": 0.25},
        confidence=0.5,
        passes=(("1", "0", "2"), ("1", "2", "0")),
        reasons=(Reason(shown=("2", "1", "0"), text="It is kind."),),
    )
    assert ReplayRanker(path).gives == "votes"
    assert replay(path) == [expected]
    assert replay(tmp_path / "run") == [expected]
    other = CandidateSet(PROMPT, (Candidate("0", "something"), Candidate("1", "else"), Candidate("2", "altogether")))
    assert replay(path, other) == [Unranked(PROMPT.id, "error", "not recorded for these candidates")]


def test_of_several_records_the_one_with_these_candidates_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.jsonl",
        {"prompt_id": PROMPT.id, "order": ["x", "y", "z"]},
        {"prompt_id": PROMPT.id, "unranked": "refusal"},
        {"prompt_id": PROMPT.id, "order": ["bad", "good", "fair"]},
        {"prompt_id": PROMPT.id, "order": ["good", "bad", "fair"]},
    )
    assert replay(path) == [Ranking.from_order(PROMPT.id, ["0", "1", "2"])]


def test_what_is_not_recorded_is_unranked(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.jsonl",
        {"prompt_id": PROMPT.id, "order": ["good", "bad"]},
        {"prompt_id": "f" * 32, "unranked": "unusable", "detail": "no permutation"},
    )
    stranger = CandidateSet(Prompt(({"role": "user", "content": "who?"},)), SET.candidates)
    single = CandidateSet(stranger.prompt, SET.candidates[:1])
    assert replay(path, SET, stranger, single) == [
        Unranked(PROMPT.id, "error", "not recorded for these candidates"),
        Unranked(stranger.prompt.id, "error", "not recorded"),
        Unranked(stranger.prompt.id, "too_few", "1 distinct candidates"),
    ]


def test_a_recorded_refusal_stays_one(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": PROMPT.id, "unranked": "refusal", "detail": "no"})
    assert replay(path) == [Unranked(PROMPT.id, "refusal", "no")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "expected one JSON object a line"),
        ({"order": ["a", "b"]}, r"expected prompt_id \(text\) or messages"),
        ({"messages": "hello", "order": ["a"]}, "messages: expected a list"),
        ({"prompt_id": "p"}, "expected one of tiers, order, ranking, scores, unranked"),
        ({"prompt_id": "p", "order": "ab"}, "order: expected a list of names"),
        ({"prompt_id": "p", "order": ["a", "a"]}, "each candidate once"),
        ({"prompt_id": "p", "order": []}, "at least one"),
        ({"prompt_id": "p", "tiers": ["a"]}, "tiers: expected lists of names"),
        ({"prompt_id": "p", "scores": {"a": "1"}}, "scores: expected an object of finite numbers"),
        ('{"prompt_id": "p", "scores": {"a": NaN}}', "NaN is no JSON number"),
        ({"prompt_id": "p", "unranked": "bored"}, "unranked: got 'bored'"),
        ({"prompt_id": "p", "tiers": [["a"]], "votes": {"b": 1.0}}, "votes: expected a number for each"),
        ({"prompt_id": "p", "tiers": [["a"]], "passes": [["b"]]}, "passes: expected orders"),
        ({"prompt_id": "p", "tiers": [["a"]], "reasons": [{"shown": ["b"], "text": "x"}]}, "reasons: expected a list"),
        ({"prompt_id": "p", "tiers": [["a"]], "reasons": [{"shown": ["a"]}]}, "reasons: expected a list"),
        ({"prompt_id": "p", "tiers": [["a"]], "reasons": "x"}, "reasons: expected a list"),
        ({"prompt_id": "p", "order": ["a"], "candidates": ["a"]}, "candidates: expected a list of objects"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: Any, problem: str) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": PROMPT.id, "order": ["good"]}, "", line)
    with pytest.raises(UserError, match=rf"r\.jsonl:3: {problem}|r\.jsonl:3: .*{problem}") as error:
        ReplayRanker(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        ReplayRanker(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="a directory without verdicts"):
        ReplayRanker(tmp_path)
