"""One prompt twice in a call: what a set's id is made of, which seed it has, and how verdicts find their sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.rankers.joining import joined
from cyclealign.rankers.presenting import Seeds
from cyclealign.types import (
    Candidate,
    CandidateSet,
    Demonstration,
    Prompt,
    RankContext,
    Ranking,
    Unranked,
    UserError,
    derive_seed,
    sha256_hex,
)
from tests.helpers.replayed import NoDemonstrations

PROMPTS = tuple(Prompt(({"role": "user", "content": f"question {n}"},)) for n in range(3))
CONTEXT = RankContext(run="r", interaction=2, seed=7, demonstrations=NoDemonstrations())
DEMO = Demonstration(PROMPTS[2], ("good", "bad"), (0, 1))


def item(prompt: int, *texts: str) -> CandidateSet:
    return CandidateSet(PROMPTS[prompt], tuple(Candidate(f"c{n}", text) for n, text in enumerate(texts)))


class Longest:
    """Ranks by length, last set first, as a server may answer; notes what it was asked."""

    gives = "order"

    def __init__(self) -> None:
        self.asked: list[CandidateSet] = []

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        self.asked = list(sets)
        for s in reversed(self.asked):
            order = sorted(s.candidates, key=lambda c: -len(c.text))
            yield Ranking.from_order(s.prompt.id, (c.id for c in order), set_id=s.id)


def test_a_set_is_its_prompt_its_candidates_and_what_is_shown_before_them() -> None:
    first = item(0, "a", "bb")
    golden = sha256_hex([PROMPTS[0].id, [["c0", "a", "stop"], ["c1", "bb", "stop"]]])[:32]
    assert first.id == golden == replace(first, drawn=9).id
    cut_off = replace(first, candidates=(first.candidates[0], replace(first.candidates[1], finish="length")))
    turned = replace(first, candidates=first.candidates[::-1])
    others = [item(1, "a", "bb"), item(0, "a", "b"), item(0, "a"), turned, cut_off]
    shown = [replace(first, demonstrations=()), replace(first, demonstrations=(DEMO,))]
    assert len({s.id for s in (first, *others, *shown)}) == 8


def test_a_prompt_that_stands_once_has_the_seed_of_its_id() -> None:
    seeds = Seeds(7, "r", 2)
    assert [seeds.of(item(n, "a", "b")) for n in range(3)] == [derive_seed(7, "r", 2, p.id) for p in PROMPTS]


def test_a_further_list_of_a_prompt_has_a_seed_of_its_own_and_the_same_list_the_same() -> None:
    seeds = Seeds(7, "r", 2)
    first, other, third = item(0, "a", "b"), item(0, "a", "c"), item(0, "d", "e")
    found = [seeds.of(s) for s in (first, other, third)]
    assert found[0] == derive_seed(7, "r", 2, PROMPTS[0].id)
    assert len(set(found)) == 3
    assert [seeds.of(replace(s, demonstrations=(DEMO,))) for s in (third, first, other)] == [found[2], *found[:2]]
    assert seeds.of(item(1, "a", "b")) == Seeds(7, "r", 2).of(item(1, "a", "b"))


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=3))))
def test_every_set_gets_the_verdict_on_its_own_candidates(asked: list[tuple[int, list[str]]]) -> None:
    sets = [item(n, *texts) for n, texts in asked]
    ranker = Longest()
    found = dict(joined(ranker, sets, CONTEXT))
    assert sorted(found) == list(range(len(sets)))
    for place, s in enumerate(sets):
        verdict = found[place]
        assert isinstance(verdict, Ranking)
        assert [len(s.text(i)) for i in verdict.order] == sorted((len(c.text) for c in s.candidates), reverse=True)
        assert verdict.prompt_id == s.prompt.id
    assert len(ranker.asked) == len({s.id for s in sets})  # the same question is asked once


@pytest.mark.parametrize("set_id", ["", "elsewhere"])
def test_a_verdict_that_answers_no_set_is_one_line(set_id: str) -> None:
    class Stray(Longest):
        def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
            yield from (replace(v, set_id=set_id) for v in super().rank(sets, context))

    with pytest.raises(UserError, match=r"Stray gave a verdict on prompt \w+ \(set .*\) that nobody waits for"):
        list(joined(Stray(), [item(0, "a", "b")], CONTEXT))


def test_a_set_that_is_answered_twice_is_refused() -> None:
    class Twice(Longest):
        def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
            for verdict in super().rank(sets, context):
                yield from (verdict, verdict)

    with pytest.raises(UserError, match="Twice gave a verdict"):
        list(joined(Twice(), [item(0, "a", "b")], CONTEXT))
