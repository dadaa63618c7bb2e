"""The search finds a planted best set over a real server, within its calls, and goes on where it was killed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback
from planted_judge import PlantedJudge, planted_pairs, planted_pool
from processes import finish, kill_after, start

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.curation.accuracy import Paid
from cyclealign.curation.asking import Question, judge
from cyclealign.curation.metering import MeteredLedger
from cyclealign.curation.pricing import largest, question_tokens
from cyclealign.curation.search import LinearModel, Method, SearchPlan, search
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.evaluation.statistics import share
from cyclealign.judge.template import load_template
from cyclealign.types import UserError

VALUES = {1: 2.0, 4: 1.6, 0: 0.4, 5: -0.8}
PLANTED = PlantedJudge(VALUES, base=-0.5)
POOL = planted_pool(6)
PAIRS = labelled_pairs(planted_pairs(120), None)


def plan(method: Method, calls: int, size: int = 2, passes: int = 1) -> SearchPlan:
    return SearchPlan(pool=POOL, size=size, calls=calls, passes=passes, method=method, seed=3)


@pytest.mark.parametrize(("method", "passes"), [("greedy", 1), ("bandit", 1), ("greedy", 2)])
def test_the_planted_set_is_found_within_the_calls(tmp_path: Path, method: Method, passes: int) -> None:
    best, accuracy = PLANTED.best(6, 2)
    assert best == (1, 4)
    assert accuracy > PLANTED.mean(6, 2) + 0.25
    calls = 400 * passes
    with Loopback(judge=PLANTED) as server, MeteredLedger(tmp_path / "l.sqlite", most_calls=calls) as ledger:
        box = BlackBoxConfig(model="judge", base_url=server.url, passes=passes)
        found = search(plan(method, calls, passes=passes), PAIRS, judge(box, ledger, seed=3), ledger)
        assert len(server.requests) <= calls
        with MeteredLedger(ledger.path, most_calls=calls) as again:  # all is on the ledger
            second = search(plan(method, calls, passes=passes), PAIRS, judge(box, again, seed=3), again)
        assert len(server.requests) == found.paid.calls == len(set(server.counts()))
    assert found.chosen == (POOL[1].id, POOL[4].id)
    reporting = range(1, 101, 2)
    assert found.shown.accuracy.estimate == share(sum(PLANTED.right(i, best) for i in reporting), 50)
    assert found.bare.accuracy.estimate == share(sum(PLANTED.right(i, ()) for i in reporting), 50)
    assert second == replace(found, paid=Paid(0, 0.0))


def test_pairs_of_the_choice_are_not_reported_on(tmp_path: Path) -> None:
    with Loopback(judge=PLANTED) as server, MeteredLedger(tmp_path / "l.sqlite", most_calls=200) as ledger:
        box = BlackBoxConfig(model="judge", base_url=server.url)
        found = search(plan("greedy", 200), PAIRS, judge(box, ledger, seed=3), ledger)
        twice = [p for p in PAIRS for _ in range(2)]  # every other line is of the choice, and of the report
        with MeteredLedger(ledger.path, most_calls=200) as again:
            doubled = search(plan("greedy", 200), twice, judge(box, again, seed=3), again)
    assert doubled == replace(found, paid=Paid(0, 0.0))
    assert {p.prompt.id for p in found.pairs} <= {p.prompt.id for p in PAIRS[1::2]}
    assert found.calls - found.choosing == 2 * len(found.pairs)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (plan("greedy", 400, size=6), "expected 1 to 5 of 6"),
        (plan("greedy", 400, size=0), "expected 1 to 5 of 6"),
        (plan("bandit", 90), "too few to tell 6 demonstrations apart; at least 99"),
    ],
)
def test_what_cannot_be_searched_is_refused(made: SearchPlan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made.check(PAIRS)
    with pytest.raises(UserError, match="pairs of at least 8 prompts, got"):
        plan("greedy", 400).check(PAIRS[:7])


def test_the_linear_model_is_ridge_regression() -> None:
    """Posterior mean against the normal equations written out."""
    model, draws = LinearModel(3, 2), np.random.default_rng(0)
    rows, values = [], []
    for _ in range(30):
        subset, pair, value = (
            tuple(sorted(draws.choice(3, 2, replace=False).tolist())),
            int(draws.integers(2)),
            float(draws.integers(2)),
        )
        model.learn(subset, pair, value)
        row = np.zeros(6)
        row[[*subset, 3 + pair, 5]] = 1
        rows.append(row)
        values.append(value)
    x, y = np.array(rows), np.array(values)
    prior = np.diag([1 / 0.15**2] * 3 + [1 / 0.3**2] * 2 + [1.0])
    expected = np.linalg.solve(x.T @ x / 0.25 + prior, x.T @ y / 0.25 + prior @ np.array([0, 0, 0, 0, 0, 0.5]))
    mean, covariance = model.posterior()
    np.testing.assert_allclose(mean, expected[:3])
    np.testing.assert_allclose(covariance, np.linalg.inv(x.T @ x / 0.25 + prior)[:3, :3])


def test_the_largest_question_is_the_largest() -> None:
    template = load_template("rank")
    top = question_tokens(largest(POOL, 2, PAIRS, template), template)
    assert all(top >= question_tokens(Question(p, POOL[i : i + 2]), template) for p in PAIRS for i in range(5))


def test_a_killed_search_goes_on_and_pays_for_no_call_twice(tmp_path: Path) -> None:
    """The command itself, killed in the middle; the second start ends as an undisturbed one does."""
    from cyclealign.files.jsonl import write_jsonl
    from cyclealign.judge.demonstration_files import load_demonstrations, save_demonstrations

    save_demonstrations(tmp_path / "pool.jsonl", POOL)
    rows = [
        {"prompt": p.messages[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in planted_pairs(120)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    with Loopback(judge=PLANTED, delay=0.01) as server:

        def search(name: str) -> subprocess.Popen[str]:
            command = [
                *("demos", "search", "pool.jsonl", "pairs.jsonl"),
                *("--ranker", "openai:judge", "--size", "2", "--calls", "300", "--out", f"{name}.jsonl"),
                *("--ledger", f"{name}.sqlite", "--result", f"{name}.json"),
                *(f"base_url={server.url}", "max_concurrency=4"),
            ]
            return start(*command, folder=tmp_path)

        kill_after(search("first"), 80, server)
        assert not (tmp_path / "first.jsonl").exists()
        before = len(server.requests)
        assert 80 <= before < 290
        assert finish(search("first"))[0] == 0
        repeated = sum(n - 1 for n in server.counts().values())
        first = len(server.requests)
        assert finish(search("second"))[0] == 0
    assert repeated <= 4  # those in flight when it was killed
    assert first <= 300
    chosen = load_demonstrations(tmp_path / "first.jsonl")
    assert chosen == load_demonstrations(tmp_path / "second.jsonl")
    assert [d.id for d in chosen] == [POOL[1].id, POOL[4].id]
