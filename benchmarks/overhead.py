"""What an interaction takes that is cyclealign's own: journal, ledger, client, agreement, demonstrations, scheduling.

    python benchmarks/overhead.py [--prompts 128] [--out benchmarks/results/overhead.json]

The loop on the same prompts twice, one interaction, two passes, no evaluation. ``own``: lists are there at once, the
judge (a server on loopback, a process of its own) answers at once, the white box ranks and learns by a hash: what is
left is ours, and the way to the server and back. ``whole``: the packaged policy of 6M parameters samples, ranks and
learns, and the judge takes half a second a call, 32 at a time. A larger policy makes the share smaller.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from overlap import CANDIDATES, DELAY, SERVER, Paced, judge_server, one_interaction

from cyclealign.config.loading import load_config
from cyclealign.cycle.loop import Loop
from cyclealign.cycle.starting import Cycle
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode, read_records
from cyclealign.files.run_state import Timing

sys.path.insert(0, str(SERVER.parent))

from fakes import FakeTrainer, Fuse

AT_ONCE, MOST = 32, 0.03
Seconds = dict[str, float]  # by stage


def interaction(url: str, prompts: int, folder: Path, *, own: bool) -> Seconds:
    options = [
        *("black_box.backend=openai", f"black_box.base_url={url}", "black_box.model=judge", "black_box.passes=2"),
        *(f"black_box.max_concurrency={AT_ONCE}", f"cycle.batch_size={prompts}"),
        *one_interaction(prompts, folder),
    ]
    cycle = Cycle.from_config(load_config("quickstart", options))
    parts = cycle.parts
    if own:
        nothing = FakeTrainer(Fuse(None))
        parts = replace(parts, generator=Paced(parts.generator, 0.0), white_box=nothing, check_weights=lambda _: None)
    Loop(cycle.config, cycle.run_dir, parts, cycle.team).run()
    return {row.stage: row.seconds for row in read_records(Timing, cycle.run_dir.timings)}


def measured(prompts: int, *, own: bool) -> Seconds:
    with judge_server(0.0 if own else DELAY) as url, tempfile.TemporaryDirectory() as folder:
        return interaction(url, prompts, Path(folder), own=own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    asked = parser.parse_args()
    measured(asked.prompts, own=True)  # what is imported and compiled on the way
    own, whole = measured(asked.prompts, own=True), measured(asked.prompts, own=False)
    share = sum(own.values()) / sum(whole.values())
    print(f"own {own}\nwhole {whole}\nshare {share:.2%}, at most {MOST:.0%} wanted")
    about = {"prompts": asked.prompts, "candidates": CANDIDATES, "passes": 2, "delay_s": DELAY, "at_once": AT_ONCE}
    found = {"own_s": own, "whole_s": whole, "share": share, "own_ms_a_list": 1000 * sum(own.values()) / asked.prompts}
    write_json(asked.out, {**about, **found, "environment": encode(environment())})


if __name__ == "__main__":
    main()
