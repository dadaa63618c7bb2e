"""The cascade: what is asked, what is never made up, what it saves and loses; fits by value."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import config_in, make_cycle, prompts
from numpy.typing import NDArray
from replayed import CONTEXT, PROMPT, SET, write
from scipy.optimize import minimize

from cyclealign.cli.main import main
from cyclealign.config.black_box import CascadeConfig
from cyclealign.config.schema import Config
from cyclealign.cycle.agreeing import trusted
from cyclealign.cycle.distilled_rankers import RunRankers, held_back
from cyclealign.cycle.export import preference_rows
from cyclealign.cycle.run_metrics import interaction_metrics
from cyclealign.files.jsonl import read_json, read_jsonl, write_jsonl
from cyclealign.files.records import decode, read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import CascadeFigures, CascadeFit, Summary
from cyclealign.files.run_records import VerdictRecord, read_rankings, set_record, verdict_record
from cyclealign.judge.prompting import estimate_message_tokens, estimate_tokens
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.rankers.by_name import ranker_spec
from cyclealign.rankers.cascade import CascadeRanker
from cyclealign.rankers.distilled import Distilled, distil, expected_agreement, lists_of
from cyclealign.rankers.local import LocalRanker
from cyclealign.rankers.pruning import assembled, audit_tau, audits, best_first, cascade_figures
from cyclealign.rankers.replay import ReplayRanker
from cyclealign.rankers.reply_features import ReplyFeatures
from cyclealign.rankers.utilities import taught_tiers, teacher_utilities
from cyclealign.reporting.headline import headline
from cyclealign.reporting.page import render_report
from cyclealign.reporting.ranking_charts import both_rankings
from cyclealign.types import (
    BudgetExhausted,
    Candidate,
    CandidateSet,
    Cascaded,
    Prompt,
    RankContext,
    Ranker,
    Ranking,
    Unranked,
    UserError,
)

GOOD = Distilled(weights={"x": 1.0}, lists=100, accuracy=0.8, error=0.01)


class Numbers:
    """A candidate's text is its one feature."""

    names = ("x",)

    def __call__(self, item: CandidateSet) -> NDArray[np.float64]:
        return np.array([[float(c.text)] for c in item.candidates])


class Judge:
    """Orders by the number in the text plus what ``taste`` adds; notes what it was asked about."""

    gives = "order"

    def __init__(
        self,
        taste: dict[str, float] | None = None,
        *,
        budget: int | None = None,
        end: type[Exception] = BudgetExhausted,
    ) -> None:
        self.taste = taste or {}
        self.asked: dict[str, tuple[str, ...]] = {}
        self.unranked: set[str] = set()
        self.budget = budget
        self.end = end

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            if self.budget is not None and len(self.asked) >= self.budget:
                raise self.end("no more")
            self.asked[item.prompt.id] = item.ids
            if item.prompt.id in self.unranked:
                yield Unranked(item.prompt.id, "refusal", "no", set_id=item.id)
                continue
            order = sorted(item.candidates, key=lambda c: -float(c.text) - self.taste.get(c.text, 0.0))
            votes = dict.fromkeys(item.ids, 0.1)
            yield Ranking.from_order(item.prompt.id, (c.id for c in order), votes=votes, set_id=item.id)


def item_of(numbers: Sequence[float], name: str = "p") -> CandidateSet:
    candidates = tuple(Candidate(f"c{i}", str(x)) for i, x in enumerate(numbers))
    return CandidateSet(Prompt(({"role": "user", "content": name},)), candidates)


def random_items(n: int, k: int = 6, seed: int = 0) -> list[CandidateSet]:
    chance = random.Random(seed)
    return [item_of([round(chance.gauss(0, 1), 6) for _ in range(k)], f"p{i}") for i in range(n)]


