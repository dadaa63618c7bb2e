"""Which modules are changed, and the tests of their rooms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import chain

from mutant_plugins import ROOT


@dataclass(frozen=True)
class Room:
    """modules: patterns under ``cyclealign/``. tests: patterns under ``tests/``."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self) -> list[str]:
        found = chain.from_iterable(sorted(ROOT.glob(f"cyclealign/{pattern}")) for pattern in self.modules)
        return [str(path.relative_to(ROOT)) for path in found]

    def test_files(self) -> list[str]:
        found = chain.from_iterable(sorted(ROOT.glob(f"tests/{pattern}")) for pattern in self.tests)
        return [str(path.relative_to(ROOT)) for path in found if path.name != "test_soak.py"]


@cache
def digest(files: tuple[str, ...]) -> str:
    return hashlib.sha256(b"\0".join((ROOT / file).read_bytes() for file in files)).hexdigest()[:16]


JUDGE = (
    "prompting",
    "template",
    "replies",
    "thinking",
    "ledger",
    "ledger_tables",
    "ledger_totals",
    "money",
    "costs",
    "limits",
    "demonstrations",
    "demonstration_files",
)
ROOMS = (
    Room("losses", ("losses/*.py",), ("losses/test_*.py", "training/test_own_loss.py")),
    Room("rankers", ("rankers/agreement.py", "rankers/chance.py", "rankers/consensus.py"), ("rankers/test_*.py",)),
    Room(
        "judge",
        tuple(f"judge/{name}.py" for name in JUDGE),
        (
            "judge/test_*.py",
            "curation/test_*.py",
            "rankers/test_answers.py",
            "rankers/test_black_box.py",
            "rankers/test_faulty_judges.py",
        ),
    ),
)
