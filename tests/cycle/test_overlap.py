"""Judging begins while a chunk is still being sampled."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from asking import CONTEXT, asking
from fakes import prompts
from loopback import Body, Fault, Loopback

from cyclealign.cycle.interaction import Interaction, unranked_sets
from cyclealign.files.run_dir import InteractionDir
from cyclealign.files.run_records import read_sets
from cyclealign.types import Candidate, CandidateSet, PolicyVersion, Prompt

LISTS = 20


class Paced:
    """Finishes a chunk's lists one by one: a list of the second half only once the first verdict was asked for."""

    def __init__(self, asked: threading.Event) -> None:
        self.asked = asked
        self.finished = 0

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        for number, prompt in enumerate(prompts):
            if number >= LISTS // 5:
                assert self.asked.wait(20), "a fifth of the chunk is finished, and nobody has been asked"
            self.finished += 1
            yield CandidateSet(prompt, (Candidate("0", f"short {number}"), Candidate("1", f"a longer one {number}")), 2)


def test_the_first_verdict_is_asked_before_a_fifth_of_the_chunk_is_finished(tmp_path: Path) -> None:
    asked = threading.Event()
    seen: list[tuple[int, int]] = []
    generator = Paced(asked)
    it = Interaction(0, 0, 0, prompts(LISTS), InteractionDir(tmp_path / "it"))

    def look(_: int, body: Body) -> Fault | None:
        if "a longer one" in str(body):  # not the tiny calls that find out what a server takes
            seen.append((generator.finished, len(read_sets(it.files.candidates))))
            asked.set()
        return None

    with Loopback(script=look) as server, asking(tmp_path / "ledger.sqlite", server) as ranker:
        sets = unranked_sets(it, generator, PolicyVersion("v", "start"), chunk=LISTS, seed=1)  # type: ignore[arg-type]
        verdicts = list(ranker.rank(sets, CONTEXT))
    assert len(verdicts) == LISTS
    finished, on_disk = seen[0]
    assert finished <= LISTS // 5
    assert on_disk >= 1  # a set is on disk before it is judged
