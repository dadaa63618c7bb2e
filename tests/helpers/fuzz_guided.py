"""The fuzz targets under atheris, which is guided by the lines that an input reaches.

    python tests/helpers/fuzz_guided.py FOLDER [SECONDS] [TARGET ...]
    python tests/helpers/fuzz_guided.py --keep FOLDER [TARGET ...]

Runs each target for SECONDS (600) in all, in slices that a kill loses at most one of: FOLDER keeps the corpora, the
inputs that broke a promise, and ``results.json``, and a second start goes on with what is left. One process, one core.
``--keep`` puts the smallest inputs that reach more than the seeds do, those that broke a promise, and the figures into
``tests/fuzz``.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_targets import CORPORA, NAMES, corpus, name_of, target
from fuzzing import SECONDS, Target, held

SLICE = 60  # seconds
LONGEST = 4096  # bytes of an input
ROOM = 30_000  # bytes of a corpus in the repository
SLOWER = 5  # times that instrumented code may take
EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True)
class Fuzzed:
    """What came of one target. ``new``: inputs that reached more than the kept corpus; ``broken``: places in the code
    at which a promise broke."""

    executions: int = 0
    seconds: float = 0.0
    new: int = 0
    broken: int = 0


def fuzz(folder: Path, name: str, seconds: float) -> Fuzzed:
    """Run a target for what is left of ``seconds``."""
    done = results(folder).get(name, Fuzzed())
    found = folder / name / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    for data in corpus(name):
        (found / name_of(data)).write_bytes(data)
    while done.seconds < seconds - 1:
        began = time.monotonic()
        executions = _slice(folder / name, name, round(min(SLICE, seconds - done.seconds)))
        known = {name_of(data) for data in corpus(name)}
        done = Fuzzed(
            executions=done.executions + executions,
            seconds=round(done.seconds + time.monotonic() - began, 1),
            new=len({path.name[:16] for path in found.iterdir()} - known),
            broken=len(list((folder / name).glob("broken-*.txt"))),
        )
        _write(folder, results(folder) | {name: done})
        print(name, asdict(done), flush=True)
    return done


def results(folder: Path) -> dict[str, Fuzzed]:
    file = folder / "results.json"
    return {k: Fuzzed(**v) for k, v in json.loads(file.read_text()).items()} if file.exists() else {}


def _write(folder: Path, found: dict[str, Fuzzed]) -> None:
    file = folder / "results.json"
    file.with_suffix(".new").write_text(json.dumps({k: asdict(v) for k, v in found.items()}, indent=2) + "\n")
    file.with_suffix(".new").replace(file)


def _slice(folder: Path, name: str, seconds: int) -> int:
    """The number of executions of one process. What ends it is a finding too: no input may kill or hang the reader."""
    flags = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=60", "-rss_limit_mb=6000"]
    flags += ["-print_final_stats=1", f"-artifact_prefix={folder}/", str(folder / "corpus")]
    command = [sys.executable, __file__, "--one", str(folder), name, *flags]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    executed = EXECUTIONS.search(done.stderr)
    if done.returncode != 0 or executed is None:
        (folder / f"broken-process-{time.time():.0f}.txt").write_text(done.stderr[-20_000:])
    return int(executed[1]) if executed else 0


def _one(folder: Path, name: str, flags: list[str]) -> None:
    """The process of a slice: everything that it finds is written down, and it goes on."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["cyclealign"], enable_loader_override=False):
        check = target(name)

    def once(data: bytes) -> None:
        try:
            held(check, data, seconds=SLOWER * SECONDS)
        except Exception as error:
            _note(folder, data, error)

    atheris.Setup(["fuzz", *flags], once)
    atheris.Fuzz()


def _note(folder: Path, data: bytes, error: Exception) -> None:
    """One input for each place at which a promise breaks."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/cyclealign/" in f.filename] or [None]
    place = frames[-1]
    where = f"{Path(place.filename).stem}-{place.lineno}" if place else str(error)[:30]
    key = re.sub(r"\W+", "-", f"{type(error).__name__}-{where}")
    file = folder / f"broken-{key}.txt"
    if not file.exists():
        file.with_suffix(".bin").write_bytes(data)
        file.write_text("".join(traceback.format_exception(error))[-8000:], errors="backslashreplace")


# What is kept -------------------------------------------------------------------------------------------------


def keep(folder: Path, *names: str) -> None:
    """The repository's corpora and figures, from a folder's."""
    logging.disable(logging.CRITICAL)
    for name in names or NAMES:
        check, kept = target(name), CORPORA / name
        reached = {step for data in corpus(name) for step in _steps(check, data)}
        kept.mkdir(parents=True, exist_ok=True)
        room = ROOM - sum(path.stat().st_size for path in kept.iterdir())
        broken = sorted((folder / name).glob("broken-*.bin"))
        for path in (*broken, *sorted((folder / name / "corpus").iterdir(), key=lambda p: p.stat().st_size)):
            data = path.read_bytes()
            steps = _steps(check, data)
            if len(data) <= room and (path in broken or not steps <= reached):
                (kept / name_of(data)).write_bytes(data)
                room, reached = room - len(data), reached | steps
    _write(CORPORA.parent, results(folder))


def _steps(check: Target, data: bytes) -> set[tuple[str, int, int]]:
    """From which line to which one the package's code goes for an input."""
    found: set[tuple[str, int, int]] = set()

    def trace(frame: FrameType, _: str, __: object) -> Any:
        name = frame.f_code.co_filename
        if "/cyclealign/" not in name:
            return None
        last = [frame.f_lineno]

        def line(frame: FrameType, _: str, __: object) -> Any:
            found.add((name, last[0], frame.f_lineno))
            last[0] = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        check(data)
    except Exception as error:
        print(f"still broken: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.settrace(None)
    return found


def main(folder: Path, seconds: float = 600, *names: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    found = [fuzz(folder, name, float(seconds)) for name in names or NAMES]
    return int(any(f.broken for f in found))


if __name__ == "__main__":
    if sys.argv[1] == "--keep":
        sys.exit(keep(Path(sys.argv[2]), *sys.argv[3:]))
    if sys.argv[1] == "--one":
        _one(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    sys.exit(main(Path(sys.argv[1]), *map(float, sys.argv[2:3]), *sys.argv[3:]))
