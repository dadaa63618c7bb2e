"""One test run in a forked child whose interpreter sees one file of the package changed; nothing is written beside it.

The parent has imported what is heavy and never the package, so a child costs what its tests cost. The change reaches
the processes that a test starts through ``MUTANT`` in the environment and a ``sitecustomize`` on their path.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutant_plugins import ROOT, Seen, Selection, Watch

MEMORY = 8 << 30  # bytes that a child may take beyond its parent
HEAVY = (
    "torch",
    "transformers",
    "hypothesis.extra.numpy",
    "openai",
    "pydantic",
    "jaxtyping",
    "beartype",
    "scipy.stats",
    "sentence_transformers.sentence_transformer.losses",
)
ONE_TEST = 30  # seconds; the slowest that is tried takes 5
MUTANT = "CYCLEALIGN_MUTANT"  # the changed text's file, a colon, the path of the file that it stands for
IN_CHILDREN = f"""
import os
if os.environ.get({MUTANT!r}):
    from importlib.machinery import SourceFileLoader as loader
    changed, path = os.environ[{MUTANT!r}].split(":", 1)
    read, stats = loader.get_data, loader.path_stats
    def get_data(self, name):
        return read(self, changed if str(name) == path else name)
    def path_stats(self, name):
        if str(name) == path:
            raise OSError("no bytecode of it is to be looked for, nor left behind")
        return stats(self, name)
    loader.get_data, loader.path_stats = get_data, path_stats
"""


@dataclass(frozen=True)
class Outcome:
    """killed: some test failed, or could not begin, or found no end. by: which. seconds: of CPU."""

    killed: bool
    by: str
    tests: int
    seconds: float


def prepare() -> None:
    """Import what the children would each import, and none of the package."""
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]  # of the tests that started this
    os.environ["OMP_NUM_THREADS"] = "1"
    # Bytecode of what is unchanged, the rewritten tests too, is made once for all children, beside the checkout.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir(), "bytecode-of-mutants"))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(Path(tempfile.gettempdir(), "hypothesis-of-mutants"))
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def watched(files: Sequence[str], folder: Path) -> dict[str, Seen]:
    """Every test of these files, as it is without a change."""
    said = folder / "watched.json"
    child = forked(_apart(lambda: _pytest([*files, "-q"], [Watch(said)], folder), folder / "watched.txt"))
    _ended(child, time.monotonic() + 1800)
    found = json.loads(said.read_text())
    return {test: Seen(**{**seen, "called": [(f, n) for f, n in seen["called"]]}) for test, seen in found.items()}


def tried(file: str, changed: bytes, tests: Sequence[str], limit: float) -> Outcome:
    """What these tests say of the package with ``changed`` as the text of ``file``. limit: seconds for all of them."""
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    try:
        return _tried(file, changed, tests, limit, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tried(file: str, changed: bytes, tests: Sequence[str], limit: float, folder: Path) -> Outcome:
    said = folder / "begun"
    (folder / "changed.py").write_bytes(changed)

    def child() -> int:
        (folder / "sitecustomize.py").write_text(IN_CHILDREN)
        os.environ[MUTANT] = f"{folder / 'changed.py'}:{ROOT / file}"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH"))))
        exec(IN_CHILDREN, {})
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        return _pytest([*files, "-x", "-q", f"--timeout={ONE_TEST}"], [Selection(tests, said)], folder)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = _ended(forked(_apart(child, folder / "output.txt")), time.monotonic() + limit)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    begun, _, last = said.read_text().partition(" ") if said.exists() else ("0", "", "import")
    if code in (3, 4, 5) or (code == 0 and int(begun) == 0):  # pytest's own trouble is no verdict on the mutant
        raise RuntimeError(f"{file}: pytest ended with {code}:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return Outcome(code != 0, "" if code == 0 else last, int(begun), round(seconds, 2))


def _pytest(arguments: Sequence[str], plugins: Collection[object], folder: Path) -> int:
    import hypothesis

    sys.path.insert(0, str(ROOT))  # whichever checkout is installed
    # Shrinking an example takes longer than finding it, and what was found before must not decide.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")
    plain = ["-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore:Module already imported"]
    drawn = ["--hypothesis-profile=mutants", "--hypothesis-seed=0", f"--basetemp={folder}/tmp"]
    return int(pytest.main([*arguments, *plain, *drawn], plugins=list(plugins)))


def forked(work: Callable[[], int]) -> int:
    """The id of a child that ends with what ``work`` gives."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        code = work()
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _apart(work: Callable[[], int], output: Path) -> Callable[[], int]:
    """``work`` in a group of its own, at the root of the checkout, with bounded memory and its words in a file."""

    def child() -> int:
        os.setsid()
        written = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(written, stream)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        os.chdir(ROOT)
        return work()

    return child


def _ended(child: int, deadline: float) -> int:
    """Exit code of a child; 124 where it was stopped. What it started ends with it."""
    wait, code = 0.01, None
    while code is None:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(wait)
            wait = min(0.1, 1.2 * wait)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return 124 if code < 0 else code
