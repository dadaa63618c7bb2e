"""A run whose judge gives scores or first tokens: what they teach, what resumes, what the report shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import grader, likely, said
from fakes import FakeTrainer, config_in, make_cycle
from loopback import Body, Judge, Loopback, shown, text_hash

from cyclealign.cycle.loop import Loop
from cyclealign.files.run_records import read_rankings, read_sets
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.losses.base import RankedScores
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.reporting.page import render_report
from cyclealign.types import RunStopped


def grade(text: str) -> int:
    return 1 + int(text_hash(text)[:4], 16) % 10


def by_grade(body: Body) -> list[tuple[str, float]]:
    return likely(body, grade)


@contextmanager
def run_of(tmp_path: Path, server: Loopback, loss: str, n: int = 6, **more: Any) -> Iterator[Loop]:
    box = {"backend": "openai", "model": "m", "base_url": server.url} | more
    cycle = {"batch_size": n, "max_interactions": 2}
    config = config_in(tmp_path, black_box=box, loss={"name": loss}, cycle=cycle)
    with Ledger(tmp_path / "t" / "ledger.sqlite") as ledger:
        made = make_cycle(config, n_prompts=n)
        made.parts = replace(made.parts, black_box=BlackBoxRanker(config.black_box, load_template("rank"), ledger))
        yield made


def check_fed(made: Loop, examples: FakeTrainer) -> None:
    """Every list moves the student where the loss is not at its minimum."""
    for example in examples.fitted:
        student = torch.linspace(-1, 1, len(example.teacher), requires_grad=True)
        teacher = torch.tensor([example.teacher], dtype=torch.float64)
        bundle = RankedScores(student=student[None], teacher=teacher, valid=torch.ones_like(teacher, dtype=torch.bool))
        output = made.config.loss(bundle)
        output.loss.backward()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().max() > 0


@pytest.mark.parametrize("loss", ["pro", "pld", "margin_mse", "mse", "kl"])
@pytest.mark.parametrize(
    "more", [{"answer": "scores"}, {"answer": "first_token"}, {"answer": "scores", "scale": 2.0, "explain": True}],
    ids=["scores", "first", "scale"],
)  # fmt: skip
def test_magnitudes_at_one_pass_teach(tmp_path: Path, loss: str, more: dict[str, Any]) -> None:
    with Loopback(judge=grader(grade), firsts=by_grade) as server:
        with run_of(tmp_path, server, loss, **more) as made:
            made.run()
            trainer = made.parts.white_box
        paid = len(server.requests)
        with run_of(tmp_path, server, loss, **more) as again:
            again.run()
        assert len(server.requests) == paid
    assert isinstance(trainer, FakeTrainer)
    check_fed(made, trainer)
    before = 0
    seen: list[float] = []
    for interaction in made.run_dir.interactions():
        black, sets = read_rankings(interaction.black_box), read_sets(interaction.candidates)
        assert all(ranking.scores is not None for ranking in black.values())
        centred = {}
        for prompt_id, ranking in black.items():
            own = dict(ranking.scores or {})
            if more["answer"] == "scores":
                assert own == {c.id: grade(c.text) for c in sets[prompt_id].candidates}
            mean = math.fsum(own.values()) / len(own)
            centred[prompt_id] = [own[c.id] - mean for c in sets[prompt_id].candidates]
            seen += centred[prompt_id]
        spread = more.get("scale") or math.sqrt(math.fsum(c * c for c in seen) / len(seen))
        for example in trainer.fitted[before : before + len(black)]:
            assert example.teacher == pytest.approx([c / spread for c in centred[example.prompt_id]])
        before += len(black)
    assert before == len(trainer.fitted)


def test_the_report_shows_scores_ties_and_reasons(tmp_path: Path) -> None:
    server = Loopback(judge=grader(grade))
    with server, run_of(tmp_path, server, "pro", answer="scores", explain=True) as made:
        made.run()
    page = render_report(made.run_dir)
    ranking = next(iter(read_rankings(made.run_dir.interaction(0).black_box).values()))
    assert ranking.reasons[0].text.startswith("I saw 4 of them")
    assert "I saw 4 of them" in page
    assert "why, where 1 is " in page
    assert "(10.000)" in page or "(9.000)" in page


def by_slot(body: Body) -> str:
    k = len(shown(body))
    return said(body, [[slot] for slot in range(k)], list(range(10, 10 - k, -1)))


def flat(body: Body) -> str:
    k = len(shown(body))
    return said(body, [list(range(k))], [5] * k)


@pytest.mark.parametrize(("judge", "stops"), [(by_slot, True), (flat, False)])
def test_the_watch_compares_scorings_as_it_compares_orders(tmp_path: Path, judge: Judge, stops: bool) -> None:
    """Of a judge that gives all the same score no order is made up, which would be that of the slots."""
    server = Loopback(judge=judge)
    with server, run_of(tmp_path, server, "pro", 40, answer="scores") as made:
        if stops:
            with pytest.raises(RunStopped, match="it answers by the slot"):
                made.run()
        else:
            made.run()
            assert {r.reverse for r in read_rankings(made.run_dir.interaction(0).black_box).values()} != {()}
