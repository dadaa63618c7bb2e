"""Memory of a run directory as its prompts grow: what start, status, report and the walk of a resume take at most.

    python benchmarks/run_scale.py [--prompts 100000] [--start 5000000] [--out benchmarks/results/run_scale.json]

Synthetic runs with an interaction for every thousand prompts, of four candidates each; every command is a process of
its own, and its peak is the kernel's. The start reads more prompts, from Parquet: made distinct, and put into a run
directory, without the rendering by a policy's template.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cyclealign.files.environment import environment
from cyclealign.files.records import encode
from cyclealign.files.run_records import prompt_record

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from report_run import hand_made_run, prompts, write_interaction  # noqa: E402  (found beside the tests)

FEW, BATCH, SOURCE, MOST_MORE = 1_000, 1_000, 100_000, 200
WALK = """
import sys
from pathlib import Path
from cyclealign.files.run_dir import RunDir
found = RunDir(Path(sys.argv[1])).train_prompts()
print(sum(len(found[first:first + 1000]) for first in range(0, len(found), 1000)))
"""
START = """
import sys
from pathlib import Path
from cyclealign.config.schema import DataConfig
from cyclealign.cycle.prompts import run_prompts
from cyclealign.files.run_dir import RunDir
folder = Path(sys.argv[1])
train, held_out = run_prompts(DataConfig(prompts=str(folder / "prompts.parquet"), limit=None), aside=folder)
RunDir(folder / "run").create("{}", train, held_out)
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


def source(path: Path, count: int) -> None:
    with pq.ParquetWriter(path / "prompts.parquet", pa.schema([("prompt", pa.string())])) as file:
        for first in range(0, count, SOURCE):
            numbers = range(first, min(first + SOURCE, count))
            file.write_table(pa.table({"prompt": [f"Question {n}: {'what of this, then? ' * 10}" for n in numbers]}))


def taken(where: Path, count: int, command: str, *rest: str) -> Taken:
    words = [word.replace("{run}", str(where)) for word in rest or COMMANDS[command]]
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    seconds = time.perf_counter() - began
    return Taken(prompts=count, command=command, seconds=round(seconds, 2), peak_mb=round(usage.ru_maxrss / 1024, 1))


@contextmanager
def made(maker: Callable[[Path, int], None], count: int, name: str = "") -> Iterator[Path]:
    """A directory with what ``maker`` makes in a process of its own: a child's peak begins at what its parent holds."""
    with tempfile.TemporaryDirectory() as folder:
        builder = get_context("spawn").Process(target=maker, args=(Path(folder) / name, count))
        builder.start()
        builder.join()
        assert builder.exitcode == 0
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/run_scale.json"))
    arguments = parser.parse_args()
    found, starts = [], []
    for count in (FEW, arguments.prompts):
        with made(built, count, "run") as folder:
            found += [taken(folder / "run", count, command) for command in COMMANDS]
    for count in (FEW, arguments.start):
        with made(source, count) as folder:
            starts.append(taken(folder, count, "start", "-c", START, "{run}"))
    small, large = [*found[: len(COMMANDS)], starts[0]], [*found[len(COMMANDS) :], starts[1]]
    for few, many in zip(small, large, strict=True):
        more = many.peak_mb - few.peak_mb
        print(f"{few.command}: {few.peak_mb} MB, {many.peak_mb} MB: {more:.0f} more, of {MOST_MORE} allowed")
    result = {"taken": [asdict(row) for row in (*found, *starts)], "environment": encode(environment())}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
