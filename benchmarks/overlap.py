"""Whether generation and judging run at once: an interaction's wall time beside what its stages take alone.

    python benchmarks/overlap.py --out benchmarks/results/overlap.json

The loop itself, with the packaged policy as white box, on ``--prompts`` prompts of four candidates, one interaction, no
evaluation. Generation is paced: a list every so many seconds, as an engine on a GPU would give them, which takes none
of these cores. The judge is a server on loopback, a process of its own, that takes half a second a call, eight at a
time. Three ratios of the two. ``alone``: P lists at the pace of generation; the judge's calls on lists that are there
already, by the run's own client; what follows (white-box ranking, agreement, training) by the run's own timings.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cyclealign.config.loading import load_config
from cyclealign.cycle.loop import Loop
from cyclealign.cycle.starting import Cycle
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import encode, read_records
from cyclealign.files.run_state import Timing
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import (
    CanarySample,
    Candidate,
    CandidateSet,
    Generator,
    PolicyVersion,
    Prompt,
    RankContext,
    derive_seed,
)

CANDIDATES, DELAY, AT_ONCE = 4, 0.5, 8
RATIOS = (2.0, 1.0, 0.5)  # of the time that generation takes alone, to judging
WORDS = ("we", "had", "a", "long", "walk", "by", "the", "river", "then", "tea", "with", "bread", "before", "rain")
SERVER = Path(__file__).resolve().parents[1] / "tests" / "helpers" / "loopback.py"


class Paced:
    """Lists of made-up replies, one every ``pace`` seconds; what the loop asks of weights is the real generator's."""

    def __init__(self, real: Generator | None, pace: float) -> None:
        self._real = real
        self._pace = pace

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        for prompt in prompts:
            time.sleep(self._pace)
            source = random.Random(derive_seed(seed, prompt.id))
            texts = [" ".join(source.choices(WORDS, k=source.randint(8, 24))) for _ in range(CANDIDATES)]
            yield CandidateSet(prompt, tuple(Candidate(str(n), text) for n, text in enumerate(texts)))

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        assert self._real is not None
        return self._real.canary(prompt, version)

    def pause(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds. stage: of generation and judging together. following: what comes after them in the interaction."""

    generation: float
    judging: float
    stage: float
    following: float

    @property
    def stage_ratio(self) -> float:
        """Of the stage to the longer of both alone."""
        return self.stage / max(self.generation, self.judging)

    @property
    def ratio(self) -> float:
        """Of the interaction to that and what follows."""
        return (self.stage + self.following) / (max(self.generation, self.judging) + self.following)


def judging_alone(url: str, prompts: Sequence[Prompt], folder: Path) -> float:
    """Seconds of all calls, the lists being there."""
    config = load_config("quickstart", judge(url)).black_box
    sets = list(Paced(None, 0.0).generate(prompts, PolicyVersion("start", ""), seed=0))
    pool = DemonstrationPool.start(load_config("quickstart").demonstrations, template=load_template("rank"))
    context = RankContext(run="overlap", interaction=0, seed=0, demonstrations=pool)
    with Ledger(folder / "alone.sqlite") as ledger:
        began = time.monotonic()
        found = list(BlackBoxRanker(config, load_template("rank"), ledger).rank(sets, context))
    assert len(found) == len(prompts)
    return time.monotonic() - began


def judge(url: str) -> list[str]:
    about = ("backend=openai", f"base_url={url}", "model=judge", "passes=1", f"max_concurrency={AT_ONCE}")
    return [f"black_box.{one}" for one in about]


def one_interaction(prompts: int, folder: Path) -> list[str]:
    """Keys of a run of one interaction without evaluation."""
    return [
        f"output_dir={folder}",
        f"data.limit={prompts}",
        f"generator.candidates={CANDIDATES}",
        "cycle.scorer=null",
        "drift.keep=last",
        "cycle.max_interactions=1",
        "data.eval_prompts=null",
    ]


@contextmanager
def judge_server(delay: float) -> Iterator[str]:
    """Address of a judge in a process of its own, which takes ``delay`` seconds a call."""
    command = [sys.executable, str(SERVER), "--judge", "length", "--delay", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.terminate()


def interaction(url: str, prompts: int, pace: float, folder: Path) -> tuple[float, float]:
    """Seconds of generation and judging together, and of what follows."""
    cycle = Cycle.from_config(load_config("quickstart", [*judge(url), *one_interaction(prompts, folder)]))
    run = cycle.run_dir
    paced = Paced(cycle.parts.generator, pace)
    Loop(cycle.config, run, replace(cycle.parts, generator=paced), cycle.team).run()
    took = {row.stage: row.seconds for row in read_records(Timing, run.timings) if row.stage != "evaluate"}
    return took.pop("generate_and_rank"), sum(took.values())


def measured(url: str, prompts: int, ratio: float, folder: Path) -> Took:
    given = load_prompts("builtin:openers-train")[:prompts]
    alone = judging_alone(url, given, folder)
    stage, following = interaction(url, prompts, ratio * alone / prompts, folder / "runs")
    return Took(generation=ratio * alone, judging=alone, stage=stage, following=following)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prompts", type=int, default=128)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with judge_server(DELAY) as url:
        for ratio in RATIOS:
            with tempfile.TemporaryDirectory() as folder:
                took = measured(url, asked.prompts, ratio, Path(folder))
            ratios = {"stage_ratio": took.stage_ratio, "ratio": took.ratio}
            rows.append({"generation_over_judging": ratio, **asdict(took), **ratios})
            print({name: round(value, 2) for name, value in rows[-1].items()}, flush=True)
    about = {"prompts": asked.prompts, "candidates": CANDIDATES, "delay_s": DELAY, "at_once": AT_ONCE}
    if asked.out:
        write_json(asked.out, {**about, "rows": rows, "environment": encode(environment())})


if __name__ == "__main__":
    main()
