"""Changes that tests once let live are noticed; what a change is, by value. The long form is ``make mutants``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = ("reserved_money_at_resume", "control_tokens_in_fences", "rrhf_at_equality")  # one of each room


def test_changes_that_once_lived_are_noticed() -> None:
    command = [sys.executable, str(HERE / "mutants.py"), "--named", *QUICK]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed by") == len(QUICK)


SOURCE = '''"""Text with 1 < 2."""
LIMIT: int = 3


def f(a, b=2):
    """Not this: a < b."""
    if a < b and not a:
        raise ValueError(f"{a + 1} is no {'1'}")
    log.info("at 5")
    return min(a - b, key=abs)
'''


def test_what_a_change_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    from mutations import mutations

    (tmp_path / "m.py").write_text(SOURCE)
    found = mutations(tmp_path, "m.py")
    assert [(m.line, m.change) for m in found] == [
        (2, "3 -> 4"),
        (2, "3 -> 2"),
        (5, "2 -> 3"),
        (5, "2 -> 1"),
        (7, "a < b and not a -> not (a < b and not a)"),
        (7, "and -> or"),
        (7, "< -> <="),
        (7, "< -> >="),
        (7, "not a -> a"),
        (8, "raise ValueError(f\"{a + 1} is no {'1'}\") -> pass"),
        (10, "min(a - b, key=abs) -> None"),
        (10, "min -> max"),
        (10, "without key=abs"),
        (10, "- -> +"),
    ]
    assert {m.function for m in found if m.line > 5} == {(5, 10)}
    assert {m.function for m in found if m.line <= 5} == {None}
    boundary = next(m for m in found if m.change == "< -> <=")
    assert boundary.applied(SOURCE.encode()) == SOURCE.replace("if a < b", "if a <= b").encode()
    with pytest.raises(ValueError, match="expected '<'"):
        boundary.applied(b" " + SOURCE.encode())