def cascade(
    judge: Ranker, *, local: Distilled | None = GOOD, sure: float | None = None, **settings: Any
) -> CascadeRanker:
    config = CascadeConfig.model_validate({"keep": 2, "audit": 1e-9} | settings)
    return CascadeRanker(judge, config, Numbers, lambda *_: local and replace(local, alone_from=sure))


def ranked(ranker: Ranker, items: Iterable[CandidateSet], context: RankContext = CONTEXT) -> dict[str, Any]:
    return {v.prompt_id: v for v in ranker.rank(iter(items), context)}


def test_the_judge_orders_the_kept_and_the_local_ranker_the_rest() -> None:
    judge = Judge({"3.0": -1.5})  # prefers 2 over 3
    verdict = ranked(cascade(judge), [item_of([0.0, 3.0, 1.0, 2.0])])[item_of([0.0]).prompt.id]
    assert list(judge.asked.values()) == [("c1", "c3")]  # in the set's own order
    assert verdict.order == ("c3", "c1", "c2", "c0")
    assert verdict.judged == ("c3", "c1")
    assert verdict.cascade == Cascaded(kept=("c1", "c3"), scores={"c0": 0.0, "c1": 3.0, "c2": 1.0, "c3": 2.0})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [2, 3, 5])
def test_properties_of_every_verdict(seed: int, keep: int) -> None:
    items = random_items(40, seed=seed)
    taste = {c.text: random.Random(c.text).gauss(0, 1) for i in items for c in i.candidates}
    whole, judge = Judge(taste), Judge(taste)
    full = ranked(whole, items)
    found = ranked(cascade(judge, keep=keep, sure=0.7, audit=0.3), items)
    assert found.keys() == full.keys()
    for item in items:
        verdict = found[item.prompt.id]
        assert sorted(verdict.order) == sorted(item.ids)  # each candidate once
        # What the judge was asked about stands as it said; nothing else counts as its word.
        asked = judge.asked.get(item.prompt.id, ())
        assert verdict.judged == tuple(i for i in full[item.prompt.id].order if i in asked)
        assert asked in ((), item.ids) or len(asked) == keep
        if 0 < len(asked) < len(item.ids):
            assert verdict.order[: len(asked)] == verdict.judged
            worst_kept = min(verdict.cascade.scores[i] for i in asked)
            assert all(verdict.cascade.scores[i] < worst_kept for i in item.ids if i not in asked)
        if not asked:
            assert expected_agreement(verdict.cascade.scores) >= 0.7
        assert decode(VerdictRecord, json.loads(json.dumps(verdict_record(verdict)))).verdict == verdict
    kinds = {(bool(v.judged), v.cascade is not None and v.cascade.audited) for v in found.values()}
    assert kinds == {(True, True), (True, False), (False, False)}


def test_what_is_asked_depends_on_the_list_alone_so_that_a_resume_asks_the_same() -> None:
    items, first, second = random_items(30), Judge(), Judge()
    settings = {"sure": 0.7, "audit": 0.3}
    all_at_once = ranked(cascade(first, **settings), items)
    later = ranked(cascade(second, **settings), reversed(items[11:]))
    assert all(all_at_once[i] == v for i, v in later.items())
    assert all(first.asked[i] == asked for i, asked in second.asked.items())


def test_equal_scores_at_the_cut_are_all_kept_and_equal_ones_below_are_tied() -> None:
    judge = Judge()
    found = ranked(cascade(judge), [item_of([1, 2, 1, 0, 0], "a"), item_of([1, 1, 1], "b")])
    assert sorted(judge.asked.values()) == [("c0", "c1", "c2"), ("c0", "c1", "c2")]
    a, b = found.values()
    assert a.tiers[-1] == ("c3", "c4")
    assert b.cascade is None


@pytest.mark.parametrize("local", [None, replace(GOOD, accuracy=0.515)])
def test_without_a_useful_local_ranker_everything_goes_to_the_judge_whole(local: Distilled | None) -> None:
    judge, items = Judge(), random_items(10)
    found = ranked(cascade(judge, local=local, sure=0.51), items)
    assert judge.asked == {i.prompt.id: i.ids for i in items}
    assert all(v.cascade is None and v.votes for v in found.values())


