"""Memory of a run directory as its prompts grow: what status, report and the walk of a resume take at most.

    python benchmarks/run_scale.py [--prompts 100000] [--out benchmarks/results/run_scale.json]

Synthetic runs with an interaction for every thousand prompts, of four candidates each; every command is a process of
its own, and its peak is the kernel's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from cyclealign.files.environment import environment
from cyclealign.files.records import encode
from cyclealign.files.run_records import prompt_record

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from report_run import hand_made_run, prompts, write_interaction  # noqa: E402  (found beside the tests)

FEW, BATCH, MOST_MORE = 1_000, 1_000, 200
WALK = """
import sys
from pathlib import Path
from cyclealign.files.run_dir import RunDir
found = RunDir(Path(sys.argv[1])).train_prompts()
print(sum(len(found[first:first + 1000]) for first in range(0, len(found), 1000)))
"""
COMMANDS = {
    "status": ("-m", "cyclealign", "status", "{run}"),
    "report": ("-m", "cyclealign", "report", "{run}"),
    "walk": ("-c", WALK, "{run}"),
}


@dataclass(frozen=True, kw_only=True)
class Taken:
    prompts: int
    command: str
    seconds: float
    peak_mb: float


def built(path: Path, count: int) -> None:
    run = hand_made_run(path, n_train=10)
    draw, train = random.Random(1), prompts(count, "train")
    with (run.prompts / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(prompt_record(p), ensure_ascii=False) + "\n" for p in train)
    for number, first in enumerate(range(0, count, BATCH)):
        write_interaction(run, number, train[first : first + BATCH], 4, draw)


def taken(run: Path, count: int, command: str) -> Taken:
    words = [word.replace("{run}", str(run)) for word in COMMANDS[command]]
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    seconds = time.perf_counter() - began
    return Taken(prompts=count, command=command, seconds=round(seconds, 2), peak_mb=round(usage.ru_maxrss / 1024, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/run_scale.json"))
    arguments = parser.parse_args()
    found = []
    for count in (FEW, arguments.prompts):
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own: a child's peak begins at what its parent holds.
            builder = get_context("spawn").Process(target=built, args=(Path(folder) / "run", count))
            builder.start()
            builder.join()
            assert builder.exitcode == 0
            found += [taken(Path(folder) / "run", count, command) for command in COMMANDS]
    for small, large in zip(found[: len(COMMANDS)], found[len(COMMANDS) :], strict=True):
        more = large.peak_mb - small.peak_mb
        print(f"{small.command}: {small.peak_mb} MB, {large.peak_mb} MB: {more:.0f} more, of {MOST_MORE} allowed")
    result = {"taken": [asdict(row) for row in found], "environment": encode(environment())}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
