"""Agreement and consensus: brute force, the table of chance agreement, properties."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclealign.rankers import chance
from cyclealign.rankers.agreement import agree, given_of, kendall_tau, lcs
from cyclealign.rankers.chance import chance_corrected, expected_lcs, expected_lcs_of, lcs_distribution
from cyclealign.rankers.consensus import aggregate, borda, kemeny, mean_scores, vote_shares
from cyclealign.rankers.utilities import (
    VOTE_EPSILON,
    order_utilities,
    score_spread,
    score_utilities,
    teacher_utilities,
    vote_utilities,
    win_rates,
)
from cyclealign.types import Given, Ranking

IDS = "abcdefgh"


def ranking(*tiers: str, **extra: object) -> Ranking:
    """``ranking("a", "bc")``: a first, then b and c tied."""
    return Ranking(prompt_id="p", tiers=tuple(tuple(t) for t in tiers), **extra)  # type: ignore[arg-type]


def common(black: Sequence[str], white: Sequence[str]) -> list[tuple[str, ...]]:
    """All longest common subsequences, by enumeration, in lexicographic order of the black box's places."""
    for size in range(len(black), 0, -1):
        found = [c for c in itertools.combinations(black, size) if [w for w in white if w in c] == list(c)]
        if found:
            return found
    return [()]


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[str], list[str], dict[str, float]]:
    k = draw(st.integers(1, 7))
    black, white = (draw(st.permutations(IDS[:k])) for _ in range(2))
    values = sorted(draw(st.lists(st.integers(-9, 9), min_size=k, max_size=k)), reverse=True)
    return black, white, dict(zip(white, map(float, values), strict=True))


# The common subsequence -------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(two_orders())
def test_lcs_against_enumeration(case: tuple[list[str], list[str], dict[str, float]]) -> None:
    black, white, scores = case
    options = common(black, white)
    kept = [o for o in options if o[0] == black[0]] or options

    def margin(ids: Sequence[str]) -> float:
        return sum(scores[a] - scores[b] for a, b in itertools.combinations(ids, 2))

    expected = max(kept, key=margin)  # the first of equals: options come in the black box's order
    assert lcs(black, white, scores) == expected
    assert lcs(black, white) == kept[0]
    assert len(lcs(white, black)) == len(expected)


def test_tie_break_in_words() -> None:
    # Black a b c, white c a b: "ab" is the only one of length 2.
    assert lcs("abc", "cab") == ("a", "b")
    # Black a b c, white b c a against b a c: the first choice is kept where it can be.
    assert lcs("abc", "bac", {"b": 0.0, "a": -5.0, "c": -5.1}) == ("a", "c")
    # The first choice is lost in every longest one: the larger margin decides, then the black box's order.
    assert lcs("abcde", "decba", None) == ("d", "e")
    white = {"b": -1.0, "d": -1.1, "a": -2.0, "c": -5.0}
    assert common("abdc", "bdac") == [("b", "d", "c")]
    assert lcs("xabcd", "cdabx", {"c": 0.0, "d": -1.0, "a": -1.1, "b": -3.0, "x": -4.0}) == ("a", "b")
    assert lcs("xabcd", "cdabx", {"c": 0.0, "d": -2.0, "a": -2.1, "b": -3.0, "x": -4.0}) == ("c", "d")
    assert lcs("abdc", "bdac", white) == ("b", "d", "c")


def test_ids_of_one_side_are_left_out() -> None:
    assert lcs("axb", "ayb") == ("a", "b")
    assert lcs("ab", "cd") == ()
    with pytest.raises(ValueError, match="each candidate once"):
        lcs("aab", "ab")


# Chance -----------------------------------------------------------------------------------------------------

TABLE = {
    2: (1.500, (0.500, 0.500)),
    3: (2.000, (0.167, 0.667, 0.167)),
    4: (2.417, (0.042, 0.542, 0.375, 0.042)),
    5: (2.792, (0.008, 0.342, 0.508, 0.133, 0.008)),
    6: (3.140, (0.001, 0.182, 0.529, 0.251, 0.035)),
    7: (3.465, (0.000, 0.085, 0.463, 0.361, 0.084)),
}


@pytest.mark.parametrize("k", TABLE)
def test_table_of_chance_agreement(k: int) -> None:
    expected, shares = TABLE[k]
    assert expected_lcs(k) == pytest.approx(expected, abs=6e-4)
    assert [float(p) for p in lcs_distribution(k)[1 : len(shares) + 1]] == pytest.approx(shares, abs=6e-4)
    assert sum(lcs_distribution(k)) == 1