def test_labelled_pairs_measure_the_judge() -> None:
    judge, items = Judge(), random_items(10)
    ranked(cascade(judge, sure=0.51), items, replace(CONTEXT, purpose="eval"))
    assert judge.asked == {i.prompt.id: i.ids for i in items}


def test_a_judge_without_a_verdict_leaves_the_list_unranked() -> None:
    items = random_items(4)
    judge = Judge()
    judge.unranked = {items[1].prompt.id}
    found = ranked(cascade(judge), items)
    assert found[items[1].prompt.id] == Unranked(items[1].prompt.id, "refusal", "no")


def test_a_verdict_on_other_candidates_than_asked_is_no_verdict() -> None:
    class Partial(Judge):
        def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
            yield from (Ranking.from_order(s.prompt.id, s.ids[:1], set_id=s.id) for s in sets)

    (verdict,) = ranked(cascade(Partial()), [item_of([0, 1, 2])]).values()
    assert verdict == Unranked(verdict.prompt_id, "unusable", "asked about c1, c2, the judge ranked c1")


@pytest.mark.parametrize("end", [BudgetExhausted, UserError])
def test_a_judge_that_ends_early_keeps_what_was_answered_alone(end: type[Exception]) -> None:
    items = [item_of([0, 9, 30], "sure"), item_of([0, 0.1, 0.2], "a"), item_of([0, 9, 31], "too"), item_of([0, 1, 1.1])]
    found: list[str] = []
    verdicts = cascade(Judge(budget=1, end=end), sure=0.9).rank(iter(items), CONTEXT)
    with pytest.raises(end):
        found.extend(v.prompt_id for v in verdicts)
    assert set(found) == {i.prompt.id for i in items[:3]}


