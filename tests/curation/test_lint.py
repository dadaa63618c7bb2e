"""Each thing that can be wrong with a set is found, and a good set has nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.curation.lint import Problem, lint
from cyclealign.curation.overlap import containment, normal
from cyclealign.curation.sets import open_set
from cyclealign.judge.template import load_template
from cyclealign.types import Demonstration, Prompt

TEMPLATE = load_template("rank")
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "tu", "ra", "ven", "sol") for b in ("den", "pir", "gos", "lat", "mur")]


def sentence(seed: int, n: int = 14) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def demo(
    seed: int, *, best: int = 0, lengths: Sequence[int] = (14, 14), text: str | None = None, **more: Any
) -> Demonstration:
    responses = tuple(sentence(1000 * seed + i + 1, n) for i, n in enumerate(lengths))
    order = (best, *(i for i in range(len(lengths)) if i != best))
    return Demonstration(Prompt(({"role": "user", "content": text or sentence(seed)},)), responses, order, **more)


BALANCED = [demo(n, best=n % 2, lengths=((14, 20), (20, 14))[n // 2 % 2]) for n in range(1, 9)]
ROOMY = DemonstrationsConfig(token_budget=100_000)


def problems(demos: Sequence[Demonstration], **more: Any) -> list[Problem]:
    return lint(demos, TEMPLATE, budget=ROOMY, **more)


def test_a_good_set_has_no_problem() -> None:
    assert problems(BALANCED, static=[demo(90)], held_out=[demo(91).prompt]) == []
    assert problems(open_set("builtin:rank").demonstrations) == []


def test_duplicates_near_copies_and_contradictions() -> None:
    first = BALANCED[0]
    near = Demonstration(
        Prompt(({"role": "user", "content": first.prompt.messages[0]["content"].upper() + "!"},)),
        (first.responses[0] + ".", first.responses[1]),
        first.order,
    )
    turned = Demonstration(first.prompt, first.responses, first.order[::-1])
    found = {p.about: p for p in problems([*BALANCED, first])}
    assert found[f"{first.id} and {first.id}"].level == "error"
    assert "twice" in found[f"{first.id} and {first.id}"].message
    assert "near-copies (100%" in problems([*BALANCED, near])[0].message
    (contradiction,) = (p for p in problems([*BALANCED, turned]) if p.level == "error")
    assert "two orders" in contradiction.message


def test_leaks_into_eval_data() -> None:
    first, second, third = BALANCED[:3]
    near = Prompt(({"role": "user", "content": second.prompt.messages[0]["content"] + " " + sentence(7, 2)},))
    labelled = Prompt(({"role": "user", "content": sentence(80)},), chosen=third.responses[0], rejected="no")
    found = problems(BALANCED, held_out=[first.prompt, near, labelled])
    assert [(p.level, p.about) for p in found] == [("error", d.id) for d in (first, second, third)]
    assert ["prompt is in" in p.message for p in found] == [True, False, False]
    assert "near-copy of the prompt" in found[1].message
    assert "labelled reply" in found[2].message


def test_copies_of_static_text() -> None:
    static = BALANCED[3]
    copy = Demonstration(static.prompt, (static.responses[0] + " ka", static.responses[1]), static.order, source="2")
    (found,) = problems([copy], static=[static])
    assert found == Problem("warning", copy.id, found.message)
    assert f"static demonstration {static.id}" in found.message
    (found,) = problems([demo(5, text=TEMPLATE.instruction)])
    assert "repeats the text of template rank" in found.message


@pytest.mark.parametrize(
    ("demos", "about", "message"),
    [
        ([demo(n, best=1, lengths=((14, 20), (20, 14))[n % 2]) for n in range(6)], "positions", "number 2 in 6 of 6"),
        (
            [demo(n, best=n % 2, lengths=((20, 9), (9, 20))[n % 2]) for n in range(6)],
            "lengths",
            "the longest in 6 of 6",
        ),
        (
            [demo(n, best=n % 2, lengths=((9, 20), (20, 9))[n % 2]) for n in range(6)],
            "lengths",
            "the shortest in 6 of 6",
        ),
    ],
)
def test_skew(demos: list[Demonstration], about: str, message: str) -> None:
    found = problems(demos)
    assert {p.about for p in found} == {about}
    assert message in " ".join(p.message for p in found)
    assert problems(demos[:3]) == []  # three of three is not yet a habit


def test_what_a_run_would_not_show() -> None:
    demos = open_set("builtin:rank").demonstrations
    (found,) = lint(demos, TEMPLATE, budget=DemonstrationsConfig())
    assert found.about == "token budget"
    assert "a run shows 5 of 16" in found.message
    assert len(found.message.split("not shown: ")[1].split(", ")) == 11


def test_containment_by_hand() -> None:
    long = sentence(1)
    shares = containment([long, "Yes, of course."], [long + " " + sentence(2), sentence(3), "yes of course"])
    assert shares[0, 0] == 1.0
    assert shares[1].tolist() == [0.0, 0.0, 1.0]  # short texts: only equal ones count
    grams = [{t[i : i + 5] for i in range(len(t) - 4)} for t in map(normal, (long, sentence(3)))]
    assert shares[0, 1] == pytest.approx(len(grams[0] & grams[1]) / min(map(len, grams)))
    assert containment([], ["x"]).shape == (0, 1)
    assert containment(["", "ab"], ["", "ab"]).tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert np.all(containment([long], [long.upper().replace(" ", ", ")]) == 1.0)