@pytest.mark.parametrize("k", range(1, 7))
def test_chance_by_enumeration(k: int) -> None:
    first = tuple(IDS[:k])
    lengths = Counter(len(lcs(first, second)) for second in itertools.permutations(first))
    assert [p * math.factorial(k) for p in lcs_distribution(k)] == [lengths[n] for n in range(k + 1)]


def test_gates_of_the_design() -> None:
    """Gate 0.3 is three of four and four of five; gate 0.0 is two of three, exactly."""
    for k, needed, gate in ((4, 3, 0.3), (5, 4, 0.3), (3, 2, 0.0)):
        passing = [n for n in range(1, k + 1) if chance_corrected(n, k) >= gate]
        assert passing == list(range(needed, k + 1))
    for k in range(2, 17):
        assert chance_corrected(k, k) == 1.0
    assert chance_corrected(2, 3) == 0.0
    assert chance_corrected(1, 2) == -1.0
    assert chance_corrected(1, 1) == 0.0


def test_mean_corrected_agreement_of_chance_is_zero() -> None:
    for k in (3, 4, 5):
        first = tuple(IDS[:k])
        values = [chance_corrected(len(lcs(first, p)), k) for p in itertools.permutations(first)]
        assert math.fsum(values) / len(values) == pytest.approx(0, abs=1e-12)


# Agreement of two rankings ----------------------------------------------------------------------------------


def test_agree() -> None:
    white = Ranking.from_scores("p", {"c": -1.0, "a": -1.5, "b": -2.0, "d": -2.5})
    got = agree(Ranking.from_order("p", "abcd"), white)
    assert (got.ids, got.length, got.k, got.settled) == (("a", "b", "d"), 3, 4, False)
    assert got.corrected == pytest.approx((3 - 29 / 12) / (4 - 29 / 12))
    same = agree(Ranking.from_order("p", "cabd"), white)
    assert (same.ids, same.corrected, same.settled) == (("c", "a", "b", "d"), 1.0, True)


def test_a_tie_agrees_with_nothing() -> None:
    white = ranking("a", "b", "c")
    tied = agree(ranking("abc"), white)
    assert (tied.length, tied.settled) == (1, False)
    assert tied.corrected == 0
    partly = agree(ranking("ab", "c"), white)
    assert (partly.ids, partly.length, partly.settled) == (("a", "c"), 2, False)
    both = agree(ranking("ab", "c"), ranking("ab", "c"))
    assert (both.length, both.settled) == (2, False)


def test_agree_over_a_subset() -> None:
    got = agree(ranking("a", "c"), ranking("a", "b", "c"))
    assert (got.ids, got.k, got.corrected, got.settled) == (("a", "c"), 2, 1.0, False)
    with pytest.raises(ValueError, match="share no candidate"):
        agree(ranking("a"), ranking("b"))
    with pytest.raises(ValueError, match="one prompt, got p and q"):
        agree(ranking("a"), Ranking.from_order("q", "a"))


# Kendall tau ------------------------------------------------------------------------------------------------

weak = st.lists(st.integers(0, 3), min_size=6, max_size=6).map(
    lambda levels: Ranking.from_scores("p", dict(zip(IDS, map(float, levels), strict=False)))
)


@settings(max_examples=100, deadline=None)
@given(weak, weak)
def test_tau_properties(first: Ranking, second: Ranking) -> None:
    tau = kendall_tau(first, second)
    assert -1 - 1e-12 <= tau <= 1 + 1e-12
    assert tau == kendall_tau(second, first)
    backwards = Ranking(prompt_id="p", tiers=first.tiers[::-1])
    assert kendall_tau(backwards, second) == pytest.approx(-tau)
    if len(first.tiers) > 1:
        assert kendall_tau(first, first) == pytest.approx(1)


def test_tau_values() -> None:
    assert kendall_tau("abcd", "abcd") == 1
    assert kendall_tau("abcd", "dcba") == -1
    assert kendall_tau("abcd", "abdc") == pytest.approx(4 / 6)
    # tau-b by hand: 2 of 3 pairs agree, one is tied on one side: 2 / sqrt(2 * 3).
    assert kendall_tau(ranking("ab", "c"), ranking("a", "b", "c")) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau("a", "a") == kendall_tau(ranking("abc"), ranking("a", "b", "c")) == 0
    assert kendall_tau("abx", "ayb") == 1