def test_what_a_loss_reads_of_a_pruned_list() -> None:
    cut = Cascaded(kept=("b", "c"), scores={"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0})
    pruned = Ranking(prompt_id="p", tiers=(("c",), ("b",), ("a",), ("d",)), cascade=cut, votes={"b": 0.4, "c": 0.6})
    assert teacher_utilities(pruned) == {"c": 3.0, "b": 2.0, "a": 0.5, "d": 0.5}
    assert taught_tiers(pruned) == (("c",), ("b",), ("a", "d"))
    item = CandidateSet(PROMPT, tuple(Candidate(i, f"text {i}") for i in "abcd"))
    exported = [
        (r["chosen"][0]["content"][-1], r["rejected"][0]["content"][-1]) for r in preference_rows(item, pruned, "all")
    ]
    assert exported == [("c", "b"), ("c", "a"), ("c", "d"), ("b", "a"), ("b", "d")]
    alone = replace(pruned, cascade=replace(cut, kept=()), votes=None)
    assert teacher_utilities(alone) == {"c": 3.0, "b": 2.0, "a": 1.0, "d": 0.0}
    audited = replace(pruned, cascade=replace(cut, audited=True), votes=None)
    assert teacher_utilities(audited) == {"c": 3.0, "b": 2.0, "a": 1.0, "d": 0.0}


# The local ranker ----------------------------------------------------------------------------------------------


class Three:
    names = ("a", "b", "constant")

    def __call__(self, item: CandidateSet) -> NDArray[np.float64]:
        return np.array([[*map(float, c.text.split()), 1.0] for c in item.candidates])


def planted(n: int, *, noise: float, seed: int = 0, k: int = 4) -> list[tuple[CandidateSet, Ranking]]:
    """Lists whose judge orders by 2a - b and logistic noise: differences of Gumbels."""
    rng = np.random.default_rng(seed)
    lists = []
    for number in range(n):
        x = rng.normal(size=(k, 2))
        texts = [f"{a} {b}" for a, b in x]
        item = CandidateSet(
            Prompt(({"role": "user", "content": str(number)},)),
            tuple(Candidate(str(i), t) for i, t in enumerate(texts)),
        )
        order = np.argsort(-(2 * x[:, 0] - x[:, 1] + noise * rng.gumbel(size=k)))
        lists.append((item, Ranking.from_order(item.prompt.id, map(str, order))))
    return lists


def test_the_fit_finds_what_the_judge_goes_by_and_how_sure_it_may_be() -> None:
    found = distil(planted(800, noise=1.0), Three())
    assert found is not None
    # Pairs of a list are not independent; the weights are consistent all the same.
    assert found.weights["a"] == pytest.approx(2.0, rel=0.1)
    assert found.weights["b"] == pytest.approx(-1.0, rel=0.1)
    assert found.weights["constant"] == 0.0
    fresh = planted(2000, noise=1.0, seed=1)
    shares, expected = [], []
    for item, ranking in fresh:
        scores = found.scores(Three(), item)
        expected.append(expected_agreement(scores))
        shares.append((1 + kendall_tau(Ranking.from_scores("", scores), ranking)) / 2)
    assert np.mean(expected) == pytest.approx(np.mean(shares), abs=0.015)
    assert found.accuracy == pytest.approx(float(np.mean(shares)), abs=3 * found.error)
    assert found.useful


def test_the_weights_minimise_the_stated_objective() -> None:
    lists = planted(30, noise=2.0)
    found = distil(lists, Three())
    assert found is not None
    x = np.array(
        [
            Three()(item)[int(a)] - Three()(item)[int(b)]
            for item, ranking in lists
            for a, b in itertools.combinations(ranking.order, 2)
        ]
    )[:, :2]
    spread = np.sqrt((x**2).mean(axis=0))
    best = minimize(lambda w: np.logaddexp(0, -(x / spread) @ w).sum() + 0.5 * w @ w, np.zeros(2), tol=1e-12).x / spread
    ours = np.array([found.weights["a"], found.weights["b"]])
    scale = ours[0] / best[0]
    assert ours == pytest.approx(scale * best, rel=1e-4)
    assert 0.3 < scale < 1.1  # what folds left out make of it


def test_a_judge_without_a_taste_teaches_nothing() -> None:
    lists = planted(60, noise=1e6)
    found = distil(lists, Three())
    assert found is not None
    assert not found.useful
    assert max(expected_agreement(found.scores(Three(), item)) for item, _ in lists) < 0.65


def test_the_order_of_the_lists_and_of_the_candidates_changes_nothing() -> None:
    lists = planted(40, noise=1.0)
    turned = [(replace(i, candidates=i.candidates[::-1]), r) for i, r in reversed(lists)]
    first, second = distil(lists, Three()), distil(turned, Three())
    assert first is not None
    assert second is not None
    assert second.weights == pytest.approx(first.weights)
    assert Distilled.from_record(first.record()) == first


def test_only_what_the_judge_said_is_learned_from() -> None:
    lists = planted(40, noise=0.5)
    wrong = []
    for item, ranking in lists:
        cut = Cascaded(kept=ranking.order[:2], scores=dict.fromkeys(item.ids, 0.0))
        upside_down = ranking.order[:2] + ranking.order[2:][::-1]
        wrong.append((item, Ranking.from_order(item.prompt.id, upside_down, cascade=cut)))
    pairs = [(i, Ranking.from_order(i.prompt.id, r.order[:2])) for i, r in lists]
    assert distil(wrong, Three()) == distil(pairs, Three())
    alone = [(i, replace(r, cascade=Cascaded(kept=(), scores={}))) for i, r in lists]
    assert distil(alone, Three()) is None
    assert lists_of({i.prompt.id: i for i, _ in alone}, {r.prompt_id: r for _, r in alone}) == []


def test_separable_pairs_do_not_break_the_fit() -> None:
    found = distil(planted(30, noise=0.0), Three())
    assert found is not None
    assert found.accuracy > 0.9
    assert all(map(math.isfinite, found.weights.values()))


def test_features_by_hand_and_whatever_the_order() -> None:
    features = ReplyFeatures()
    texts = ("Water plants twice a week.", "Yes", "1\n2\n3", "plants plants Plants")
    item = CandidateSet(
        PROMPT, tuple(Candidate(str(i), t, "length" if i == 1 else "stop") for i, t in enumerate(texts))
    )
    rows = features(item)
    assert rows.shape == (4, len(features.names))
    assert features(replace(item, candidates=item.candidates[::-1])) == pytest.approx(rows[::-1], abs=1e-6)
    by_name = dict(zip(features.names, rows.T, strict=True))
    assert by_name["log_words"].tolist() == [math.log1p(n) for n in (5, 1, 3, 3)]
    assert by_name["cut_off"].tolist() == [0, 1, 0, 0]
    assert by_name["ends_sentence"].tolist() == [1, 0, 0, 0]
    assert by_name["distinct_words"].tolist() == [1, 1, 1, 2 / 3]
    assert by_name["log_digits"][2] == math.log1p(3)
    assert by_name["coverage"].tolist() == pytest.approx([1 / 3, 0, 0, 1 / 5 / 3])
    scores = LocalRanker().score([(PROMPT.messages, t) for t in texts])
    scale = (scores[0] - rows[0, 8] - rows[0, 9]) / rows[0, 7]
    assert [scale * r[7] + r[8] + r[9] for r in rows] == pytest.approx(scores, rel=1e-4)
    alone = features(replace(item, candidates=item.candidates[:1]))
    assert np.array_equal(alone[0, -2:], [0, 0])


# Savings and losses --------------------------------------------------------------------------------------------


def test_figures_of_an_interaction_by_hand() -> None:
    items = {n: item_of([3.0, 2.0, 1.0, 0.0], n) for n in ("whole", "pruned", "alone", "audited")}
    ids = {n: i.prompt.id for n, i in items.items()}
    scores = {"c0": 3.0, "c1": 2.0, "c2": 1.0, "c3": 0.0}
    judge = ("c2", "c1", "c0", "c3")

    def cut(kept: tuple[str, ...], *, audited: bool = False) -> Cascaded:
        return Cascaded(kept=kept, scores=scores, audited=audited)

    rankings = [
        Ranking.from_order(ids["whole"], judge),
        Ranking.from_order(ids["pruned"], ("c1", "c0", "c2", "c3"), cascade=cut(("c0", "c1"))),
        Ranking.from_order(ids["alone"], ("c0", "c1", "c2", "c3"), cascade=cut(())),
        Ranking.from_order(ids["audited"], judge, cascade=cut(("c0", "c1"), audited=True)),
    ]
    found = cascade_figures({i.prompt.id: i for i in items.values()}, rankings, passes=2)
    candidate = estimate_tokens("0.0")
    chat = estimate_message_tokens(items["alone"].prompt.messages)
    assert found is not None
    assert found.tau == pytest.approx(1 - 2 * 2 / 6)  # c1 c0 c2 c3 against c2 c1 c0 c3: two pairs of six
    saved = 2 * (2 * candidate + 4 * candidate + chat)
    counts = {"whole": 1, "pruned": 1, "alone": 1, "audited": 1, "calls_saved": 2, "tokens_saved": saved}
    assert found == CascadeFigures(**counts, tau=found.tau, best_first=0.0)
    assert cascade_figures({}, rankings[:1], passes=2) is None
    (pair,) = audits(rankings)
    assert pair[0].order == ("c1", "c0", "c2", "c3")
    assert audit_tau((pair[1], pair[1])) == best_first((pair[1], pair[1])) == 1.0


def test_tiers_of_the_judge_that_hold_pruned_ones_are_cut() -> None:
    cut = Cascaded(kept=("a", "b"), scores={"a": 2.0, "b": 1.0, "c": 0.5, "d": 0.5})
    assert assembled((("c", "b"), ("d",), ("a",)), cut) == (("b",), ("a",), ("c", "d"))


# A run -----------------------------------------------------------------------------------------------------------


def config_with(folder: Path, **settings: Any) -> Config:
    black_box = {"backend": "cascade", "model": "judge", "cascade": {"keep": 2, **settings}}
    config = config_in(folder, cycle={"max_interactions": 2, "batch_size": 40}, loss={"name": "rrhf"})
    return Config.model_validate(config.model_dump() | {"black_box": black_box})


class ByHash:
    """A feature that says exactly how the fakes' ranker orders."""

    names = ("hash",)

    def __call__(self, item: CandidateSet) -> NDArray[np.float64]:
        from cyclealign.types import sha256_hex

        return np.array([[int(sha256_hex(c.text)[:6], 16) / 1e7] for c in item.candidates])


def test_a_run_prunes_from_its_second_interaction_on_and_reports_it(tmp_path: Path) -> None:
    config = config_with(tmp_path, warm_up=30, audit=0.3)
    cycle = make_cycle(config, n_prompts=40)
    assert config.black_box.cascade is not None
    fits = RunRankers(cycle.run_dir, config.black_box.cascade)
    ranker = CascadeRanker(cycle.parts.black_box, config.black_box.cascade, ByHash, fits)
    cycle.parts = replace(cycle.parts, black_box=ranker)
    cycle.run()
    first, second = cycle.run_dir.interaction(0), cycle.run_dir.interaction(1)
    assert read_record(CascadeFit, first.cascade) == CascadeFit(useful=False)
    assert all(r.cascade is None for r in read_rankings(first.black_box).values())
    fit = read_record(CascadeFit, second.cascade)
    assert fit.useful
    assert fit.lists == 40
    rankings = read_rankings(second.black_box)
    assert {len(r.judged) for r in rankings.values()} == {2, 4}
    figures = read_record(Summary, second.summary).cascade
    assert figures is not None
    assert figures.pruned + figures.audited == len(rankings)
    assert figures.tau == figures.best_first == 1.0
    assert read_record(Summary, first.summary).cascade is None
    assert interaction_metrics(cycle.run_dir, 1)["cycle/cascade_pruned"] == figures.pruned
    # Demonstrations are only made of lists that the judge saw whole.
    shown = {r["source"] for r in read_jsonl(second.demonstrations)}
    assert shown <= {"0", "1"}
    whole = {i for i, r in rankings.items() if len(r.judged) == 4}
    from cyclealign.cycle.agreeing import agreements
    from cyclealign.cycle.interaction import Interaction

    it = Interaction(1, 0, 1, prompts(40), second)
    assert {a.prompt_id for a in trusted(it, agreements(it))} <= whole
    text = headline(cycle.run_dir).cascade
    assert f"{figures.pruned} lists pruned, 0 answered alone" in text
    assert f"on {figures.audited} audited lists tau 1.00" in text
    page = render_report(cycle.run_dir)
    assert "answered alone" in page
    assert "pruned by the cascade" in page
    assert len(both_rankings(second)) == len(whole)


def test_weights_on_disk_are_what_a_resumed_interaction_uses(tmp_path: Path) -> None:
    config = config_with(tmp_path, warm_up=30)
    cycle = make_cycle(config, n_prompts=40)
    assert config.black_box.cascade is not None
    fits = RunRankers(cycle.run_dir, config.black_box.cascade)
    cycle.run()
    kept = fits(1, ByHash())
    cycle.run_dir.interaction(0).black_box.unlink()
    assert fits(1, ByHash()) == kept is not None


def test_a_config_that_could_not_work_is_refused(tmp_path: Path) -> None:
    for wrong, said in (
        ({"backend": "cascade", "model": "m"}, "cascade: needed for backend cascade"),
        ({"backend": "local", "cascade": {"keep": 2}}, "cascade: needed for backend cascade and for no other"),
        ({"backend": "cascade", "cascade": {"keep": 2}}, "model: needed for backend openai"),
        ({"backend": "cascade", "cascade": {"judge": "replay", "keep": 2}}, "path: needed for backend replay"),
        ({"backend": "cascade", "model": "m", "cascade": {"keep": 4}}, "keep: 4 of 4 candidates prunes nothing"),
        ({"backend": "cascade", "model": "m", "cascade": {"keep": 2, "audit": 0}}, "greater than 0"),
        ({"backend": "cascade", "model": "m", "cascade": {}}, "keep: without it and without min_agreement nothing"),
    ):
        with pytest.raises(ValueError, match=said):
            Config.model_validate(config_in(tmp_path).model_dump() | {"black_box": wrong})
    config = config_in(tmp_path).model_dump() | {"loss": {"name": "margin_mse"}}
    box = {"backend": "cascade", "model": "m", "passes": 2, "cascade": {"keep": 2}}
    with pytest.raises(ValueError, match="margin_mse needs magnitudes, but a cascade gives an order alone"):
        Config.model_validate(config | {"black_box": box})


# Replay ----------------------------------------------------------------------------------------------------------


def test_replay_gives_the_order_of_a_part_only_where_it_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": PROMPT.id, "scores": {"good": 3, "fair": 2, "bad": 1}})
    part = replace(SET, candidates=SET.candidates[:2])
    (verdict,) = ReplayRanker(path, parts=True).rank([part], CONTEXT)
    assert verdict == Ranking.from_order(PROMPT.id, ("1", "0"))
    (verdict,) = ReplayRanker(path).rank([part], CONTEXT)
    assert isinstance(verdict, Unranked)


def test_a_replayed_cascade_stays_one(tmp_path: Path) -> None:
    cut = Cascaded(kept=("1", "2"), scores={"0": 0.0, "1": 2.0, "2": 1.0})
    ranking = Ranking.from_order(PROMPT.id, ("1", "2", "0"), votes={"1": 0.5, "2": 0.5}, cascade=cut)
    path = write(tmp_path / "r.jsonl", verdict_record(ranking))
    (verdict,) = ReplayRanker(path).rank([SET], CONTEXT)
    assert verdict == ranking
    part = replace(SET, candidates=SET.candidates[:2])  # of which one was never judged
    (unknown,) = ReplayRanker(path, parts=True).rank([part], CONTEXT)
    assert isinstance(unknown, Unranked)
    bad = write(tmp_path / "bad.jsonl", verdict_record(ranking) | {"cascade": {"kept": ["1"]}})
    with pytest.raises(UserError, match=r"bad\.jsonl:1: cascade: expected kept, scores"):
        ReplayRanker(bad)
    words = {"kept": ["1"], "scores": {"0": "low", "1": 2.0, "2": 1.0}, "audited": False}
    bad = write(tmp_path / "bad.jsonl", verdict_record(ranking) | {"votes": {"1": 1.0}, "cascade": words})
    with pytest.raises(UserError, match=r"bad\.jsonl:1: cascade: expected kept, scores"):
        ReplayRanker(bad)


def test_a_replayed_judge_of_a_cascade_says_what_the_recorded_judge_said_and_no_more(tmp_path: Path) -> None:
    cut = Cascaded(kept=("1", "2"), scores={"0": 0.0, "1": 2.0, "2": 1.0})
    ranking = Ranking.from_order(PROMPT.id, ("1", "2", "0"), votes={"1": 0.75, "2": 0.25}, cascade=cut)
    path = write(tmp_path / "r.jsonl", verdict_record(ranking))
    judge = ReplayRanker(path, parts=True)
    (kept,) = judge.rank([replace(SET, candidates=SET.candidates[1:])], CONTEXT)
    assert kept == Ranking.from_order(PROMPT.id, ("1", "2"), votes={"1": 0.75, "2": 0.25})
    (whole,) = judge.rank([SET], CONTEXT)  # else an audit would measure the cascade against itself
    assert isinstance(whole, Unranked)
    audited = replace(ranking, votes=None, cascade=replace(cut, audited=True))
    path = write(tmp_path / "r.jsonl", verdict_record(audited))
    (whole,) = ReplayRanker(path, parts=True).rank([SET], CONTEXT)
    assert whole == Ranking.from_order(PROMPT.id, ("1", "2", "0"))
    alone = replace(audited, cascade=replace(cut, kept=()))
    path = write(tmp_path / "r.jsonl", verdict_record(alone))
    (nothing,) = ReplayRanker(path, parts=True).rank([SET], CONTEXT)
    assert isinstance(nothing, Unranked)


def test_outside_of_a_run_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(UserError, match="it learns from a run's own rankings"):
        ranker_spec("openai:judge", ["backend=cascade", "cascade={keep: 2}"])
    with pytest.raises(UserError, match="--ranker cascade: expected cascade:RUN"):
        ranker_spec("cascade")


def test_what_a_run_has_distilled_ranks_and_is_measured_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"q{n}", "chosen": "longer than that " * 3, "rejected": "short"} for n in range(3)]
    write(Path("pairs.jsonl"), *pairs)
    evaluated = ["eval", "ranker", "pairs.jsonl", "--ranker", "cascade:run"]
    for number, weight in enumerate((-1.0, 2.0)):  # the last fit counts
        weights = dict.fromkeys(ReplyFeatures.names, 0.0) | {"log_words": weight}
        folder = Path(f"run/interactions/000{number}")
        folder.mkdir(parents=True)
        assert main(evaluated) == (0 if number else 2)
        write_record(folder / "cascade.json", replace(GOOD, weights=weights).record())
    assert "no local ranker there" in capsys.readouterr().err
    assert main(evaluated) == 0
    result = read_json(Path("eval_ranker.json"))
    assert result["metrics"]["accuracy"]["value"] == 1.0
    margins = [item["scores"]["chosen"] - item["scores"]["rejected"] for item in result["items"]]
    assert margins == pytest.approx([2 * (math.log1p(9) - math.log1p(1))] * 3)


