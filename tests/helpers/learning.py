"""What a test says of learning, by value; the share of its limit that it used is noted where a file is named."""

from __future__ import annotations

import os
from pathlib import Path


def assert_below(value: float, limit: float) -> None:
    """``value < limit``; "test<TAB>value / limit" goes to the file that ``CYCLEALIGN_ROOM`` names.

    What must rise is given turned round: an error rate, or the least rise and the rise. ``limit`` is positive.
    """
    if name := os.environ.get("CYCLEALIGN_ROOM"):
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        with Path(name).open("a") as file:
            file.write(f"{test}\t{value / limit if limit > 0 else float('inf')}\n")
    assert value < limit
