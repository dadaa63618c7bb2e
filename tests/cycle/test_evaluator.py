"""What an evaluation asks the black box, and how its calls are filed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fakes import FakeGenerator, FakeTrainer, Fuse
from loopback import Loopback, prefers

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.cycle.evaluator import Evaluator
from cyclealign.cycle.team import Team
from cyclealign.files.jsonl import read_json
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import CandidateSet, Demonstration, PolicyVersion, Prompt, RankContext, Ranking, Unranked


class NoDemonstrations:
    def select(self, prompt: Prompt) -> Sequence[Demonstration]:
        return ()


class Labelled(FakeTrainer):
    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            yield Ranking.from_order(item.prompt.id, item.ids)


def test_labelled_pairs_are_paid_for_as_eval(tmp_path: Path) -> None:
    labelled = [
        Prompt(({"role": "user", "content": f"question {n}"},), chosen="long " * 9 + str(n), rejected="short")
        for n in range(3)
    ]
    context = RankContext(run="r", interaction=2, seed=1, demonstrations=NoDemonstrations())
    with Loopback(judge=prefers(len)) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        box = BlackBoxConfig(model="judge", base_url=server.url)
        ranker = BlackBoxRanker(box, load_template("rank"), ledger)
        team = Team(tmp_path / "state.json", judge="openai", launch="l")
        Evaluator(tuple(labelled), None, 8).evaluate(
            tmp_path / "e",
            None,
            FakeGenerator(2, Fuse(None)),
            ranker,
            Labelled(Fuse(None)),
            team=team,
            version=PolicyVersion("v", "base"),
            context=context,
            seed=1,
        )
        assert {k: (v.done, v.failed) for k, v in ledger.spend_by("purpose").items()} == {
            "eval": (3, 0),
            "probe": (1, 0),
        }
        assert set(ledger.spend_by("interaction")) == {None, 2}
    assert read_json(tmp_path / "e" / "metrics.json")["black_box_accuracy"] == {
        "accuracy": 1.0,
        "ranked": 3,
        "asked": 3,
    }
