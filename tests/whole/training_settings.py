"""Run the tests that assert learning under several numbers of threads, instruction sets and seeds: make test-settings.

A test passes with room to spare if it uses at most ``ROOM`` of every limit in every setting: rounding, which differs
between processors, moves the end of a training as another seed does. Prints one line a test, worst first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

ROOM = 0.7
SEEDS = 3
THREADS = ("1", "2")
INSTRUCTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "ATen avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}


def run(file: Path, more: list[str], **changes: str) -> tuple[int, str]:
    """pytest's exit code and its last lines."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "learns", "-p", "no:cacheprovider", *more]
    environment = {**os.environ, "CYCLEALIGN_ROOM": str(file), **changes}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, "".join(f"    {line}\n" for line in done.stdout.splitlines() if line.startswith("FAILED"))


def main(more: list[str]) -> int:
    worst: dict[str, tuple[float, str]] = {}
    failed = 0
    for threads, (name, isa), seed in product(THREADS, INSTRUCTIONS.items(), range(SEEDS)):
        setting = f"{threads} threads, {name}, seed +{seed}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "room")
            code, said = run(file, more, OMP_NUM_THREADS=threads, CYCLEALIGN_SEED_OFFSET=str(seed), **isa)
            rows = [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []
        failed += code != 0
        print(f"{setting}: {'passed' if code == 0 else f'exit code {code}'}\n{said}", end="", flush=True)
        for test, share in rows:
            worst[test] = max(worst.get(test, (0.0, "")), (float(share), setting))
    for test, (share, setting) in sorted(worst.items(), key=lambda item: -item[1][0]):
        print(f"{share:6.2f} of the limit  {test}  ({setting})")
    tight = sum(share > ROOM for share, _ in worst.values())
    print(f"{len(worst)} tests; {failed} settings with failures; {tight} tests with less room than {ROOM} of the limit")
    return int(bool(failed or tight or not worst))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
