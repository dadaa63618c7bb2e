"""A run whose judge is asked in batches: an interaction's calls in one, the same verdicts, and what a status says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_server import BatchServer, Fate
from fakes import config_in, make_cycle
from loopback import JUDGES

from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_verdicts
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import RetryPolicy
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.reporting.status import read_status, status_lines

PROMPTS = 8


def run(folder: Path, watch: Callable[[int], Fate], **more: Any) -> tuple[RunDir, BatchServer]:
    with BatchServer(judge=JUDGES["hash"], fate=watch) as server:
        box = {"backend": "openai", "model": "m", "base_url": server.url, "min_consistency": None} | more
        config = config_in(folder, black_box=box, cycle={"batch_size": PROMPTS, "max_interactions": 2})
        with Ledger(folder / "t" / "ledger.sqlite") as ledger:
            cycle = make_cycle(config, n_prompts=PROMPTS)
            quick = RetryPolicy(first_wait=0.005, longest_wait=0.02)
            ranker = BlackBoxRanker(config.black_box, load_template("rank"), ledger, retry=quick)
            cycle.parts = replace(cycle.parts, black_box=ranker)
            cycle.run()
    return cycle.run_dir, server


def test_an_interaction_is_a_batch_and_its_verdicts_are_those_of_calls_one_by_one(tmp_path: Path) -> None:
    said: list[str] = []

    def watch(_: int) -> Fate:
        said.extend(status_lines(read_status(RunDir(tmp_path / "batch" / "t"))))
        return Fate()

    online, _ = run(tmp_path / "online", lambda _: Fate())
    found, server = run(tmp_path / "batch", watch, batch=True)
    lists = 0
    for one, other in zip(online.interactions(), found.interactions(), strict=True):
        assert dict(read_verdicts(one.black_box)) == dict(read_verdicts(other.black_box))
        lists += len(read_verdicts(other.black_box))
    # And one after each: what the ranker thinks of two new replies beside the start model's, for the witness's rule.
    assert len(server.batches) == 2 * len(found.interactions())
    pairs = 2 * len(found.interactions())
    assert len(server.batched) == 2 * lists + pairs  # a run's first lists are shown again, in reverse
    under_way = [line for line in said if line.startswith("batch: ")]
    assert "batch: batch_0 validating, 0 of 16 answered, made 0 s ago" in under_way
    assert not [line for line in status_lines(read_status(found)) if line.startswith("batch: ")]
