"""The witness rule by value, in simulated runs, and in a run whose ranker loves a word."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeGenerator, FakeTrainer, Fuse, config_in, make_cycle, prompts
from report_run import metrics
from scipy.special import ndtri, stdtrit

from cyclealign.config.schema import DriftConfig
from cyclealign.cycle.drift import kept_interaction
from cyclealign.cycle.witness import ScoringWitness
from cyclealign.cycle.witness_rule import look, witness_fell
from cyclealign.evaluation.halves import Halves
from cyclealign.evaluation.statistics import paired_difference
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Accuracy, Metrics
from cyclealign.rankers.scored import Pair, ScoreRanker
from cyclealign.reporting.page import render_report
from cyclealign.types import Candidate, CandidateSet, PolicyVersion, Prompt

ASKED = list(prompts(40, "held out"))
HALVES = Halves.of(ASKED)
CHOOSING = HALVES.choosing(p.id for p in ASKED)
NOISE = [0.3, -0.2, 0.1, -0.4, 0.2]


def run_of(witness: Sequence[float], ranker: Sequence[float] | None = None) -> dict[int, Metrics]:
    """Evaluations whose mean witness scores and ranker gains are these; some noise that differs by evaluation."""
    found = {}
    for n, mean in enumerate(witness):
        noise = [NOISE[(i // 2 + n) % 5] for i in range(len(ASKED))]  # sums to 0 over both halves
        measured = metrics(n, {p.id: mean + e for p, e in zip(ASKED, noise, strict=True)}, ASKED)
        gains = None if ranker is None else dict.fromkeys(CHOOSING, ranker[n])
        found[n] = replace(measured, ranker_by_prompt=gains)
    return found


RISING = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("witness", "ranker", "ends"),
    [
        ([0.0, 1.0, 2.0, 0.5, 0.4, 0.3], RISING, [4, 5]),
        ([0.0, 1.0, 2.0, 0.5, 2.0, 0.3], RISING, []),  # not twice in a row
        ([0.0, 1.0, 2.0, 0.5, 2.1, 0.3], RISING, []),
        ([0.0, -1.0, -1.0, -1.0, 0.0, 0.0], RISING, [2, 3]),  # the start model is the best
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], RISING, []),
        ([0.0, 1.0, 2.0, 0.5, 0.4, 0.3], [0.0, 1.0, 2.0, 1.9, 1.8, 1.7], []),  # the ranker falls, too
        ([0.0, 1.0, 2.0, 0.5, 0.4, 0.3], [0.0, 1.0, 2.0, 2.0, 2.0, 2.0], []),
        ([0.0, 1.0, 2.0, 0.5, 0.4, 0.3], [0.0, 0.9, 1.0, 1.0, 1.0, 1.0], [4, 5]),  # it wins everywhere: none is higher
        ([0.0, 1.0, 2.0, 0.5, 0.4, 0.3], None, []),
        ([0.0, 1.0, 2.0, 1.95, 1.95, 1.95], RISING, []),  # within the noise
    ],
)
def test_two_falls_in_a_row_under_a_ranker_that_rises(
    witness: Sequence[float], ranker: Sequence[float] | None, ends: list[int]
) -> None:
    evaluations = run_of(witness, ranker)
    found = [n for n in evaluations if witness_fell({m: evaluations[m] for m in range(n + 1)}, n, HALVES)]
    assert found == ends


def test_a_look_by_value() -> None:
    """Against the best on the choosing half, with Student's interval at 1 - 0.05 / pairs."""
    evaluations = run_of([0.0, 1.0, 2.0, 0.5], RISING)
    found = look(evaluations, 3, HALVES)
    assert found is not None
    assert (found.best, found.pairs, found.ranker, found.ranker_best) == (2, 6, 3.0, 2.0)
    gains = [evaluations[3].rewards[i] - evaluations[2].rewards[i] for i in CHOOSING]
    mean = sum(gains) / 20
    spread = (sum((g - mean) ** 2 for g in gains) / 19) ** 0.5
    half = stdtrit(19, 1 - 0.05 / 12) * spread / 20**0.5
    assert found.change.interval == pytest.approx((mean - half, mean + half))
    assert mean == pytest.approx(-1.5)


def test_only_the_half_that_chooses_is_looked_at() -> None:
    evaluations = run_of([0.0, 1.0, 2.0, 2.0, 2.0], RISING)
    for n in (3, 4):  # on the reporting half it falls
        rewards = {i: v - (0 if i in CHOOSING else 9) for i, v in evaluations[n].rewards.items()}
        evaluations[n] = replace(evaluations[n], reward_by_prompt=rewards)
    assert witness_fell(evaluations, 4, HALVES) is None


@pytest.mark.parametrize("values", [(0.0, 0.5, 1.0), (0.1, 0.2, 0.9)])
def test_an_interval_of_another_level(values: tuple[float, ...]) -> None:
    first, second = list(values) * 8, [*values[1:], values[0]] * 8
    plain, wide = (paired_difference(first, second, level=level) for level in (0.95, 0.99))
    assert plain == paired_difference(first, second)
    assert plain is not None and wide is not None  # noqa: PT018
    assert plain.low is not None and plain.high is not None and wide.low is not None and wide.high is not None  # noqa: PT018
    quantiles = [ndtri(0.995), ndtri(0.975)] if 0.5 in values else [stdtrit(23, 0.995), stdtrit(23, 0.975)]
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(quantiles[0] / quantiles[1])


