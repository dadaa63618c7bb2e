"""Memory and time of a training step over one list, by its candidates and by how many are held at once.

    python benchmarks/responses_at_once.py --out benchmarks/results/responses_at_once.json

The model and the lengths of ``cached_prefix.py``, RRHF, one list a step. ``responses_per_pass``: of the config. Each
arm is a process of its own, ``--repeats`` times in turns; peak: the kernel's high-water mark (VmHWM) in the first step,
less what was resident before it; seconds: the median over turns of the quickest of the next two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from cached_prefix import PROMPT, RESPONSE, batch_of, llama
from training_peers import Step, in_turns, ranked, timed

from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode
from cyclealign.losses import RRHF
from cyclealign.models.logprobs import Plan, token_logprobs

CANDIDATES = (2, 4, 8, 16)
AT_ONCE = (None, 4, 2)


def step_of(candidates: int, at_once: int | None) -> Step:
    model, batch = llama(lora=False, checkpointing=False), batch_of(candidates, 1, ragged=False)
    plan = Plan("cached_prefix", responses_per_pass=at_once)
    return lambda: ranked(RRHF(), token_logprobs(model, batch["lists"], plan), batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", type=json.loads, help="[candidates, at once]: measures that alone")
    asked = parser.parse_args()
    if asked.arm:
        print(json.dumps(timed(step_of(*asked.arm))))
        return
    arms = [(k, n) for k, n in itertools.product(CANDIDATES, AT_ONCE) if n is None or n < k]
    found = in_turns(__file__, {arm: ("--arm", json.dumps(arm)) for arm in arms}, asked.repeats)
    rows: list[dict[str, Any]] = [
        {
            "candidates": candidates,
            "at_once": at_once,
            "peak_bytes": statistics.median(f["peak_bytes"] for f in found[candidates, at_once]),
            "seconds": statistics.median(f["seconds"] for f in found[candidates, at_once]),
        }
        for candidates, at_once in arms
    ]
    for row in rows:
        held = row["at_once"] or "all"
        print(f"K={row['candidates']:2}, {held} at once: {row['peak_bytes'] / 2**20:5.0f} MiB, {row['seconds']:.2f} s")
    if asked.out:
        about = {"prompt": PROMPT, "response": RESPONSE, "threads": torch.get_num_threads()}
        write_json(asked.out, {**about, "rows": rows, "environment": encode(environment())})


if __name__ == "__main__":
    main()