# A stated agreement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "alone"), [(0.1, True), (1e-9, False)])
def test_half_of_the_prompts_calibrate_the_local_ranker_and_are_never_fitted_on(
    tmp_path: Path, alpha: float, alone: bool
) -> None:
    """The judge goes by the number, and the local ranker sees it; whether that is shown is a matter of alpha."""
    config = CascadeConfig(min_agreement=0.9, alpha=alpha, calibration=50, warm_up=30)
    items, run = random_items(130, k=4), RunDir(tmp_path)
    held = [item for item in items if held_back(item)]
    assert 50 <= len(held) <= 80
    write_jsonl(run.interaction(0).candidates, [set_record(item) for item in items])
    write_jsonl(run.interaction(0).black_box, [verdict_record(v) for v in Judge().rank(items, CONTEXT)])
    found = RunRankers(run, config)(1, Numbers())
    assert found is not None
    assert found.lists == len(items) - len(held)
    assert found.calibration == 50
    assert (found.alone_from is not None) == alone
    assert Distilled.from_record(read_record(CascadeFit, run.interaction(1).cascade)) == found


def test_lists_that_the_judge_did_not_rank_whole_calibrate_nothing(tmp_path: Path) -> None:
    config = CascadeConfig(keep=2, min_agreement=0.9, calibration=50, warm_up=30)
    items, run = random_items(130, k=4), RunDir(tmp_path)
    write_jsonl(run.interaction(0).candidates, [set_record(item) for item in items])
    pruned = ranked(cascade(Judge()), items).values()
    write_jsonl(run.interaction(0).black_box, [verdict_record(v) for v in pruned])
    found = RunRankers(run, config)(1, Numbers())
    assert found is not None
    assert found.alone_from is found.calibration is None
