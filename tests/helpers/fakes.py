"""Parts of a cycle with no model in them, deterministic in their inputs, for tests of the loop itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclealign.config.schema import Config
from cyclealign.cycle.evaluator import Evaluator
from cyclealign.cycle.loop import Loop, Parts
from cyclealign.cycle.team import Team
from cyclealign.cycle.witness import ScoringWitness
from cyclealign.files.jsonl import write_json, write_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import prompt_record
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.types import (
    CanarySample,
    Candidate,
    CandidateSet,
    PolicyVersion,
    Prompt,
    RankContext,
    Ranking,
    RankingExample,
    TrainReport,
    Unranked,
    UnrankedReason,
    sha256_hex,
)


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the package may catch it."""


class Fuse:
    """Blows at the n-th step; None never."""

    def __init__(self, steps: int | None) -> None:
        self.left = steps

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class FakeGenerator:
    """K texts that depend on prompt, version and seed; streamed in reverse order."""

    def __init__(self, k: int, fuse: Fuse) -> None:
        self.k = k
        self.fuse = fuse
        self.versions: list[str] = []

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        self.versions.append(version.name)
        for prompt in reversed(prompts):
            self.fuse.step()
            texts = [sha256_hex([prompt.id, version.name, seed, i])[:8] for i in range(self.k)]
            yield CandidateSet(prompt, tuple(Candidate(str(i), t) for i, t in enumerate(texts)), self.k)

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        return CanarySample(prompt, (1, 2), (-0.5, -0.25))

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass


class FakeRanker:
    """Ranks by the text's hash; counts what it was asked."""

    gives = "magnitude"

    def __init__(self, fuse: Fuse, *, unranked: frozenset[str] = frozenset()) -> None:
        self.fuse = fuse
        self.asked: list[str] = []
        self.unranked = unranked
        self.reason: UnrankedReason = "unusable"

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            self.fuse.step()
            self.asked.append(f"{context.interaction}/{item.prompt.id}")
            context.demonstrations.select(item.prompt)
            if item.prompt.id in self.unranked:
                yield Unranked(item.prompt.id, self.reason, "no permutation", set_id=item.id)
                continue
            scores = {c.id: int(sha256_hex(c.text)[:6], 16) / 1e6 for c in item.candidates}
            yield Ranking.from_scores(item.prompt.id, scores, set_id=item.id)


class FakeTrainer(FakeRanker):
    """A white box whose weights are a number in a file: how many examples it was trained on, in order."""

    def __init__(self, fuse: Fuse, *, gap: float = 0.0) -> None:
        super().__init__(fuse)
        self.gap = gap
        self.weights = "start"
        self.fitted: list[RankingExample] = []

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        for item in sets:
            self.fuse.step()
            scores = {c.id: int(sha256_hex([c.text, self.weights])[:6], 16) / 1e6 for c in item.candidates}
            yield Ranking.from_scores(item.prompt.id, scores)

    def nll(self, pairs: Sequence[tuple[Prompt, Candidate]], *, start_model: bool = False) -> list[float]:
        assert start_model
        return [2.0 + len(reply.text) / 100 for _, reply in pairs]

    def canary_gap(self, sample: CanarySample) -> float:
        return self.gap

    def fit(self, examples: Sequence[RankingExample], *, start: Path | None, out: Path) -> TrainReport:
        before = (start / "adapter" / "weights").read_text() if start else "start"
        assert before == self.weights
        self.fuse.step()
        self.fitted += examples
        self.weights = sha256_hex([before, [e.prompt_id for e in examples], [e.teacher for e in examples]])
        (out / "adapter").mkdir(exist_ok=True)
        (out / "adapter" / "weights").write_text(self.weights)
        self.fuse.step()
        return TrainReport(len(examples), ({"loss": 1.0, "step": float(len(examples))},))

    def restore(self, checkpoint: Path | None) -> None:
        self.weights = (checkpoint / "adapter" / "weights").read_text() if checkpoint else "start"


class LengthScorer:
    def score(self, pairs: Sequence[tuple[tuple[object, ...], str]]) -> list[float]:
        return [float(int(sha256_hex(text)[:4], 16)) for _, text in pairs]


def prompts(n: int, tag: str = "p") -> tuple[Prompt, ...]:
    return tuple(Prompt(({"role": "user", "content": f"{tag} number {i}?"},)) for i in range(n))


def make_cycle(
    config: Config,
    *,
    fuse: Fuse | None = None,
    n_prompts: int = 10,
    eval_prompts: int = 4,
    unranked: frozenset[str] = frozenset(),
    gap: float = 0.0,
) -> Loop:
    """A cycle of fakes in ``config.run_dir``, made or taken up again."""
    fuse = fuse or Fuse(None)
    run = RunDir(config.run_dir)
    run.path.mkdir(parents=True, exist_ok=True)
    write_jsonl(run.prompts / "train.jsonl", [prompt_record(p) for p in prompts(n_prompts)])
    write_jsonl(run.prompts / "eval.jsonl", [prompt_record(p) for p in prompts(eval_prompts, "held out")])
    write_json(run.path / "config.json", config.model_dump(mode="json"))
    parts = Parts(
        generator=FakeGenerator(config.generator.candidates, fuse),
        black_box=FakeRanker(fuse, unranked=unranked),  # type: ignore[arg-type]
        white_box=FakeTrainer(fuse, gap=gap),
        pool=DemonstrationPool.start(config.demonstrations, static=()),
        evaluator=Evaluator(
            tuple(run.eval_prompts()), ScoringWitness("length", LengthScorer()), config.generator.chunk
        ),
        start_model="start-model",
    )
    return Loop(config, run, parts, Team(run.state_file, judge=config.black_box.judge, launch="test"))


def config_in(folder: Path, **sections: dict[str, Any]) -> Config:
    base: dict[str, Any] = {
        "name": "t",
        "output_dir": str(folder),
        "data": {"prompts": "unused"},
        "policy": {"dtype": "float32"},
        "generator": {"candidates": 4, "chunk": 3},
        "black_box": {"backend": "local"},
        "cycle": {"batch_size": 5, "max_interactions": 3, "scorer": "overlap"},
    }
    for key, value in sections.items():
        base[key] = {**base.get(key, {}), **value}
    return Config.model_validate(base)