@pytest.mark.parametrize("judged", [False, True])
def test_of_200_runs_whose_witness_does_not_move_few_are_stopped(judged: bool) -> None:
    """Ten interactions, under a ranker that always rises; ``evals/policies/witness_rule.py`` has more of them."""
    stopped = 0
    for seed in range(200):
        draw = random.Random(seed)
        worth = [draw.gauss(0, 1) for _ in ASKED]
        evaluations: dict[int, Metrics] = {}
        for n in range(11):
            if judged:
                values = [draw.choice((0.0, 0.5, 1.0)) if n else 0.5 for _ in ASKED]
            else:
                values = [w + draw.gauss(0, 1) for w in worth]
            measured = metrics(n, {p.id: v for p, v in zip(ASKED, values, strict=True)}, ASKED)
            evaluations[n] = replace(measured, ranker_by_prompt=dict.fromkeys(CHOOSING, float(n)))
            if witness_fell(evaluations, n, HALVES):
                stopped += 1
                break
    assert stopped <= 10


# What is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "kept"), [("best", 1), ("within_limits", 3), ("last", 4)])
def test_the_rules_by_value(rule: str, kept: int) -> None:
    evaluations = run_of([0.0, 2.0, 1.0, 1.0, 5.0])
    evaluations[4] = replace(evaluations[4], nll_start=9.0)  # far beyond the limit
    found, why = kept_interaction(rule, DriftConfig(max_nll_rise=0.5), evaluations, 4)  # type: ignore[arg-type]
    assert found == kept
    assert ("by-hand" in why) == (rule == "best")


@pytest.mark.parametrize("rule", ["best", "within_limits"])
def test_labels_never_choose(rule: str) -> None:
    evaluations = run_of([0.0, 2.0, 1.0])
    labelled = {
        n: replace(m, black_box_accuracy=Accuracy(accuracy=float(n == 0), ranked=9, asked=9))
        for n, m in evaluations.items()
    }
    limits = DriftConfig()
    assert kept_interaction(rule, limits, labelled, 2) == kept_interaction(rule, limits, evaluations, 2)  # type: ignore[arg-type]


# A planted fault ------------------------------------------------------------------------------------------------

SENSE = {0: 2, 1: 4, 2: 6, 3: 3, 4: 2, 5: 1}  # words that answer, after so many interactions; then ever fewer


class Flatterer(FakeGenerator):
    """Says "lovely" once more with every interaction, and from the third on answers less and less."""

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        trained = 0 if version.name.endswith("start") else int(version.name.rpartition("-v")[2])
        self.versions.append(version.name)
        for prompt in prompts:
            draw = random.Random(f"{prompt.id} {seed} {trained}")
            texts = [
                " ".join(
                    ["lovely"] * (trained + draw.randint(0, 1))
                    + ["sense"] * max(SENSE[trained] + draw.randint(-1, 1), 0)
                    + [str(i)]
                )
                for i in range(self.k)
            ]
            yield CandidateSet(prompt, tuple(Candidate(str(i), t) for i, t in enumerate(texts)), self.k)


class Counts:
    """Scores a reply by how often it says a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [float(reply.split().count(self.word)) for _, reply in pairs]


class Calm(FakeTrainer):
    def nll(self, pairs: Sequence[tuple[Prompt, str]], *, start_model: bool = False) -> list[float]:
        return [2.0] * len(pairs)


def flattered(tmp_path: Path, drift: Mapping[str, object] | None = None) -> RunDir:
    """A run whose ranker loves the word, watched by who counts what makes sense."""
    config = config_in(tmp_path, cycle={"max_interactions": 5}, drift=dict(drift or {}))
    cycle = make_cycle(config, n_prompts=5, eval_prompts=40)
    cycle.parts = replace(
        cycle.parts,
        generator=Flatterer(4, Fuse(None)),
        black_box=ScoreRanker(Counts("lovely")),
        white_box=Calm(Fuse(None)),
        evaluator=replace(cycle.parts.evaluator, witness=ScoringWitness("sense", Counts("sense"))),
    )
    cycle.policy = type(cycle.policy)(cycle.run_dir, config.name, cycle.parts.white_box, "start-model")
    cycle.run()
    return cycle.run_dir


def test_a_ranker_that_loves_a_word_is_seen_through(tmp_path: Path) -> None:
    run = flattered(tmp_path)
    kept = run.kept()
    assert kept is not None
    assert (kept.trained, kept.of) == (2, 4)  # fell after the third, and after the fourth again
    assert kept.stopped is not None
    assert "the witness (sense) stands" in kept.stopped
    assert "below its best, that after 2 interactions" in kept.stopped
    page = render_report(run)
    assert "finished early: the witness (sense)" in page
    assert "best (auto, with a witness)" not in page  # this run's config was never written
    assert "Witness and ranker" in page
    assert "witness (sense)" in page
    assert "ranker (local)" in page


@pytest.mark.parametrize(("keep", "kept"), [("within_limits", 5), ("last", 5)])
def test_where_the_witness_only_reports_it_ends_nothing(tmp_path: Path, keep: str, kept: int) -> None:
    found = flattered(tmp_path, {"keep": keep}).kept()
    assert found is not None
    assert (found.trained, found.of, found.stopped) == (kept, 5, None)