# Consensus --------------------------------------------------------------------------------------------------


def disagreements(order: Sequence[str], passes: Sequence[Sequence[str]]) -> int:
    pairs = list(itertools.combinations(order, 2))
    return sum(p.index(b) < p.index(a) for p in passes for a, b in pairs)


@st.composite
def several_passes(draw: st.DrawFn) -> list[list[str]]:
    k = draw(st.integers(1, 5))
    return draw(st.lists(st.permutations(IDS[:k]), min_size=1, max_size=5))


@settings(max_examples=100, deadline=None)
@given(several_passes())
def test_kemeny_is_optimal(passes: list[list[str]]) -> None:
    wins = Counter({i: sum(len(p) - 1 - p.index(i) for p in passes) for i in passes[0]})

    def cost(order: Sequence[str]) -> tuple[int, int]:
        return disagreements(order, passes), sum(place * wins[i] for place, i in enumerate(order))

    everything = list(itertools.permutations(sorted(passes[0])))
    least = min(map(cost, everything))
    best = [order for order in everything if cost(order) == least]
    tiers = kemeny(passes)
    # A tier ends where, and only where, all optimal orders have the same candidates before.
    cuts = [n for n in range(1, len(passes[0]) + 1) if len({frozenset(o[:n]) for o in best}) == 1]
    assert list(itertools.accumulate(len(t) for t in tiers)) == cuts
    assert all(set(best[0][a:b]) == set(t) for a, b, t in zip([0, *cuts], cuts, tiers, strict=False))
    assert kemeny(passes[::-1]) == tiers


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8).flatmap(lambda k: st.permutations(IDS[:k])), st.integers(1, 4))
def test_unanimous_passes_are_the_consensus(order: list[str], m: int) -> None:
    got = aggregate("p", [order] * m)
    assert got.order == tuple(order)
    assert all(len(tier) == 1 for tier in got.tiers)
    assert tuple(i for tier in borda([order] * m) for i in tier) == tuple(order)
    if m > 1:
        assert got.confidence == (1.0 if len(order) > 1 else 0.0)


def test_consensus_values() -> None:
    assert kemeny(["abc", "abc", "cba"]) == (("a",), ("b",), ("c",))
    # A cycle, and two opposite passes: no order is the verdict.
    assert kemeny(["abc", "bca", "cab"]) == (("a", "b", "c"),)
    assert kemeny(["abc", "cba"]) == (("a", "b", "c"),)
    # One pair is open, the others are not.
    assert kemeny(["abcd", "acbd"]) == (("a",), ("b", "c"), ("d",))
    # Three optimal orders, abc, bac and bca; b has the most votes.
    assert kemeny(["abc", "bca"]) == (("b",), ("a",), ("c",))
    # Kemeny keeps the majority's a before b where Borda ties them.
    assert kemeny(["abc", "abc", "bca"]) == (("a",), ("b",), ("c",))
    assert borda(["abc", "abc", "bca"]) == (("a", "b"), ("c",))


def test_kemeny_is_taken_up_to_eight_candidates() -> None:
    # The majority's a before b, where Borda ties them; the others stand behind.
    passes = ["abcdefgh", "abcdefgh", "bcadefgh"]
    assert aggregate("p", passes).tiers == tuple((i,) for i in "abcdefgh")
    assert aggregate("p", [f"{order}i" for order in passes]).tiers[0] == ("a", "b")


def test_aggregate() -> None:
    got = aggregate("p", ["abc", "acb"])
    assert got.tiers == (("a",), ("b", "c"))
    assert got.votes == {"a": 4 / 6, "b": 1 / 6, "c": 1 / 6}
    assert got.confidence == pytest.approx(1 / 3)
    assert got.passes == (("a", "b", "c"), ("a", "c", "b"))
    assert aggregate("p", ["ba"]).confidence is None
    long = [list("abcdefghij"), list("bacdefghij")]
    assert aggregate("p", long).tiers[0] == ("a", "b")
    assert aggregate("p", long).order == tuple("abcdefghij")


@settings(max_examples=60, deadline=None)
@given(several_passes())
def test_votes_sum_to_one(passes: list[list[str]]) -> None:
    assert math.fsum(vote_shares(passes).values()) == pytest.approx(1)


