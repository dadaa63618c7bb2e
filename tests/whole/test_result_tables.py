"""Tables and curves of the pages on speed, scale and reproductions are those of the recorded results."""

from __future__ import annotations

import re

from result_tables import CURVES, PAGES, TABLES, gpt4_curves, page


def test_the_tables_are_those_of_the_results() -> None:
    for path in PAGES:
        assert path.read_text(encoding="utf-8") == page(path)
    assert CURVES.read_text(encoding="utf-8") == gpt4_curves()


def test_every_table_has_its_place() -> None:
    whole = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert re.findall(r"^ *<!-- (\w+) -->\n\n *\|", whole, re.MULTILINE) == list(TABLES)
