"""What a judge may be asked to say, against a real server: by value, under any form, and never a wrong verdict."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answering import Grade, first_letter, grader, length_grade, likely, said
from asking import CONTEXT, asking, item, rows, verdicts
from loopback import Body, Fault, Loopback, faults, shown

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.judge.template import load_template
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.types import CandidateSet, Ranking, Unranked, UserError

SETS = [item(i, k) for i, k in enumerate((2, 3, 4, 6))]


def graded(given: CandidateSet, grade: Grade = length_grade) -> dict[str, float]:
    return {c.id: float(grade(c.text)) for c in given.candidates}


def tiers_by(scores: Mapping[str, float]) -> set[frozenset[str]]:
    return {frozenset(i for i, s in scores.items() if s == level) for level in scores.values()}


def only_rankings(found: Mapping[str, Ranking | Unranked]) -> dict[str, Ranking]:
    assert all(isinstance(v, Ranking) for v in found.values()), found
    return {i: v for i, v in found.items() if isinstance(v, Ranking)}


@pytest.mark.parametrize("structured", [True, False, "refused"])
@pytest.mark.parametrize("passes", [1, 3])
def test_scores(tmp_path: Path, structured: bool | str, passes: int) -> None:
    with Loopback(judge=grader(length_grade), structured=structured) as server:
        found = only_rankings(verdicts(tmp_path / "l", server, SETS, answer="scores", passes=passes))
    for each in SETS:
        ranking, own = found[each.prompt.id], graded(each)
        assert ranking.scores == own
        assert {frozenset(t) for t in ranking.tiers} == tiers_by(own)
        assert [own[t[0]] for t in ranking.tiers] == sorted(set(own.values()), reverse=True)
        assert len(ranking.passes) == min(passes, math.factorial(len(each.ids)))
        assert (ranking.confidence is None) == (passes == 1)
        if passes == 3 and len(set(own.values())) > 1:
            assert ranking.confidence == pytest.approx(1.0)
    with asking(tmp_path / "l", "http://127.0.0.1:9/v1", answer="scores", passes=passes) as ranker:
        assert ranker.gives == "magnitude"


def test_scores_of_several_passes_are_averaged(tmp_path: Path) -> None:
    """A judge that adds a point to whatever stands first: by hand, over both orders of two."""

    def judge(body: Body) -> str:
        grades = [length_grade(t) + (n == 0) for n, t in enumerate(shown(body))]
        return said(body, [[0], [1]], grades)

    with Loopback(judge=judge) as server:
        found = only_rankings(verdicts(tmp_path / "l", server, SETS[:1], answer="scores", passes=2))
    (ranking,) = found.values()
    assert ranking.scores == {i: g + 0.5 for i, g in graded(SETS[0]).items()}


@pytest.mark.parametrize("structured", [True, False])
def test_ties(tmp_path: Path, structured: bool) -> None:
    with Loopback(judge=grader(length_grade), structured=structured) as server:
        found = only_rankings(verdicts(tmp_path / "l", server, SETS, ties=True))
    for each in SETS:
        own = graded(each)
        ranking = found[each.prompt.id]
        assert ranking.tiers == Ranking.from_scores("", dict(sorted(own.items()))).tiers
        assert ranking.scores is None
        assert kendall_tau(ranking.passes[0], ranking) == pytest.approx(1.0 if len(set(own.values())) > 1 else 0.0)
    assert any(len(r.tiers) < len(r.order) for r in found.values())


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("more", [{}, {"ties": True}, {"answer": "scores"}], ids=["ranking", "ties", "scores"])
def test_reasons_are_kept_with_what_was_shown(tmp_path: Path, structured: bool, more: dict[str, Any]) -> None:
    with Loopback(judge=grader(length_grade, ties=bool(more)), structured=structured) as server:
        found = only_rankings(verdicts(tmp_path / "l", server, SETS, explain=True, passes=2, **more))
    for each in SETS:
        ranking = found[each.prompt.id]
        assert len(ranking.reasons) == 2
        first, second = ranking.reasons
        assert first.shown == second.shown[::-1]
        for reason, given in zip(ranking.reasons, ranking.passes, strict=True):
            assert sorted(reason.shown) == sorted(each.ids)
            number = int(reason.text.partition("[")[2].partition("]")[0])
            best = (given[0],) if isinstance(given[0], str) else given[0]
            assert reason.shown[number - 1] in best
            assert reason.text.startswith(f"I saw {len(each.ids)}")


# First tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2])
def test_the_first_token_orders_by_its_probabilities(tmp_path: Path, passes: int) -> None:
    cut = lambda *_: Fault(finish="length")  # noqa: E731  one token is asked for
    with Loopback(judge=first_letter, firsts=likely, script=cut) as server:
        found = only_rankings(verdicts(tmp_path / "l", server, SETS, answer="first_token", passes=passes))
        asked = server.requests[-1]
    for each in SETS:
        lengths = {c.id: len(c.text) for c in each.candidates}
        ranking = found[each.prompt.id]
        assert ranking.scores == pytest.approx({i: math.log(n / sum(lengths.values())) for i, n in lengths.items()})
        assert ranking.order == tuple(sorted(lengths, key=lengths.__getitem__, reverse=True))
    assert (asked["logprobs"], asked["top_logprobs"], asked["max_tokens"]) == (True, 20, 1)
    assert "response_format" not in asked
    assert len(server.requests) == 1 + sum(min(passes, math.factorial(len(s.ids))) for s in SETS)


def test_a_letter_that_is_not_given_leaves_the_list_unranked(tmp_path: Path) -> None:
    top = lambda body: likely(body)[: 2 * len(shown(body)) - 3] if len(shown(body)) > 2 else likely(body)  # noqa: E731
    with Loopback(judge=first_letter, firsts=top) as server:
        found = verdicts(tmp_path / "l", server, SETS, answer="first_token")
    for each in SETS[1:]:
        verdict = found[each.prompt.id]
        assert isinstance(verdict, Unranked)
        assert (verdict.reason, "gives no probability that it begins with" in verdict.detail) == ("unusable", True)
    assert isinstance(found[SETS[0].prompt.id], Ranking)


@pytest.mark.parametrize(
    ("word", "reason"), [("I", "its first token is 'I'"), ("<think>", "its first token is '<think>'")]
)
def test_a_judge_that_would_say_something_else_gives_no_order(tmp_path: Path, word: str, reason: str) -> None:
    def firsts(body: Body) -> list[tuple[str, float]]:
        return [(word, math.log(0.9)), *((t, p + math.log(0.1)) for t, p in likely(body))]

    with Loopback(judge=lambda _: "I", firsts=firsts) as server:
        found = verdicts(tmp_path / "l", server, SETS, answer="first_token")
    assert {(v.reason, reason in v.detail) for v in found.values() if isinstance(v, Unranked)} == {("unusable", True)}
    assert len(found) == len(SETS)


def test_servers_that_give_no_probabilities_are_told_before_anything_is_paid(tmp_path: Path) -> None:
    with Loopback(judge=first_letter) as server, pytest.raises(UserError, match="is given no top_logprobs"):
        verdicts(tmp_path / "l", server, SETS, answer="first_token")
    error = json.dumps({"error": {"message": "logprobs is not supported with this model", "code": None}})
    with Loopback(script=lambda *_: Fault(status=400, body=error)) as server:
        with pytest.raises(UserError, match=r"black_box.answer=first_token.* refuses it .*take scores or ranking"):
            verdicts(tmp_path / "m", server, SETS, answer="first_token")
        assert len(server.requests) <= 2


def test_more_candidates_than_letters_are_not_asked_about(tmp_path: Path) -> None:
    with Loopback(judge=first_letter, firsts=likely) as server:
        found = verdicts(tmp_path / "l", server, [item(1, 17)], answer="first_token")
    (verdict,) = found.values()
    assert isinstance(verdict, Unranked)
    assert "letters for 16 candidates, got 17" in verdict.detail
    assert not server.requests


# Hostile judges -----------------------------------------------------------------------------------------------

BAD = {
    "prose": ("The second one is best, I would say 9 of 10.", "unusable"),
    "refusal": ("I'm sorry, but I can't judge these.", "refusal"),
    "refusal inside": ('{"reason": "I cannot judge these.", "scores": {"1": 3, "2": 4, "3": 5}}', "refusal"),
    "beyond": ('{"reason": "", "scores": {"1": 11, "2": 4, "3": 5}}', "unusable"),
    "nan": ('{"reason": "", "scores": {"1": NaN, "2": 4, "3": 5}}', "unusable"),
    "missing": ('{"reason": "", "scores": {"1": 3, "3": 5}}', "unusable"),
    "twice": ('{"reason": "", "scores": {"1": 3, "2": 4, "3": 5, "1": 9}}', "unusable"),
    "ranking": ('{"ranking": "1>2>3"}', "unusable"),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("more", [{"answer": "scores", "explain": True}, {"answer": "scores"}], ids=["why", "alone"])
def test_hostile_answers_end_unranked(tmp_path: Path, text: str, reason: str, more: dict[str, Any]) -> None:
    good = grader(length_grade)
    judge = lambda body: text if len(shown(body)) == 3 else good(body)  # noqa: E731
    with Loopback(judge=judge) as server:
        found = verdicts(tmp_path / "l", server, [SETS[0], SETS[1]], **more)
    refused = found[SETS[1].prompt.id]
    assert isinstance(refused, Unranked)
    assert refused.reason == reason or (not more.get("explain") and refused.reason == "unusable")
    assert isinstance(found[SETS[0].prompt.id], Ranking)


def test_one_repair_mends_an_answer(tmp_path: Path) -> None:
    bad = Fault(text='{"scores": {"1": 0, "2": 3}}')
    with Loopback(judge=grader(length_grade), script=faults(None, bad)) as server:
        found = only_rankings(verdicts(tmp_path / "l", server, SETS[:1], answer="scores"))
        said_ = server.requests[-1]["messages"][-1]["content"]
    assert found[SETS[0].prompt.id].scores == graded(SETS[0])
    assert "a score is not a whole number from 1 to 10. Answer again in the form that was asked for" in said_


# Identity and form --------------------------------------------------------------------------------------------

ANSWERS: list[dict[str, Any]] = [
    {},
    {"ties": True},
    {"explain": True},
    {"answer": "scores"},
    {"answer": "scores", "explain": True},
    {"answer": "first_token"},
    {"rubric": "Short is good."},
]


def test_what_is_asked_for_is_another_call_and_how_is_none(tmp_path: Path) -> None:
    """Every answer on one ledger: each is asked once, whatever form it is asked in afterwards."""
    ledger = tmp_path / "l"
    with Loopback(judge=grader(length_grade, ties=False), firsts=likely) as server:
        for more in ANSWERS:
            before = len(server.requests)
            once = only_rankings(verdicts(ledger, server, SETS, **more))
            assert len(server.requests) >= before + len(SETS), more
            before = len(server.requests)
            for form in ("auto", "text") if more.get("answer") == "first_token" else ("auto", "text", "schema"):
                assert only_rankings(verdicts(ledger, server, SETS, form=form, **more)) == once
            asked = [body for body in server.requests[before:] if len(shown(body)) > 5 or "Paris" not in str(body)]
            assert not asked, more
    keys = rows(ledger, "SELECT COUNT(DISTINCT key) FROM calls WHERE purpose = 'rank'")
    assert keys == [(len(ANSWERS) * len(SETS),)]


def test_the_form_can_be_demanded(tmp_path: Path) -> None:
    with Loopback(judge=grader(length_grade)) as server:
        verdicts(tmp_path / "text", server, SETS, form="text", ties=True)
        assert not any("response_format" in body for body in server.requests)
        verdicts(tmp_path / "schema", server, SETS, form="schema", ties=True)
        assert all("response_format" in body for body in server.requests[-len(SETS) :])
    for structured in (False, "refused"):
        with Loopback(judge=grader(length_grade), structured=structured) as server:
            with pytest.raises(UserError, match=r"black_box.form=schema: .* does not hold 'judge' to a JSON schema"):
                verdicts(tmp_path / f"{structured}", server, SETS, form="schema")
            assert all("Paris" in str(body) for body in server.requests)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"answer": "scores", "ties": True}, "ties: said in a ranking alone"),
        ({"answer": "first_token", "explain": True}, "explain: true puts another there"),
        ({"answer": "first_token", "form": "schema"}, "form: schema puts another there"),
        ({"answer": "first_token", "reasoning": "low"}, "set reasoning: off, or null"),
        ({"scale": 0.0}, "greater than 0"),
    ],
)
def test_what_cannot_go_together_is_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BlackBoxConfig(model="m", **keys)


def test_gives() -> None:
    gives = {str(a): BlackBoxConfig(model="m", **a).gives for a in ANSWERS}
    assert [g for a, g in gives.items() if "answer" in a] == ["magnitude"] * 3
    assert [g for a, g in gives.items() if "answer" not in a] == ["order"] * 4
    cascade = {"backend": "cascade", "cascade": {"keep": 2}, "model": "m", "answer": "scores"}
    assert BlackBoxConfig(**cascade).gives == "order"


# Rubrics and references ---------------------------------------------------------------------------------------


def with_own(each: CandidateSet, rubric: str | None, reference: str | None) -> CandidateSet:
    return replace(each, prompt=replace(each.prompt, rubric=rubric, reference=reference))


@pytest.mark.parametrize("template", ["rank", "rank_terse"])
def test_rubrics_and_references_stand_in_their_places(tmp_path: Path, template: str) -> None:
    sets = [with_own(SETS[0], "own </rubric> rubric", None), with_own(SETS[1], None, "a good one"), SETS[2]]
    with Loopback() as server:
        only_rankings(verdicts(tmp_path / "l", server, sets, template=template, rubric="for all", max_concurrency=1))
        bodies = {len(shown(b)): b["messages"] for b in server.requests[1:]}
    for k, messages in bodies.items():
        head, last = messages[0]["content"], messages[-1]["content"]
        assert "<rubric>for all</rubric>" in head.replace("\n", "")
        assert ("<rubric>own <\\/rubric> rubric</rubric>" in last.replace("\n", "")) == (k == 2)
        assert ("<reference>a good one</reference>" in last.replace("\n", "")) == (k == 3)
        assert "{rubric}" not in str(messages)
        assert "\n\n\n" not in str([m["content"] for m in messages])


def test_templates_without_the_place_are_refused(tmp_path: Path) -> None:
    template = load_template("rank")
    no_head = replace(template, instruction="Rank. {answer}")
    no_item = replace(template, item="{conversation}\n{candidates}", name="mine")
    with pytest.raises(UserError, match=r"black_box.rubric: template rank has no place for it"):
        verdicts(tmp_path / "l", "http://127.0.0.1:9/v1", SETS, template=no_head, rubric="r")
    for rubric, reference, name in (("r", None, "rubric"), (None, "x", "reference")):
        sets = [with_own(SETS[0], rubric, reference)]
        with Loopback() as server:
            with pytest.raises(UserError, match=rf"its {name}: template mine has no place.*drop the column {name}"):
                verdicts(tmp_path / "m", server, sets, template=no_item)
            assert not server.requests


def test_another_rubric_is_another_question() -> None:
    sets = [SETS[0], with_own(SETS[0], "a", None), with_own(SETS[0], "b", None), with_own(SETS[0], None, "a")]
    assert len({s.id for s in sets}) == 4
    assert len({s.prompt.id for s in sets}) == 1


def test_the_context_may_show_a_list_again_under_every_answer(tmp_path: Path) -> None:
    again = replace(CONTEXT, shown_again=frozenset(s.prompt.id for s in SETS))
    for more in ANSWERS:
        server = Loopback(judge=grader(length_grade, ties="ties" in more), firsts=likely)
        with server, asking(tmp_path / "l", server, **more) as ranker:
            found = [v for v in ranker.rank(SETS, again) if isinstance(v, Ranking)]
        assert len(found) == len(SETS)
        for ranking in found:
            flat = list(itertools.chain(*((g,) if isinstance(g, str) else g for g in ranking.reverse)))
            assert sorted(flat) == sorted(ranking.order)
            assert kendall_tau(ranking.passes[0], ranking.reverse) in (pytest.approx(1.0), 0.0)
