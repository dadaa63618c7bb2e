"""The tables of docs/performance.md are those of the recorded results."""

from __future__ import annotations

import re

from performance_tables import PAGE, TABLES, page


def test_the_tables_are_those_of_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_table_has_its_place() -> None:
    assert re.findall(r"<!-- (\w+) -->\n\n\|", PAGE.read_text(encoding="utf-8")) == list(TABLES)