@pytest.mark.parametrize("passes", [[], ["ab", "abc"], ["ab", "ac"], ["aa"]])
def test_passes_that_do_not_match(passes: list[str]) -> None:
    with pytest.raises(ValueError, match="pass"):
        aggregate("p", passes)


def test_rankers_under_shuffled_presentation() -> None:
    """One that always names the same slot is seen as chance; one that prefers the same response is sure."""
    rng = random.Random(7)
    slot_taus, choice_taus, slot_agreement = [], [], []
    for _ in range(400):
        shown = [rng.sample(IDS[:4], 4) for _ in range(3)]  # an order of candidates for each pass
        slots = [[order[s] for s in (2, 0, 3, 1)] for order in shown]
        choices = [sorted(order) for order in shown]
        slot_taus.append(aggregate("p", slots).confidence)
        choice_taus.append(aggregate("p", choices).confidence)
        slot_agreement.append(agree(aggregate("p", slots), Ranking.from_order("p", "abcd")).corrected)
    assert choice_taus == [1.0] * 400
    assert abs(math.fsum(t for t in slot_taus if t is not None) / 400) < 0.05
    assert abs(math.fsum(slot_agreement) / 400) < 0.1


# Utilities --------------------------------------------------------------------------------------------------


def test_order_utilities() -> None:
    assert order_utilities(ranking("b", "c", "a")) == {"b": 2.0, "c": 1.0, "a": 0.0}
    assert order_utilities(ranking("b", "ca", "d")) == {"b": 3.0, "c": 1.5, "a": 1.5, "d": 0.0}


def test_vote_utilities() -> None:
    utilities = vote_utilities({"a": 0.5, "b": 0.5, "c": 0.0})
    assert utilities["a"] == utilities["b"] == pytest.approx(math.log(0.5 + VOTE_EPSILON))
    assert utilities["c"] == pytest.approx(math.log(VOTE_EPSILON))
    assert VOTE_EPSILON == 0.01  # as docs/method.md has it


def test_win_rates_are_shares_of_the_comparisons_with_the_others() -> None:
    """Three passes over a, b, c: a wins 1 of its 6 comparisons, b 5, c 3."""
    voted = aggregate("p", [("b", "a", "c"), ("b", "c", "a"), ("c", "b", "a")])
    assert win_rates(voted) == pytest.approx({"a": 1 / 6, "b": 5 / 6, "c": 3 / 6})
    always = aggregate("p", [("a", "b"), ("a", "b")])
    assert win_rates(always) == {"a": 1.0, "b": 0.0}
    with pytest.raises(ValueError, match="expected a ranking with votes"):
        win_rates(ranking("a", "b"))


def test_teacher_utilities_take_the_finest_there_is() -> None:
    votes = {"a": 0.75, "b": 0.25}
    passes = (("a", "b"), ("b", "a"))
    assert teacher_utilities(ranking("a", "b")) == {"a": 1.0, "b": 0.0}
    assert teacher_utilities(ranking("a", "b", votes=votes, passes=passes[:1])) == {"a": 1.0, "b": 0.0}
    assert teacher_utilities(ranking("a", "b", votes=votes, passes=passes)) == vote_utilities(votes)
    scores = {"a": 3.0, "b": -1.0}
    assert teacher_utilities(ranking("a", "b", scores=scores, votes=votes, passes=passes)) == scores


