"""What pytest is told within a trial: which tests to run, and to watch which functions of the package each calls."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WATCHED = 2.0  # seconds; whatever a test calls later it has called by then


@dataclass
class Seen:
    """What one test did unchanged: how long it took, and the functions of the package that it called."""

    seconds: float = 0.0
    passed: bool = False
    processes: bool = False
    called: list[tuple[str, int]] = field(default_factory=list)


class Selection:
    """Runs these tests alone, in this order, and says which was the last one to begin, and how many there were."""

    def __init__(self, tests: Sequence[str], said: Path) -> None:
        self.place = {test: place for place, test in enumerate(tests)}
        self.said = said
        self.begun = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        def place(item: pytest.Item) -> int | None:
            return self.place.get(item.nodeid, self.place.get(item.nodeid.partition("[")[0]))

        items[:] = sorted((i for i in items if place(i) is not None), key=lambda i: place(i) or 0)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.begun += 1
        self.said.write_text(f"{self.begun} {nodeid}")


class Watch:
    """Which functions of the package each test calls. What a file calls while it is collected, or in its fixtures, is
    put to all of its tests."""

    def __init__(self, said: Path) -> None:
        self.said = said
        self.package = str(ROOT / "cyclealign")
        self.tests: dict[str, Seen] = {}
        self.calls: dict[str, set[tuple[str, int]]] = {}
        self.now: set[tuple[str, int]] = set()
        self.starts_process = False
        self.until, self.began = 0.0, (0.0, 0.0)
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: Any) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self.starts_process = True

    def _trace(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self.package):
            self.now.add((code.co_filename, code.co_firstlineno))
        if time.monotonic() > self.until:
            sys.settrace(None)

    def _watch(self, name: str) -> None:
        self.now = self.calls.setdefault(name, set())
        self.until = time.monotonic() + WATCHED
        self.began = time.monotonic(), time.process_time()
        sys.settrace(self._trace)
        threading.settrace(self._trace)

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if isinstance(collector, pytest.Module):
            self._watch(collector.nodeid)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._watch(item.nodeid.partition("::")[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.starts_process = False
        self._watch(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seen = self.tests.setdefault(report.nodeid, Seen())
        if report.when == "call":
            # Beside other work all takes longer, which is no reason to leave a test out.
            seen.seconds = max((time.monotonic() - self.began[0]) / 2, time.process_time() - self.began[1])
            seen.passed = report.passed
            seen.processes = self.starts_process

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        for test, seen in self.tests.items():
            called = self.calls.get(test, set()) | self.calls.get(test.partition("::")[0], set())
            seen.called = sorted((os.path.relpath(file, ROOT), line) for file, line in called)
        self.said.write_text(json.dumps({test: asdict(seen) for test, seen in self.tests.items()}))
