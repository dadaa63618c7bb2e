"""How much of the package is read by string keys: only what is truly someone else's, and a bound on it."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "cyclealign"
UNTYPED = re.compile(r"(?:dict|Mapping)\[str, Any\]")
MOST = 80


def test_few_mappings_are_untyped() -> None:
    found = {p.relative_to(PACKAGE): len(UNTYPED.findall(p.read_text(encoding="utf-8"))) for p in PACKAGE.rglob("*.py")}
    most = sorted(((n, str(path)) for path, n in found.items() if n), reverse=True)
    assert sum(found.values()) <= MOST, f"a record of ours is a frozen dataclass; most are in {most[:8]}"


def test_what_a_run_writes_is_typed_wherever_it_is_read() -> None:
    rooms = [*PACKAGE.glob("cycle/*.py"), *(p for p in PACKAGE.glob("reporting/*.py") if p.name != "eval_page.py")]
    raw = [p for p in rooms if UNTYPED.search(p.read_text(encoding="utf-8"))]
    assert {p.name for p in raw} <= {"forest.py", "eval_figures.py"}, "these draw the figures of result files"
    reading = re.compile(r"\bread_jsonl?\(")
    foreign = {p.name for p in rooms if reading.search(p.read_text(encoding="utf-8"))}
    assert foreign == {"tracking.py"}  # a Trainer's state