def tiers_of(order: Sequence[str], sizes: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    ends = list(itertools.accumulate(sizes))
    return tuple(tuple(order[end - size : end]) for end, size in zip(ends, sizes, strict=True))


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 2), (1, 1, 1, 1)), ((1, 3), (2, 2)), ((1, 2, 1), (2, 1, 1)), ((4,), (1, 1, 1, 1)), ((2, 1, 2), (1, 1, 3))],
)
def test_what_rankings_with_ties_have_in_common_by_chance_is_that_of_all_of_them(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    ids = [str(i) for i in range(sum(first))]
    black = Ranking(prompt_id="p", tiers=tiers_of(ids, first))
    found = [
        agree(black, Ranking(prompt_id="p", tiers=tiers_of(order, second))) for order in itertools.permutations(ids)
    ]
    assert expected_lcs_of(first, second) == pytest.approx(fmean(a.length for a in found))
    assert fmean(a.corrected for a in found) == pytest.approx(0, abs=1e-12)  # chance is never beyond chance
    assert max(a.corrected for a in found) < 1


def test_a_verdict_that_ties_everything_agrees_neither_more_nor_less_than_chance() -> None:
    white = Ranking(prompt_id="p", tiers=tiers_of("abcd", (1, 1, 1, 1)))
    assert agree(Ranking(prompt_id="p", tiers=tiers_of("abcd", (4,))), white).corrected == 0.0


def test_long_rankings_with_ties_are_drawn_and_full_orders_keep_their_law() -> None:
    assert expected_lcs_of((1,) * 6, (1,) * 6) == expected_lcs(6)
    some = expected_lcs_of((1,) * 8 + (2,), (1,) * 10)
    assert expected_lcs(9) - 0.3 < some < expected_lcs(10)
    assert expected_lcs_of((1,) * 8 + (2,), (1,) * 10) == some
    # Eight are counted, nine are drawn.
    assert expected_lcs_of((1,) * 6 + (2,), (1,) * 8) == float(chance._exact((1,) * 6 + (2,), (1,) * 8))
    drawn = expected_lcs_of((1,) * 7 + (2,), (1,) * 9)
    assert drawn == chance._drawn((1,) * 7 + (2,), (1,) * 9)
    assert drawn * chance.DRAWS == pytest.approx(round(drawn * chance.DRAWS))
    assert chance.DRAWS == 4000
    assert expected_lcs_of((9,), (1,) * 9) == 1.0  # of each draw one, no more
    with pytest.raises(ValueError, match="as many candidates, got 2 and 3"):
        expected_lcs_of((2,), (3,))


# Ties in passes, and scores -----------------------------------------------------------------------------------


WEAK = st.lists(st.integers(0, 3), min_size=4, max_size=4)  # a grade for each of a, b, c, d


def as_given(grades: list[int]) -> Given:
    return given_of(Ranking.from_scores("", dict(zip("abcd", map(float, grades), strict=True))).tiers)


@given(st.lists(WEAK, min_size=1, max_size=3))
def test_ties_count_half_and_are_no_disagreement(passes: list[list[int]]) -> None:
    found = aggregate("p", [as_given(grades) for grades in passes])
    won = {
        i: sum((g[n] > other) + 0.5 * (g[n] == other) for g in passes for m, other in enumerate(g) if m != n)
        for n, i in enumerate("abcd")
    }
    assert found.votes == pytest.approx({i: w / sum(won.values()) for i, w in won.items()})
    assert sorted(found.order) == list("abcd")

    def against(order: tuple[str, ...]) -> int:
        pairs = itertools.combinations([("abcd".index(i)) for i in order], 2)
        return sum(g[a] < g[b] for a, b in pairs for g in passes)

    least = min(map(against, itertools.permutations("abcd")))
    assert against(found.order) == least
    if len(passes) == 1:
        assert given_of(found.tiers) == as_given(passes[0])


@given(st.lists(WEAK, min_size=1, max_size=3))
def test_scores_are_averaged_and_equal_means_tied(passes: list[list[int]]) -> None:
    scorings = [dict(zip("abcd", map(float, grades), strict=True)) for grades in passes]
    found = mean_scores("p", scorings)
    assert found.scores == pytest.approx({i: sum(s[i] for s in scorings) / len(scorings) for i in "abcd"})
    places = {i: n for n, tier in enumerate(found.tiers) for i in tier}
    for a, b in itertools.combinations("abcd", 2):
        sums = [sum(s[i] for s in scorings) for i in (a, b)]
        assert (sums[0] > sums[1], sums[0] == sums[1]) == (places[a] < places[b], places[a] == places[b])
    assert found.passes == tuple(map(as_given, passes))


def test_scores_become_utilities_in_units_of_the_spread_of_all_lists() -> None:
    lists = [{"a": 9.0, "b": 7.0}, {"a": 5.0, "b": 1.0, "c": 3.0}, {"a": 4.0, "b": 4.0}]
    spread = score_spread(lists)
    assert spread == pytest.approx(math.sqrt((1 + 1 + 4 + 4 + 0 + 0 + 0) / 7))
    assert score_utilities(lists[1], spread) == pytest.approx({"a": 2 / spread, "b": -2 / spread, "c": 0.0})
    assert score_spread([lists[2]]) == score_spread([]) == 1.0
    ranking_ = Ranking.from_scores("p", lists[0])
    assert teacher_utilities(ranking_) == lists[0]
    assert teacher_utilities(ranking_, spread=0.5) == {"a": 2.0, "b": -2.0}
