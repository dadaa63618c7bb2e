"""The packaged lists: enough of them, balanced, and nothing about them but their quality gives the best away."""

from __future__ import annotations

import json
from collections import Counter

from scipy.stats import chisquare

from cyclealign.evaluation.judges import is_hard
from cyclealign.files.labelled import JUDGE_LISTS, load_labelled
from cyclealign.files.packaged import resource
from cyclealign.files.prompts import OPENERS, load_prompts

ITEMS = load_labelled(JUDGE_LISTS)


def best(item: int) -> list[int]:
    """The places of the best replies of a list."""
    grades = list(ITEMS[item].grades.values())
    return [n for n, g in enumerate(grades) if g == max(grades)]


def test_there_are_enough_lists_of_two_to_five() -> None:
    assert len(ITEMS) >= 120
    assert len({i.id for i in ITEMS}) == len({i.set.prompt.id for i in ITEMS}) == len(ITEMS)
    sizes = Counter(len(i.set.candidates) for i in ITEMS)
    assert set(sizes) == {2, 3, 4, 5}
    assert min(sizes.values()) >= 20
    assert all(i.decided for i in ITEMS)


def test_they_are_balanced_by_aspect_and_half_are_hard() -> None:
    aspects = Counter(i.subset.split()[0] for i in ITEMS)
    assert set(aspects) == {"harmless", "helpful", "honest"}
    assert max(aspects.values()) - min(aspects.values()) <= 0.1 * len(ITEMS) / 3
    assert {i.subset.split()[1] for i in ITEMS} == {"hard", "plain"}
    for aspect in aspects:
        own = [is_hard(i) for i in ITEMS if i.subset.startswith(aspect)]
        assert 0.4 <= sum(own) / len(own) <= 0.6
    assert abs(sum(map(is_hard, ITEMS)) / len(ITEMS) - 0.5) <= 0.05


def test_none_is_a_demonstration_or_an_opener() -> None:
    demonstrations = resource("prompts", "demonstrations.jsonl").read_text(encoding="utf-8").splitlines()
    shown = {m["content"] for line in demonstrations for m in json.loads(line)["messages"]}
    replies = {text for line in demonstrations for text in json.loads(line)["responses"]}
    openers = {p.messages[-1]["content"] for spec in OPENERS for p in load_prompts(spec)}
    for item in ITEMS:
        assert not {m["content"] for m in item.set.prompt.messages} & (shown | openers)
        # A plain "I can't help with that." may stand in both.
        assert len({c.text for c in item.set.candidates} & replies) <= 1


def test_the_best_stands_anywhere() -> None:
    for k in (2, 3, 4, 5):
        places = [best(n)[0] for n, i in enumerate(ITEMS) if len(i.set.candidates) == k and len(best(n)) == 1]
        counts = Counter(places)
        assert chisquare([counts[n] for n in range(k)]).pvalue > 0.01


def test_the_longest_is_not_the_best_more_often_than_by_chance() -> None:
    for length in (len, lambda text: len(text.split())):
        longest = [
            max(range(len(i.set.candidates)), key=lambda n, i=i: length(i.set.candidates[n].text)) for i in ITEMS
        ]
        share = sum(n in best(place) for place, n in enumerate(longest)) / len(ITEMS)
        chance = sum(len(best(n)) / len(i.set.candidates) for n, i in enumerate(ITEMS)) / len(ITEMS)
        assert abs(share - chance) <= 0.1
